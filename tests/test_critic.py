"""The critic: what it reads, one gradient whatever the machine, what it learns, and whole runs with it."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch
from toy_cases import case, gpt2, gradient_of
from toy_runs import assert_same_run, cut, metrics, run_file, tiny
from toys import tiny_model, tokenizer

from agentrl import build, config
from agentrl.algorithms import TurnTable
from agentrl.algorithms.credit import TurnGAE
from agentrl.algorithms.losses import ValueLoss
from agentrl.cli import main
from agentrl.console import Progress
from agentrl.errors import CheckpointError
from agentrl.explain import overview
from agentrl.learning import lora
from agentrl.learning.critic import Critic, Prompts, explained_variance
from agentrl.learning.optimizer import OptimizerSettings
from agentrl.store import read_trajectories
from agentrl.trainer import train
from agentrl.types import Call, Task, Trajectory, Turn

STILL = OptimizerSettings(lr=0.0, max_grad_norm=1e9)


def critic(dtype: str = "float64", **changes: Any) -> Critic:
    """A critic whose head is not zero, so that its body has a gradient."""
    made = Critic(policy=gpt2(dtype), **{"loss": ValueLoss(), "settings": STILL, **changes})
    with torch.no_grad():
        made.model.head.weight += torch.sin(torch.arange(16.0)).to(made.model.head.weight)
        made.model.head.bias += 0.25
    return made


def targets(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """Old values and returns, so that some values are clipped and some are not."""
    rng = np.random.default_rng(3)
    return rng.normal(size=len(prompts.row)), rng.normal(size=len(prompts.row))


# ── what it reads ────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(*prompts: list[int] | None, role: str = "agent", trainable: bool = True) -> Trajectory:
    turns = [Turn("o", calls=[Call(role, p, [7], trainable=trainable)] if p is not None else []) for p in prompts]
    return Trajectory("t", "toy", Task("a"), turns=turns)


def test_a_prompt_that_extends_the_last_one_joins_its_history() -> None:
    prompts = Prompts.of([asked([1, 2], [1, 2, 7, 3], [5]), asked([1, 2])])
    assert [history.tolist() for history in prompts.histories] == [[1, 2, 7, 3], [5], [1, 2]]
    assert prompts.sequence.tolist() == [0, 0, 1, 2] and prompts.position.tolist() == [1, 3, 0, 1]
    assert prompts.row.tolist() == [0, 1, 2, 3] and prompts.trajectory.tolist() == [0, 0, 0, 1]
    assert prompts.places_of([2, 0]).tolist() == [3, 0, 1] and prompts.places_of([]).tolist() == []


def test_two_roles_have_histories_of_their_own() -> None:
    turns = [Turn("o", calls=[Call(role, ids, [7])]) for role, ids in [("a", [1]), ("b", [2]), ("a", [1, 3])]]
    prompts = Prompts.of([Trajectory("t", "toy", Task("a"), turns=turns)])
    assert [history.tolist() for history in prompts.histories] == [[1, 3], [2]]
    assert prompts.row.tolist() == [0, 2, 1] and prompts.by_turn(np.array([1.0, 3.0, 2.0])).tolist() == [1, 2, 3]


def test_a_turn_in_which_the_policy_was_not_asked_has_the_value_of_the_next() -> None:
    prompts = Prompts.of([asked([1], None, None, [2], None), asked(None), asked([3], trainable=False), asked([4])])
    assert prompts.by_turn(np.array([0.5, 0.25, 0.75])).tolist() == [0.5, 0.25, 0.25, 0.25, 0, 0, 0, 0.75]
    nothing = Prompts.of([])
    assert nothing.by_turn(np.zeros(0)).tolist() == [] and len(nothing.row) == 0


@pytest.mark.parametrize("token_budget", [1, 40, 10**6])
def test_a_value_is_that_of_the_prompt_alone(token_budget: int) -> None:
    """Each prompt by itself, through the model's own layers: what was sampled afterwards changes nothing."""
    given, made = case(), critic(token_budget=token_budget)
    prompts = Prompts.of(given.trajectories)
    assert len(prompts.histories) < len(prompts.row)  # both memories are there
    values = prompts.by_turn(made.values(prompts))
    turns = [turn for trajectory in given.trajectories for turn in trajectory.turns]
    for turn, value in zip(turns, values, strict=True):
        with torch.no_grad():
            hidden = made.model.body(input_ids=torch.tensor([turn.calls[0].prompt_ids])).last_hidden_state[0, -1]
            expected = float(hidden @ made.model.head.weight[0] + 0.25)
        assert value == pytest.approx(expected, abs=1e-9)


