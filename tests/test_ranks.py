"""Several learners: what one would learn, whatever they hold; and what happens when one of them is gone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

import torch
from hypothesis import given
from hypothesis import strategies as some
from toy_cases import case, gpt2
from toy_runs import tiny
from toys import tiny_model, tokenizer

from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses import PPOClip, ValueLoss
from agentrl.algorithms.regularizers import KL
from agentrl.console import Progress
from agentrl.errors import ConfigError
from agentrl.learning import lora
from agentrl.learning.critic import Critic, Prompts
from agentrl.learning.learner import Learner, OptimizerSettings
from agentrl.learning.ranks import Ranks
from agentrl.learning.team import Team, shares

pytestmark = pytest.mark.xdist_group("ranks")

MOVING = OptimizerSettings(lr=1e-2, max_grad_norm=0.5)
QUIET = Progress()


@dataclass(frozen=True)
class Whole:
    """A loss that no sum over tokens can express."""

    scope: str = "update"
    reads = ("logp", "entropy", "advantage")

    def __call__(self, inputs: LossInputs) -> Any:
        weight = (inputs.advantage * inputs.logp).logsumexp(0)
        return weight * (inputs.require("entropy") * inputs.column("n_tokens")).mean() + inputs.logp.std()


@dataclass(frozen=True)
class Halves:
    """A token weight that leaves out what is less likely than the others."""

    reads = ("logp",)

    def __call__(self, inputs: LossInputs) -> Any:
        return torch.full_like(inputs.logp, 0.5), inputs.logp > inputs.logp.median()


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def team(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    with Ranks(2, request.param, device="cpu", threads=2) as made:
        yield made
    assert all(not other.link.alive() for other in made._others)


# ── who computes what ────────────────────────────────────────────────────────────────────────────────────────────────


@given(some.lists(some.integers(1, 99), max_size=30), some.integers(1, 5))
def test_every_sequence_has_one_rank_and_no_rank_much_more_than_another(lengths: list[int], n: int) -> None:
    parts = shares(lengths, n)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths))) and len(parts) == n
    loads = [sum(lengths[index] for index in part) for part in parts]
    assert max(loads) - min(loads) <= max(lengths, default=0)


@given(some.lists(some.integers(1, 99), max_size=30), some.integers(1, 5), some.integers(1, 300))
def test_sharded_ranks_have_equally_many_micro_batches(lengths: list[int], n: int, token_budget: int) -> None:
    found = [list(Team(rank, n, "fsdp2").batches(lengths, token_budget)) for rank in range(n)]
    assert len({len(batches) for batches in found}) == 1
    assert sorted(i for batches in found for rows in batches for (i,) in rows) == list(range(len(lengths)))
    plain = [list(Team(rank, n).batches(lengths, token_budget)) for rank in range(n)]
    assert all(batch for batches in plain for batch in batches)


# ── the same update ──────────────────────────────────────────────────────────────────────────────────────────────────


def pair(team: Ranks, model: Any, **changes: Any) -> tuple[Learner, Learner]:
    """A learner alone and one of a team, equal."""
    fields = {"loss": PPOClip(), "settings": MOVING, "token_budget": 30, **changes}
    return Learner(model=copy.deepcopy(model), **fields), team.make(Learner, model=copy.deepcopy(model), **fields)


def updated(learner: Learner, chosen: Any = None, n: int = 1, size: int = 5) -> tuple[dict[str, float], np.ndarray]:
    """Metrics of the last of ``n`` updates, and the first moments of the gradients, which are sums of them."""
    made, found = case(n=size), {}
    for _ in range(n):
        data = learner.prepare(made.samples, made.advantages, made.table)
        found = learner.update(made.samples, data, made.table, chosen)
    state = learner.state_dict()["optimizer"]["state"]
    return found, np.concatenate([state[index]["exp_avg"].double().flatten() for index in sorted(state)])


METHODS = {
    "token": {"loss": PPOClip(aggregate="sequence_mean"), "regularizers": [KL(coef=0.1)], "with_reference": True},
    "group": {"loss": Whole("group")},
    "update": {"loss": PPOClip(), "regularizers": [Whole()]},
    "weighted": {"loss": PPOClip(), "token_weights": [Halves()]},
    "packed": {"loss": PPOClip(), "packing": True},
    "checkpointed": {"loss": PPOClip(), "chunk": 3, "gradient_checkpointing": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("methods", METHODS)
@pytest.mark.parametrize("chosen", [None, [3], [4, 0, 2]])
def test_float64_updates_are_those_of_one_learner(team: Ranks, methods: str, chosen: Any) -> None:
    alone, together = pair(team, gpt2("float64"), **METHODS[methods])
    expected, moments = updated(alone, chosen)
    found, other = updated(together, chosen)
    assert np.abs(moments).max() > 1e-3
    np.testing.assert_allclose(other, moments, rtol=0, atol=1e-9)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_three_updates_in_float32_and_what_the_model_is_then(team: Ranks) -> None:
    """Tied embeddings, whose gradient comes from both ends; a sampler's model that is brought up to date."""
    alone, together = pair(team, tiny_model(tokenizer()), with_reference=True, regularizers=[KL(coef=0.1)])
    expected, moments = updated(alone, n=3, size=7)
    found, other = updated(together, n=3, size=7)
    np.testing.assert_allclose(other, moments, rtol=0, atol=1e-4 * np.abs(moments).max())
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    n_bytes = together.gather()
    weights = dict(together.whole.named_parameters())
    assert n_bytes == (sum(weight.nbytes for weight in weights.values()) if together.team.sharded else 0)
    for name, weight in alone.model.named_parameters():
        np.testing.assert_allclose(weights[name].detach(), weight.detach(), rtol=0, atol=2e-3)
    assert together.n_trained == alone.n_trained and together.n_updates == 3


