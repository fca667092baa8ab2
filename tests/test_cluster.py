"""Rollout workers: what they play is what this process would have played, whoever of them dies; and what is asked of Ray."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import toy_cluster
from toy_runs import metrics, run_file, tiny, trajectories, weights
from toys import Corridor, tiny_model, tokenizer

from agentrl import exporter, playing
from agentrl.cluster import placement
from agentrl.cluster.plugins import Sent, install
from agentrl.cluster.weights import load, pack
from agentrl.cluster.worker import RolloutWorker, with_calls
from agentrl.cluster.workers import SLACK, Entry, Slot, Workers, chosen
from agentrl.console import Progress
from agentrl.dry_run import dry_run
from agentrl.errors import AgentRLError, ConfigError, UserError
from agentrl.learning import lora
from agentrl.rollouts import Ahead, Rollouts, Try
from agentrl.rollouts.episode import Limits
from agentrl.trainer import Trainer
from agentrl.types import Outcome, RolloutRequest, Sampling, Trajectory

pytestmark = pytest.mark.xdist_group("ray")

TASKS = Corridor().tasks("train")
REQUESTS = [RolloutRequest(task, 4) for task in TASKS]
ON_RAY = ("resources.backend=ray", "resources.rollout_workers=2", "resources.worker_timeout_s=15.0")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="resources.backend = 'ray' needs the extra 'ray'"
)


def shown(trajectory: Trajectory) -> dict[str, Any]:
    """A record without its times."""
    record = trajectory.to_dict()
    for turn in record["turns"]:
        del turn["seconds"]
    return record


def rollouts(workers: Any = None, **changes: Any) -> Rollouts:
    """Those of a run whose policy is a Walker, here or in workers."""
    seat = toy_cluster.seat()
    policy: Any = None if workers is not None else toy_cluster.Walker(toy_cluster.linear())
    given = {"limits": Limits(max_turns=10), "sampling": Sampling(max_tokens=8), **changes}
    return Rollouts(seat.pool, seat.agent, policy, workers=workers, **given)


def played_here(key: tuple[int | str, ...]) -> list[list[dict[str, Any]]]:
    return [[shown(member) for member in group] for group in rollouts().run(REQUESTS, key)]


# ── a worker, without Ray ────────────────────────────────────────────────────────────────────────────────────────────


class InProcess:
    """Workers without Ray: one worker here, whose messages go through pickle."""

    def __init__(self, make: Any = toy_cluster.parts) -> None:
        self.worker = RolloutWorker(pickle.dumps((Sent(), make)))
        self.told: list[str] = []

    async def play(self, job: Try, on_turn: Any = None) -> Trajectory:
        if self.worker._parts is None:
            assert (await self.worker.start(pack(toy_cluster.linear()), 0))[0] == "done"
        await self.worker.begin([(1, pickle.loads(pickle.dumps(job)))], [])
        turns = list(job.replay)
        while True:
            report = pickle.loads(pickle.dumps(await self.worker.events(5.0)))
            for _, what, of in report.events:
                self.told.append(what)
                if what == "turn":
                    turns.append(of)
                elif what == "ended":
                    return with_calls(of, turns)

    def spent(self) -> tuple[float, float]:
        return 0.0, self.worker._busy.seconds


def test_a_worker_plays_what_would_have_been_played_here() -> None:
    worker = InProcess()
    away, here = (
        rollouts(each, max_live=1).run([RolloutRequest(TASKS[2], 2)], ("iteration", 1)) for each in (worker, None)
    )
    assert [shown(m) for m in away[0]] == [shown(m) for m in here[0]]
    assert asyncio.run(worker.worker.events(0.0)).generation_s >= toy_cluster.TOKEN_S, (
        "of an engine that is no batch policy"
    )


def test_a_replay_asks_the_model_for_new_turns_only() -> None:
    known = rollouts().run([RolloutRequest(TASKS[2], 1)], ("iteration", 1))[0][0]
    cut = dataclasses.replace(known, turns=known.turns[:2], outcome=Outcome.POLICY_FAULT)
    worker = InProcess()
    (again,) = rollouts(worker).run([RolloutRequest(TASKS[2], 1)], ("iteration", 1), known={known.id: cut})[0]
    assert shown(again) == shown(known)
    assert worker.told.count("turn") == known.n_turns - 2 and worker.told.count("stepped") == known.n_turns


def test_a_decision_is_told_before_the_environment_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies of an action has told of it: what was sampled is not sampled anew."""
    told: list[list[str]] = []
    worker = InProcess()
    step = Corridor.step
    monkeypatch.setattr(Corridor, "step", lambda env, action: told.append(kinds(worker)) or step(env, action))
    rollouts(worker).run([RolloutRequest(TASKS[0], 1)], ("iteration", 1))
    assert told[0] == ["turn"]


