"""Where an iteration's seconds go: work that is counted as torch counts it, bounds by hand, and what a run says binds."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from toy_runs import metrics, summary, tiny
from toys import Answering, Corridor

from agentrl.agents import OracleAgent
from agentrl.config import parse
from agentrl.console import COLUMNS, LineProgress, LiveProgress
from agentrl.rollouts import EnvPool, Rollouts, episode
from agentrl.types import RolloutRequest, Task, Trajectory, Turn
from agentrl.watch import bounds
from agentrl.watch.meter import Meter
from agentrl.work import Costs, Machine, Work

COSTS = Costs(body=1000, head=100, attention=8, weights=4400, position=64)
MACHINE = Machine(operations=1e6, bytes=1e5)

# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_work_by_hand() -> None:
    work = Work()
    work.add([(3, 0), (2, 4)], logits=2)
    assert work == Work(forwards=1, tokens=5, logits=2, pairs=(1 + 2 + 3) + (5 + 6), cached=4)
    before = work.copy()
    work.add_step(rows=2, cached=9)
    assert work - before == Work(forwards=1, tokens=2, logits=2, pairs=11, cached=9)
    assert before + (work - before) == work


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=5))
def test_reading_at_once_pairs_as_many_as_reading_token_by_token(rows: list[tuple[int, int]]) -> None:
    whole, steps = Work(), Work()
    whole.add(rows, 0)
    for new, past in rows:
        for number in range(new):
            steps.add_step(1, past + number)
    assert (whole.tokens, whole.pairs) == (steps.tokens, steps.pairs)


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bounds_by_hand() -> None:
    work = Work(forwards=2, tokens=10, logits=4, pairs=50, cached=100)
    forward = 2 * (1000 * 10 + 100 * 4 + 8 * 50)
    assert bounds.operations(COSTS, work) == forward
    assert bounds.seconds_of(COSTS, MACHINE, "scoring", work) == forward / 1e6
    assert bounds.seconds_of(COSTS, MACHINE, "training", work) == 3 * forward / 1e6
    assert bounds.seconds_of(COSTS, MACHINE, "decoding", work) == (2 * 4400 + 100 * 64) / 1e5  # memory is what binds
    fast = Machine(operations=1e6, bytes=1e9)
    assert bounds.seconds_of(COSTS, fast, "decoding", work) == forward / 1e6
    assert bounds.seconds_of(COSTS, fast, "reading", Work()) == 0


def test_environments_of_this_process_wait_for_each_other_and_others_do_not() -> None:
    def episode(env: str, *seconds: float) -> Trajectory:
        turns = [Turn("o", seconds={"environment": value}) for value in seconds]
        return Trajectory("t", "e", Task("x", env=env), turns=turns)

    played = [episode("a", 1.0, 2.0), episode("b", 4.0, 4.0), Trajectory("t", "e", Task("x"), turns=[Turn("o")])]
    assert bounds.environment_seconds(played, ["b"]) == (3.0, 8.0)
    assert bounds.environment_bound(3.0, 8.0, live=2) == 4.0
    assert bounds.environment_bound(3.0, 8.0, live=32) == 3.0
    assert bounds.environment_bound(0.0, 8.0, live=0) == 8.0


@given(st.dictionaries(st.sampled_from(list(bounds.SECONDS)), st.floats(0, 100)), st.floats(0, 1000))
def test_waiting_is_what_is_left(seconds: dict[str, float], total: float) -> None:
    found = bounds.waiting(seconds, total)
    known = sum(value for phase, value in seconds.items() if phase != "waiting")
    assert found >= 0 and (found == 0 if known >= total else math.isclose(found + known, total))


def test_what_binds_is_what_takes_the_most() -> None:
    seconds = {"generation": 0.9, "training": 1.9, "waiting": 0.4}
    assert bounds.binding(seconds) == "training"
    assert bounds.sentence(seconds, {"training": 0.61}, 3.2) == "training: 1.9 s of 3.2 s, 3.1 × its bound"
    assert (
        bounds.sentence({"training": 1234.4}, {"training": 2.0}, 2000.2)
        == "training: 1,234 s of 2,000 s, 617 × its bound"
    )
    assert bounds.sentence({**seconds, "waiting": 9.0}, {"training": 0.61}, 12.0) == "waiting: 9 s of 12 s"


def test_an_account_adds_iterations_up() -> None:
    line = {"time/iteration": 4.0, "time/training": 1.0, "time/generation": 2.0, "bound/generation": 0.5, "binds": "…"}
    found = bounds.account([line, {"iteration": 1}, {**line, "time/generation": 2.5, "time/waiting": 0.5}])
    assert found["binds"] == "generation: 4.5 s of 8 s, 4.5 × its bound"
    assert "rollout.batch_size" in found["setting"]
    assert found["phases"]["generation"] == {"seconds": 4.5, "share": 0.5625, "bound": 1.0}
    assert found["phases"]["training"] == {"seconds": 2.0, "share": 0.25, "bound": None}
    assert list(found["phases"]) == list(bounds.SECONDS) == list(bounds.SETTINGS)
    assert bounds.account([]) == {}


class Part:
    """Computes when it is told to."""

    def __init__(self) -> None:
        self.work = {"scoring": Work(), "training": Work()}


def test_a_meter_gives_each_phase_the_work_that_was_done_in_it() -> None:
    learner, critic = Part(), Part()
    meter = Meter(parse({"env": {"id": "agentrl/Household-v0"}}), None, (learner, critic, None, object()))
    meter._limits = (COSTS, MACHINE)
    learner.work["training"].add([(99, 0)], 99)  # before the iteration
    meter.begin()
    with meter.timed("credit"):
        critic.work["scoring"].add([(10, 0)], 0)
    learner.work["training"].add([(99, 0)], 99)  # between phases
    with meter.timed("training"):
        learner.work["training"].add([(4, 0)], 2)
        critic.work["training"].add([(10, 0)], 0)
    found = meter.measure(total=100.0, played=[])
    both = Work(forwards=2, tokens=14, logits=2, pairs=10 + 55)
    assert found["bound/credit"] == pytest.approx(bounds.operations(COSTS, Work(1, 10, 0, 55)) / 1e6, abs=1e-6)
    assert found["bound/training"] == pytest.approx(bounds.operations(COSTS, both, 6) / 1e6, abs=1e-6)
    assert "bound/generation" not in found and "bound/environments" not in found
    assert found["time/waiting"] == pytest.approx(100, abs=0.1) and found["binds"] == "waiting: 100 s of 100 s"


# ── against torch ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    folder, file = tmp_path_factory.mktemp("trained"), io.StringIO()
    from agentrl.trainer import train

    train(tiny(folder), folder / "run", progress=LineProgress(Console(file=file, width=80)))
    return folder / "run", file.getvalue()


def _model(tied: bool = True, layers: int = 2) -> Any:
    transformers = pytest.importorskip("transformers", reason="training needs the extra 'train'")
    config = transformers.Qwen2Config(
        vocab_size=80, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, attn_implementation="eager",
    )  # fmt: skip
    return transformers.Qwen2ForCausalLM(config)


def _counted(work: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("tied", [True, False])
def test_what_an_update_costs_is_what_torch_counts(tied: bool) -> None:
    model = _model(tied)
    from agentrl.algorithms.losses import PPOClip
    from agentrl.learning.learner import Learner
    from agentrl.learning.machine import costs_of
    from agentrl.learning.samples import Sample

    learner = Learner(model=model, loss=PPOClip(), old_logprobs="sampler")
    samples = [Sample.of([*range(4, 34)], first=12, row=n, trajectory=n) for n in range(3)]  # one length: no padding
    data = learner.prepare(samples, np.ones(3), None)
    costs = costs_of(model)
    counted = _counted(lambda: learner.update(samples, data, None))
    said = bounds.operations(costs, learner.work["training"], costs.passes)
    # torch counts attention's masked half, too, and the projections' biases not at all
    full = 6 * costs.attention * sum(s.length * (s.length - 1) // 2 for s in samples)
    assert said + full == pytest.approx(counted, rel=0.05)
    assert learner.work["training"].tokens == sum(sample.length for sample in samples)
    before = learner.work["scoring"].copy()
    counted = _counted(lambda: learner.logprobs(samples, data))
    assert bounds.operations(costs, learner.work["scoring"] - before) + full / 3 == pytest.approx(counted, rel=0.05)


def test_what_sampling_costs_is_what_torch_counts() -> None:
    model = _model()
    from agentrl.learning.machine import costs_of
    from agentrl.policies.base import Request
    from agentrl.policies.transformers import TransformersPolicy
    from agentrl.types import Sampling

    policy, costs = TransformersPolicy(model), costs_of(model)
    requests = [Request(f"r{n}", [3 + n, *range(5, 24)], Sampling(max_tokens=6, key=("r", n))) for n in range(4)]
    counted = _counted(lambda: policy.generate_batch(requests))
    reading, decoding = policy.work["reading"], policy.work["decoding"]
    assert (reading.tokens, reading.logits, reading.forwards) == (80, 4, 1)
    assert (decoding.tokens, decoding.logits, decoding.forwards) == (20, 20, 5)
    assert decoding.cached == 4 * sum(range(20, 25)) and decoding.pairs == decoding.cached + 20
    full = 2 * costs.attention * 4 * (20 * 19 // 2)
    said = sum(bounds.operations(costs, work) for work in policy.work.values())
    assert said + full == pytest.approx(counted, rel=0.05)


def test_the_costs_of_a_model() -> None:
    from agentrl.learning.machine import costs_of

    tied, untied = costs_of(_model(True)), costs_of(_model(False))
    n = sum(parameter.numel() for parameter in _model(True).parameters())
    assert tied == untied  # an input embedding multiplies nothing
    assert tied.head == 80 * 32 and tied.body == n - 80 * 32 and tied.weights == 4 * n and tied.passes == 6
    assert tied.attention == 2 * 2 * 32 and tied.position == 2 * 2 * 2 * 8 * 4
    half = costs_of(_model().bfloat16())
    assert (half.weights, half.position) == (tied.weights // 2, tied.position // 2)


def test_an_adapter_costs_less_to_train() -> None:
    pytest.importorskip("peft", reason="adapters need the extra 'train'")
    from agentrl.learning.lora import add_adapter
    from agentrl.learning.machine import costs_of

    plain = costs_of(_model())
    found = costs_of(add_adapter(_model(), rank=2, alpha=4.0, targets="all-linear", base="", seed=0))
    assert found.passes == 4 and found.head == plain.head and plain.body < found.body < 1.5 * plain.body


def test_the_machine_is_measured_once() -> None:
    model = _model()
    from agentrl.learning.machine import machine, memory_speed

    found = machine(model)
    assert found is machine(_model(False))  # of like size
    assert 1e8 < found.operations < 1e16 and 1e8 < found.bytes < 1e14
    assert memory_speed("cpu", 2**20, seconds=0.0) > 1e7


def test_what_checks_a_reply_is_no_work_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def checked(*_: Any) -> None:
        now[0] += 5.0

    class Slow(Corridor):
        def step(self, action: str) -> Any:
            now[0] += 1.0
            return super().step(action)

    monkeypatch.setattr(episode, "time", SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0]))
    monkeypatch.setattr(episode, "checked_reply", checked)
    [task] = Corridor().tasks("train")[:1]
    policy: Any = Answering(lambda request: [])
    rollouts = Rollouts(EnvPool(Slow), OracleAgent(), policy)
    [[played]] = rollouts.run([RolloutRequest(task, 1)], ("iteration", 0))
    assert [turn.seconds["environment"] for turn in played.turns] == [1.0] * played.n_turns
    assert rollouts.stats.environment_s == rollouts.stats.environment_wall_s == played.n_turns > 0


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_iteration_says_where_its_seconds_went(trained: tuple[Path, str]) -> None:
    for line in metrics(trained[0]):
        seconds = {phase: line[key] for phase, key in bounds.SECONDS.items()}
        assert sum(seconds.values()) == pytest.approx(line["time/iteration"], abs=2e-3)
        rounding = 1e-4  # of a metric in seconds
        assert line["time/environment"] <= line["time/environment_wall"] + rounding < line["time/rollout"]
        for phase in ("generation", "environments", "training"):
            assert 0 < line[f"bound/{phase}"] <= seconds[phase] + rounding
        assert line["binds"].startswith(bounds.binding(seconds) + ": ")


def test_the_summary_says_what_bound_the_run_and_what_to_change(trained: tuple[Path, str]) -> None:
    folder, shown = trained
    found = summary(folder)["time"]
    assert found == bounds.account(metrics(folder))
    assert sum(phase["share"] for phase in found["phases"].values()) == pytest.approx(1, abs=0.01)
    assert f"what bound the iterations: {found['binds']}; to change: {found['setting']}" in shown
    assert all(line["binds"] in shown for line in metrics(folder))


def test_a_terminal_shows_what_binds() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = LiveProgress(console)
    progress.total = 3
    progress.rows = [{"iteration": 0, "episode/success_rate": 0.5, "binds": "training: 2 s of 3 s"}]
    for line in progress._lines():
        console.print(line)
    assert "what binds: training: 2 s of 3 s" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_of_a_run_fits_a_terminal_of_80_columns() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    progress = LiveProgress(console)
    progress.total = 1000
    progress.rows = [{"iteration": 999, **{name: 0.125 for name, _, _ in COLUMNS}, "perf/tokens_per_second": 12345.6}]
    table = next(progress._lines())
    console.print(table)
    heading, row = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(word in heading for _, word, _ in COLUMNS) and row.split()[0] == "1000/1000" and "12346" in row