@pytest.mark.slow
def test_bfloat16_weights_have_masters(team: Ranks) -> None:
    alone, together = pair(team, tiny_model(tokenizer(), dtype="bfloat16"))
    expected, moments = updated(alone)
    found, other = updated(together)
    assert found["loss"] == pytest.approx(expected["loss"], abs=2e-3)
    assert float(np.dot(other, moments) / np.linalg.norm(other) / np.linalg.norm(moments)) > 0.999
    masters = together.state_dict()["masters"]
    assert {master.dtype for master in masters} == {torch.float32}
    assert [m.shape for m in masters] == [m.shape for m in alone.state_dict()["masters"]]


@pytest.mark.slow
def test_an_adapter_is_trained_by_several(team: Ranks) -> None:
    if team.sharded:
        pytest.skip("refused by the run file's check")
    fields = {"rank": 2, "alpha": 4.0, "targets": "all-linear", "base": "", "seed": 0}
    alone, together = pair(team, lora.add_adapter(gpt2("float64"), **fields), with_reference=True)
    (_, moments), (_, other) = updated(alone, n=2), updated(together, n=2)
    np.testing.assert_allclose(other, moments, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_critic_is_trained_by_several(team: Ranks) -> None:
    prompts = Prompts.of(case(n=5).trajectories)
    rng = np.random.default_rng(3)
    old, returns = rng.normal(size=(2, len(prompts.row)))
    fields = {"policy": gpt2("float64"), "loss": ValueLoss(), "settings": MOVING, "token_budget": 30}
    alone, together = Critic(**fields), team.make(Critic, **fields)
    for chosen in (list(range(len(prompts.histories))), [1]):
        expected, found = (c.update(prompts, old, returns, chosen) for c in (alone, together))
        assert found == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(together.values(prompts), alone.values(prompts), rtol=0, atol=1e-9)
    again = Critic(**fields)
    again.load_state_dict(together.state_dict())
    np.testing.assert_allclose(again.values(prompts), alone.values(prompts), rtol=0, atol=1e-9)
    together.load_state_dict(again.state_dict())
    np.testing.assert_allclose(together.values(prompts), alone.values(prompts), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_state_goes_on_with_another_number_of_learners(team: Ranks) -> None:
    alone, together = pair(team, gpt2("float64"))
    updated(alone)
    state = copy.deepcopy(alone.state_dict())
    together.whole.load_state_dict(alone.model.state_dict())
    together.load_state_dict(copy.deepcopy(state))
    (expected, moments), (found, other) = updated(alone), updated(together)
    assert found == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(other, moments, rtol=0, atol=1e-9)
    third = Learner(model=copy.deepcopy(alone.model), loss=PPOClip(), settings=MOVING, token_budget=30)
    third.load_state_dict(copy.deepcopy(together.state_dict()))
    assert updated(third)[0] == pytest.approx(updated(alone)[0], abs=1e-9)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_changes_nothing_anywhere(team: Ranks) -> None:
    _, learner = pair(team, gpt2("float64"))
    made = case()
    data = learner.prepare(made.samples, made.advantages, made.table)
    good, data.advantage = data.advantage, data.advantage.copy()
    data.advantage[3] = np.nan
    with pytest.raises(FloatingPointError, match="nothing was changed"):
        learner.update(made.samples, data, made.table)
    data.advantage = good
    assert np.isfinite(learner.update(made.samples, data, made.table)["loss"]) and learner.n_updates == 1


@pytest.mark.slow
def test_a_method_that_cannot_travel_is_refused(team: Ranks) -> None:
    class Local(PPOClip):
        pass

    with pytest.raises(ConfigError, match="define it in a module"):
        team.make(Learner, model=gpt2("float64"), loss=Local())
    with pytest.raises(ConfigError, match="already"):
        Ranks(2, "ddp", device="cpu", threads=2)


def test_what_cannot_be_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='use "ddp" with model'):
        tiny(tmp_path, "model={path='x',lora={}}", "resources={learners=2,sharding='fsdp2'}")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch sees 0 CUDA devices"):
            Ranks(2, "ddp", device="cuda", threads=2)