def kinds(worker: InProcess) -> list[str]:
    return [what for _, what, _ in worker.worker._events]


def test_what_is_wrong_with_a_run_is_an_answer_and_not_an_exception() -> None:
    async def run() -> tuple[Any, ...]:
        return await RolloutWorker(pickle.dumps((Sent(), toy_cluster.no_parts))).start(pack(toy_cluster.linear()), 0)

    kind, itself, text, where = asyncio.run(run())
    assert kind == "raised" and text == "ConfigError: there is no such environment" and "no_parts" in where
    assert isinstance(pickle.loads(itself), ConfigError)


def test_a_cancelled_try_ends_and_tells_nothing() -> None:
    async def run() -> tuple[list[Any], int]:
        worker = RolloutWorker(pickle.dumps((Sent(), toy_cluster.parts)))
        await worker.start(pack(toy_cluster.linear()), 0)
        job = Try("e", TASKS[2], "g", ("iteration", 0), Limits(), Sampling(max_tokens=8))
        await worker.begin([(7, job)], [])
        task = worker._live[7]
        await worker.begin([], [7])
        await asyncio.wait([task])
        left = len(worker._live)
        assert (await worker.close())[0] == "done"
        return worker._events, left

    assert asyncio.run(run()) == ([], 0)


def test_plug_ins_that_cannot_be_loaded_are_told_of() -> None:
    sent = Sent("", [("score", "elsewhere", b"no pickle")], ["the score 'odd' cannot be sent"])
    first, second = install(sent)
    assert first == "the score 'odd' cannot be sent" and "the score 'elsewhere' cannot be loaded in a worker" in second