def test_it_begins_at_zero_and_leaves_the_policy_alone() -> None:
    policy, given = gpt2("float32"), case()
    before = copy.deepcopy(policy.state_dict())
    made = Critic(policy=policy, loss=ValueLoss(clip=None), settings=OptimizerSettings(lr=1e-2))
    prompts = Prompts.of(given.trajectories)
    assert not made.values(prompts).any()
    _, returns = targets(prompts)
    first = made.update(prompts, np.zeros(len(returns)), returns, range(len(prompts.histories)))
    assert first["value/loss"] == pytest.approx(float((returns**2).mean() / 2), rel=1e-5)
    assert made.values(prompts).any()
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_of_a_policy_with_an_adapter_it_is_a_whole_model() -> None:
    plain = tiny_model(tokenizer())
    policy = lora.add_adapter(copy.deepcopy(plain), rank=2, alpha=4.0, targets="all-linear", base="x", seed=0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_B." in name:
                parameter += 0.3
    merged = lora.merged(copy.deepcopy(policy))
    made, expected = (Critic(policy=model, loss=ValueLoss(), settings=STILL) for model in (policy, merged))
    for each in (made, expected):
        torch.nn.init.ones_(each.model.head.weight)
    prompts = Prompts.of(case().trajectories)
    np.testing.assert_allclose(made.values(prompts), expected.values(prompts), rtol=1e-4, atol=1e-4)
    assert lora.has_adapter(policy) and not any("lora" in name for name, _ in made.model.named_parameters())
    assert all(parameter.requires_grad for parameter in made.model.parameters())


# ── the gradient ─────────────────────────────────────────────────────────────────────────────────────────────────────


def gradient(chosen: Any = None, **changes: Any) -> tuple[float, np.ndarray]:
    made, prompts = critic(**changes), Prompts.of(case().trajectories)
    steps: list[np.ndarray] = []
    step = made.optimizer.step
    made.optimizer.step = lambda: (steps.append(gradient_of(made.model)), step())  # it is gone after the update
    loss = made.update(prompts, *targets(prompts), range(len(prompts.histories)) if chosen is None else chosen)
    return loss["value/loss"], steps[0]


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "trajectory_mean"])
def test_gradients_are_equal_whatever_the_split_and_the_order(aggregate: Any) -> None:
    loss, reference = gradient(loss=ValueLoss(aggregate=aggregate))
    n = len(Prompts.of(case().trajectories).histories)
    assert np.abs(reference).max() > 0.01
    variants = [{"token_budget": 1}, {"token_budget": 30}, {"chosen": range(n)[::-1], "token_budget": 47}]
    for changes in variants:
        other_loss, other = gradient(loss=ValueLoss(aggregate=aggregate), **changes)
        assert abs(other_loss - loss) < 1e-9
        np.testing.assert_allclose(other, reference, rtol=0, atol=1e-9)


@pytest.mark.parametrize("chosen", [None, [0, 3]])
def test_it_is_the_gradient_of_the_formula(chosen: Any) -> None:
    loss, found = gradient(chosen, token_budget=30)
    made, prompts = critic(), Prompts.of(case().trajectories)
    old, returns = targets(prompts)
    places = [place for place, s in enumerate(prompts.sequence) if chosen is None or s in chosen]
    total = torch.zeros((), dtype=torch.float64)
    for place in places:
        ids = torch.tensor(prompts.histories[prompts.sequence[place]])[None]
        value = made.model.head(made.model.body(input_ids=ids).last_hidden_state[0, prompts.position[place]])[0]
        clipped = old[place] + (value - old[place]).clamp(-0.2, 0.2)
        total = total + torch.maximum((value - returns[place]) ** 2, (clipped - returns[place]) ** 2) / 2 / len(places)
    total.backward()
    assert loss == pytest.approx(float(total.detach()), abs=1e-9)
    np.testing.assert_allclose(found, gradient_of(made.model), rtol=0, atol=1e-9)


def test_layers_computed_twice_give_the_same_gradient() -> None:
    _, reference = gradient()
    _, other = gradient(gradient_checkpointing=True)
    np.testing.assert_allclose(other, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_learns_what_the_returns_are(dtype: str) -> None:
    made = Critic(policy=gpt2(dtype), loss=ValueLoss(clip=None), settings=OptimizerSettings(lr=1e-2))
    prompts = Prompts.of(case().trajectories)
    _, returns = targets(prompts)
    assert explained_variance(made.values(prompts), returns) == 0
    for _ in range(40):
        found = made.update(prompts, made.values(prompts), returns, range(len(prompts.histories)))
    assert explained_variance(made.values(prompts), returns) > 0.9 and "value/clip_ratio" not in found


def test_a_return_that_is_not_finite_changes_nothing() -> None:
    made, prompts = critic(settings=OptimizerSettings(lr=1e-2)), Prompts.of(case().trajectories)
    old, returns = targets(prompts)
    before = copy.deepcopy(made.state_dict()["model"])
    returns[1] = np.nan
    with pytest.raises(FloatingPointError, match=r"the critic's update 0: loss nan.*nothing was changed"):
        made.update(prompts, old, returns, range(len(prompts.histories)))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict()["model"].items())
    assert made.n_updates == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_and_loaded_it_goes_on_bit_by_bit(dtype: str) -> None:
    def made() -> Critic:
        return Critic(policy=gpt2(dtype), loss=ValueLoss(), settings=OptimizerSettings(lr=1e-3, warmup=5))

    prompts = Prompts.of(case().trajectories)
    old, returns = targets(prompts)
    everything = range(len(prompts.histories))
    first, again = made(), made()
    for _ in range(2):
        first.update(prompts, old, returns, everything)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    expected = [first.update(prompts, old, returns, everything) for _ in range(2)]
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert [again.update(prompts, old, returns, everything) for _ in range(2)] == expected
    with pytest.raises(CheckpointError, match="the critic's state does not fit"):
        again.load_state_dict({})