def test_a_worker_s_own_error_comes_through_with_the_plug_ins_that_it_lacks() -> None:
    """Also one whose class takes more than a text."""
    sent = Sent("", [], ["the score 'odd' cannot be sent"])
    worker = RolloutWorker(pickle.dumps((sent, toy_cluster.parts_of_an_extra)))
    kind, itself, text, _ = asyncio.run(worker.start(pack(toy_cluster.linear()), 0))
    assert kind == "raised" and isinstance(pickle.loads(itself), UserError)
    assert "pip install 'agentrl-toolkit[mine]' (the score 'odd' cannot be sent)" in text


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_arrive_to_the_last_bit(dtype: str) -> None:
    made = tokenizer()
    one, other = (tiny_model(made, seed=seed, dtype=dtype) for seed in (0, 1))
    packed = pickle.loads(pickle.dumps(pack(one)))
    load(other, packed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert packed.n_bytes == sum(parameter.nbytes for parameter in one.parameters())


def test_of_an_adapted_model_the_adapter_alone_travels() -> None:
    made = tokenizer()
    one, other = (
        lora.add_adapter(tiny_model(made), rank=2, alpha=4.0, targets="all-linear", base="here", seed=seed)
        for seed in (0, 1)
    )
    packed = pack(one)
    assert packed.arrays and all(".lora_" in name for name in packed.arrays)
    load(other, packed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(AgentRLError, match=r"sent the parameter weight of shape \(3, 2\).*has one of shape \(4, 2\)"):
        load(torch.nn.Linear(2, 4), pack(torch.nn.Linear(2, 3)))
    with pytest.raises(AgentRLError, match=r"parameter bias .* has none of that name"):
        load(torch.nn.Linear(2, 3, bias=False), pack(torch.nn.Linear(2, 3)))


# ── who plays what ───────────────────────────────────────────────────────────────────────────────────────────────────


def slots(*n_live: int) -> list[Slot]:
    empty: Any = None
    return [
        Slot(index, ready=True, live={number: Entry(empty, empty, empty, []) for number in range(n)})
        for index, n in enumerate(n_live)
    ]


def test_a_try_goes_to_who_plays_the_fewest() -> None:
    assert chosen(slots(3, 1, 2), {}, "g").index == 1


def test_a_group_stays_with_its_worker_until_another_has_much_less_to_do() -> None:
    first, second = ready = slots(SLACK - 1, 0)
    homes = {"g": first}
    assert chosen(ready, homes, "g") is first
    first.live[99] = first.live[0]
    assert chosen(ready, homes, "g") is second and homes["g"] is second
    assert chosen(slots(4, 5), {"g": slots(0)[0]}, "h").index == 0
    first.ready = False
    assert chosen([second], {"g": first}, "g") is second


# ── whole runs without workers ───────────────────────────────────────────────────────────────────────────────────────


@needs_ray
def test_a_dry_run_says_what_would_be_asked_for_and_starts_nothing(tmp_path: Path) -> None:
    lines = dry_run(tiny(tmp_path, *ON_RAY))
    line = next(line for line in lines if line.startswith("cluster"))
    assert "a Ray of its own on this machine would be asked for 2 rollout workers with 1 CPU each" in line
    assert placement._cluster is None and lines[-1].startswith("checked   every part of the run was made")


def test_a_worker_reads_the_run_file_with_its_own_cores(tmp_path: Path) -> None:
    config = tiny(
        tmp_path, *ON_RAY, "resources.worker_cpus=3.5", "resources.learners=2", "rollout.vllm.tensor_parallel=2"
    )
    free = config.model_copy(update={"resources": config.resources.model_copy(update={"threads": None})})
    found = playing.for_worker(free)
    assert (found.resources.backend, found.resources.threads, found.resources.learners) == ("local", 3, 1)
    assert found.rollout.vllm.extra == {"distributed_executor_backend": "mp"}
    assert playing.for_worker(config).resources.threads == 1


@pytest.mark.slow
def test_a_local_run_imports_no_ray(tmp_path: Path) -> None:
    code = (
        "import sys; from agentrl.cli import main; "
        f"status = main(['train', {str(run_file(tmp_path))!r}, 'run.iterations=1', 'evaluation.episodes=0', '--out', 'run']); "
        "print(status, 'ray' in sys.modules, 'agentrl.cluster.workers' in sys.modules)"
    )
    path = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parent.parent)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "0 False False", done.stderr


# ── real workers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[placement.Cluster]:
    """One Ray for the tests of this file, whose runs ask for what the tiny run file does."""
    pytest.importorskip("ray", reason="resources.backend = 'ray' needs the extra 'ray'")
    made = placement.enter(tiny(tmp_path_factory.mktemp("ray"), *ON_RAY).resources)
    yield made
    made.leave()


class Killer(Progress):
    """Kills the first worker when the first episode of the second iteration has ended."""

    trainer: Trainer
    killed = 0

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def episode(self, trajectory: Any) -> None:
        if not self.killed and trajectory.id.startswith("iteration=1/"):
            self.killed = self.trainer.policy.workers._slots[0].about.pid
            os.kill(self.killed, signal.SIGKILL)


def run(config: Any, out: Path, progress: Progress) -> Trainer:
    trainer = Trainer(config, progress, time.time())
    if isinstance(progress, Killer):
        progress.trainer = trainer
    trainer.open(out)
    trainer.run()
    return trainer


def without_logprobs(folder: Path) -> tuple[Any, list[float]]:
    """All trajectories of a run, and their log-probs apart."""
    found = trajectories(folder)
    calls = [c for records in found.values() for record in records for turn in record["turns"] for c in turn["calls"]]
    return found, [value for call in calls for value in call.pop("logprobs")]


@pytest.mark.slow
def test_a_run_on_workers_learns_what_a_local_one_does_though_one_of_them_is_killed(
    tmp_path: Path, cluster: placement.Cluster
) -> None:
    exporter.export("agentrl/Household-v0", tmp_path / "games", 2, options={"difficulty": "tiny"})
    shared = (f"evaluation.games={tmp_path / 'games'}", "evaluation.games_max_turns=3", "run.iterations=2")
    run(tiny(tmp_path, *shared), tmp_path / "local", Progress())
    killer = Killer()
    trainer = run(tiny(tmp_path, *shared, *ON_RAY), tmp_path / "ray", killer)
    assert killer.killed and trainer.policy.workers.n_replaced == 1
    (said,) = [note for note in killer.notes if note.startswith("WORKER REPLACED")]
    assert re.match(
        rf"WORKER REPLACED: rollout worker 1 \(process {killer.killed} on .*died .*\d+, go on by replay", said
    )
    (away, logprobs), (here, logprobs_here) = (without_logprobs(tmp_path / name) for name in ("ray", "local"))
    assert away == here
    assert logprobs == pytest.approx(logprobs_here, abs=1e-5), "other batches round in other places"
    assert weights(tmp_path / "ray") == weights(tmp_path / "local")
    first, second = metrics(tmp_path / "ray")
    assert (first["cluster/workers_replaced"], second["cluster/workers_replaced"]) == (0, 1)
    assert second["cluster/workers"] == 2 and second["cluster/sync_s"] > 0 and second["episode/faults"] == 0
    assert first["sync/bytes"] == pack(trainer.models.model).n_bytes and first["time/generation"] > 0


@pytest.fixture(scope="module")
def workers(cluster: placement.Cluster) -> Iterator[Workers]:
    from agentrl.cluster.plugins import collect
    from agentrl.cluster.worker import setup

    made = Workers(cluster, setup(toy_cluster.parts, collect()), pack(toy_cluster.linear()))
    yield made
    made.close()


@pytest.mark.slow
def test_workers_play_what_would_have_been_played_here(workers: Workers) -> None:
    turns: list[int] = []
    found = rollouts(workers).run(REQUESTS, ("iteration", 0), on_turn=lambda: turns.append(1))
    assert [[shown(member) for member in group] for group in found] == played_here(("iteration", 0))
    assert len(turns) == sum(member.n_turns for group in found for member in group)
    assert min(workers.spent()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_a_worker_that_dies_or_hangs_is_replaced_and_no_episode_is_lost(
    workers: Workers, number: signal.Signals
) -> None:
    victim, replaced, moved = workers._slots[1].about, workers.n_replaced, workers.n_moved
    turns: list[int] = []
    assert victim is not None

    def struck() -> None:
        turns.append(1)
        if len(turns) == 30:  # in the middle
            os.kill(victim.pid, number)

    stopped = rollouts(workers)
    found = stopped.run(REQUESTS, ("iteration", 1), on_turn=struck)
    assert [[shown(member) for member in group] for group in found] == played_here(("iteration", 1))
    assert workers.n_replaced == replaced + 1 and stopped.stats.n_retries == workers.n_moved - moved > 0
    until_ready(workers)
    after = workers._slots[1].about
    assert after is not None and after.pid != victim.pid
    with pytest.raises(ProcessLookupError):
        os.kill(victim.pid, 0)


def until_ready(workers: Workers) -> None:
    """Waits for the worker that takes a dead one's place, as an update does."""
    workers.update(pack(toy_cluster.linear()), workers._version)


@pytest.mark.slow
def test_every_worker_answers_with_the_version_of_its_weights(workers: Workers) -> None:
    assert workers.update(pack(toy_cluster.linear(0.25)), 5) > 0
    found = rollouts(workers).run(REQUESTS[:2], ("iteration", 2))
    calls = [call for group in found for member in group for call in member.calls()]
    assert {call.policy_version for call in calls} == {5} and {x for call in calls for x in call.logprobs or ()} == {
        0.25
    }
    with pytest.raises(AgentRLError, match="was given the weights of version 13 and answers with 12"):
        workers.update(pack(toy_cluster.linear()), toy_cluster.LIE)
    workers.update(pack(toy_cluster.linear()), 14)


@pytest.mark.slow
def test_what_the_user_configured_wrongly_is_one_error_here(workers: Workers) -> None:
    with pytest.raises(ConfigError) as caught:
        rollouts(workers, sampling=Sampling(temperature=toy_cluster.TOO_HOT)).run(REQUESTS[:1], ("iteration", 3))
    assert str(caught.value) == "a temperature of 9 is too hot"
    assert len(rollouts(workers).run(REQUESTS[:1], ("iteration", 4))[0]) == 4, "the workers are as good as before"


@pytest.mark.slow
def test_episodes_run_ahead_on_workers_while_weights_change(workers: Workers) -> None:
    with Ahead(rollouts(workers, max_live=6)) as ahead:
        ahead.start(("iteration", 5), REQUESTS, rank=0)
        ahead.start(("iteration", 6), REQUESTS, rank=1)
        ahead.take(("iteration", 5))
        workers.update(pack(toy_cluster.linear(0.75)), 20)
        found, stats = ahead.take(("iteration", 6))
    versions = {call.policy_version for group in found for member in group for call in member.calls()}
    assert 20 in versions and stats.environment_wall_s > 0
    assert not any(member.outcome.is_fault for group in found for member in group)


@pytest.mark.slow
def test_a_place_whose_workers_keep_dying_is_given_up(cluster: placement.Cluster, workers: Workers) -> None:
    """The last test of these workers."""
    for _ in range(workers.table.worker_restarts + 1):
        before = workers._slots[0].about
        assert before is not None
        os.kill(before.pid, signal.SIGKILL)
        ends = time.monotonic() + 300
        while workers._problem is None and workers._slots[0].about in (before, None):
            assert time.monotonic() < ends
            time.sleep(0.01)
    with pytest.raises(AgentRLError, match=r"rollout worker 1 .* died .*resources.worker_restarts = 3"):
        rollouts(workers).run(REQUESTS, ("iteration", 7))


@needs_ray
def test_a_start_of_ray_that_is_broken_off_leaves_no_process() -> None:
    """As Ray's: a process that starts another, and Ctrl-C before either is known to Ray."""
    import psutil

    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    started: list[psutil.Process] = []
    with pytest.raises(KeyboardInterrupt), placement._whole_or_gone(own=True):
        raylet = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert raylet.stdout is not None and raylet.stdout.readline() == b"1\n"
        started.extend([psutil.Process(raylet.pid), *psutil.Process(raylet.pid).children()])
        raise KeyboardInterrupt
    assert len(started) == 2 and not any(process.is_running() for process in started)