def test_explained_variance() -> None:
    returns = np.array([1.0, 2.0, 3.0])
    assert explained_variance(returns + 5, returns) == 1 and explained_variance(np.ones(3), returns) == 0
    assert explained_variance(-returns, returns) == -3 and explained_variance(returns, np.ones(3)) == 0


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────────────────────────

PPO = ('algorithm.credit={name="turn_gae", lam=0.9}', "critic={lr=0.01}")


def test_a_run_with_a_critic(tmp_path: Path) -> None:
    train(tiny(tmp_path, *PPO, "run.iterations=2", "evaluation.episodes=0"), tmp_path / "run", progress=Progress())
    first, second = metrics(tmp_path / "run")
    names = {"value/loss", "value/grad_norm", "value/clip_ratio", "value/mean", "value/explained_variance"}
    assert names <= set(first) and first["value/mean"] == 0 and first["value/explained_variance"] == 0
    assert abs(second["value/mean"]) > 1e-3 and first["value/loss"] > 0 and first["value/grad_norm"] > 0
    played = list(read_trajectories(tmp_path / "run" / "trajectories" / "iteration_000000.jsonl.zst"))
    table = TurnTable.from_trajectories(played)
    expected = TurnGAE(lam=0.9)(table.with_columns(value=np.zeros(len(table))))["advantage"]
    assert [turn.advantage for t in played for turn in t.turns] == pytest.approx(expected)
    again = overview(tmp_path / "run", 1)  # the record holds the values that credit was computed with
    assert again["equal"] and again["n_turns"] == second["n_turns"]


@pytest.mark.slow
def test_a_resume_keeps_the_critic(tmp_path: Path) -> None:
    changes = (
        *PPO,
        "checkpoint.keep=0",
        "evaluation.episodes=0",
        "algorithm.epochs=2",
        "critic.updates_per_iteration=3",
    )
    for name in ("undisturbed", "torn"):
        train(tiny(tmp_path, *changes), tmp_path / name, progress=Progress())
    cut(tmp_path / "torn", 2)
    train(tiny(tmp_path, *changes), tmp_path / "torn", progress=Progress(), resume=True)
    assert_same_run(tmp_path / "undisturbed", tmp_path / "torn")
    states = [
        torch.load(tmp_path / name / "checkpoints" / "latest" / "training.pt", weights_only=True)["critic"]
        for name in ("undisturbed", "torn")
    ]
    assert states[0]["n_updates"] == states[1]["n_updates"] == 3 * 2 * 3
    assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())


def test_the_recipe_is_the_quick_start_with_a_critic() -> None:
    shipped = Path(__file__).parents[1] / "configs"
    recipe, quickstart = (config.load(shipped / name) for name in ("recipes/ppo.toml", "quickstart.toml"))
    one, other = (config.flat(each.model_dump()) for each in (recipe, quickstart))
    differing = {key for key in {*one, *other} if one.get(key) != other.get(key)}
    assert {key for key in differing if not key.startswith(("algorithm.", "critic"))} == {"run.name"}
    assert Path(str(one["model.path"])).samefile(str(other["model.path"]))
    methods = build.methods(recipe.algorithm, state_keys=True, critic=recipe.critic is not None)
    assert methods.of_turns({"value"}) and recipe.critic is not None and build.critic_loss(recipe.critic)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (PPO[:1], "TurnGAE reads the column 'value'"),
        (PPO[:1], "add a table [critic]"),
        (PPO[1:], "no credit method reads the column 'value'"),
        ((*PPO, 'critic.loss={name="ppo_clip"}'), "critic.loss = 'ppo_clip' is no loss of a critic"),
        ((*PPO, "critic.lr=0"), "critic.lr"),
        ((*PPO, "critic.rate=1"), "critic.rate"),
        (('algorithm.credit={name="toy_runs:Valued"}', PPO[1]), "learns the column 'returns', and no credit method"),
    ],
)  # fmt: skip
def test_a_critic_that_cannot_be(
    overrides: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(run_file(tmp_path)), *overrides, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and len(error.splitlines()) == 1 and not (tmp_path / "run").exists()
