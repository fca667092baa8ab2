"""Rollouts without a barrier: who waits for whom, who goes first, what is dropped (nothing)."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("transformers")

from test_rollouts import KEY, RIGHT, TASKS, agent, player, shown
from toys import Answering, Corridor

from agentrl.env import AwaitedEnv
from agentrl.errors import AgentRLError, PolicyFault
from agentrl.policies.base import Request
from agentrl.rollouts import Ahead, EnvPool, Rollouts
from agentrl.rollouts.batching import FreeBatches, Rounds
from agentrl.rollouts.scheduler import Gate
from agentrl.types import Completion, Outcome, RolloutRequest, Sampling

WAIT_S = 30  # for a condition that is bound to come


class Held(Corridor, AwaitedEnv):
    """A corridor of another process: steps on the tasks ``stuck`` are answered when ``open`` is set. ``walked``: the answered
    ones, ``closed_envs``: on which tasks environments were closed."""

    open = threading.Event()
    reached = threading.Event()  # a step that is held has begun
    stuck: frozenset[str] = frozenset()
    walked: ClassVar[list[str]] = []
    closed_envs: ClassVar[list[str]] = []

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "step" and self.task.id in self.stuck:
            self.reached.set()
            await asyncio.to_thread(self.open.wait, WAIT_S)
        result = getattr(self, name)(*args, **kwargs)
        if name == "step":
            self.walked.append(self.task.id)
        return result

    def close(self) -> None:
        self.closed_envs.append(self.task.id)


@pytest.fixture
def held() -> Iterator[type[Held]]:
    Held.open, Held.reached, Held.stuck = threading.Event(), threading.Event(), frozenset()
    Held.walked.clear()
    Held.closed_envs.clear()
    yield Held
    Held.open.set()


# ---- batches without a barrier --------------------------------------------------------------------------------------


def test_nobody_waits_for_an_episode_whose_environment_is_slow(held: type[Held]) -> None:
    """The first task's environment answers only when the others have finished; in rounds that would never be."""
    held.stuck = frozenset([TASKS[0].id])

    def done(trajectory: Any) -> None:
        ended.append(trajectory.task.id)
        if len(ended) == 2:
            held.open.set()

    ended: list[str] = []
    result = player(env=held, free=True).run([RolloutRequest(task, 1) for task in TASKS[:3]], KEY, done)
    assert ended[-1] == TASKS[0].id
    assert [member.success for (member,) in result] == [True] * 3


def test_free_batches_and_rounds_give_the_same_episodes() -> None:
    requests = [RolloutRequest(task, 2) for task in TASKS]
    free, rounds = (player(free=choice).run(requests, KEY) for choice in (True, False))
    assert [[shown(m) for m in group] for group in free] == [[shown(m) for m in group] for group in rounds]


def test_a_batch_holds_no_more_than_the_policy_takes() -> None:
    policy = Answering(lambda request: RIGHT)
    policy.batch_size = 4  # type: ignore[attr-defined]
    player(policy, free=True).run([RolloutRequest(task, 2) for task in TASKS], KEY)
    assert max(map(len, policy.batches)) == 4


def test_a_fault_of_the_engine_reaches_every_request_of_its_batch_and_only_those() -> None:
    failed: list[int] = []

    def answer(request: Request) -> list[int]:
        if not failed:
            failed.append(1)
            raise PolicyFault("out of memory")
        return RIGHT

    result = player(Answering(answer), free=True).run([RolloutRequest(task, 1) for task in TASKS[:3]], KEY)
    assert [member.outcome for (member,) in result] == [Outcome.TERMINATED] * 3, "retried"


def test_a_programming_error_in_the_policy_is_raised_not_retried() -> None:
    def answer(request: Request) -> list[int]:
        raise TypeError("wrong")

    with pytest.raises(TypeError, match="wrong"):
        player(Answering(answer), free=True).run([RolloutRequest(TASKS[0], 1)], KEY)


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_is_cancelled_while_its_batch_is_answered_leaves_the_others_their_answers(fails: bool) -> None:
    begun, release = threading.Event(), threading.Event()

    def answer(request: Request) -> list[int]:
        begun.set()
        assert release.wait(WAIT_S)
        if fails:
            raise PolicyFault("out of memory")
        return RIGHT

    async def run() -> list[Any]:
        batches = FreeBatches(Answering(answer))
        asked = [asyncio.create_task(batches.generate([11], Sampling(), f"e={n}/turn=0")) for n in range(2)]
        await asyncio.to_thread(begun.wait, WAIT_S)
        asked[0].cancel()
        await asyncio.wait(asked[:1])
        release.set()
        async with asyncio.timeout(WAIT_S):
            found = await asyncio.gather(*asked, return_exceptions=True)
        batches.close()
        return found

    cancelled, other = asyncio.run(run())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(other, PolicyFault) if fails else other.ids == RIGHT


def test_a_round_does_not_wait_for_one_that_was_cancelled() -> None:
    async def run() -> Completion:
        rounds = Rounds(Answering(lambda request: RIGHT), live=2)
        gone = asyncio.create_task(rounds.generate([11], Sampling(), "e=0/turn=0"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        rounds.leave()
        async with asyncio.timeout(WAIT_S):
            return await rounds.generate([11], Sampling(), "e=1/turn=0")

    assert asyncio.run(run()).ids == RIGHT


# ---- who is let in --------------------------------------------------------------------------------------------------


def entered(ranks: Sequence[int], places: int, cancelled: Sequence[int] = ()) -> list[int]:
    """In which order those of ``ranks`` enter, all having come before the first leaves."""

    async def run() -> list[int]:
        gate, order = Gate(places), []

        async def one(number: int, rank: int) -> None:
            await gate.enter(rank)
            order.append(number)
            await asyncio.sleep(0)
            gate.leave()

        tasks = [asyncio.create_task(one(number, rank)) for number, rank in enumerate(ranks)]
        await asyncio.sleep(0)
        for number in cancelled:
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.free == places
        return order

    return asyncio.run(run())


def test_of_those_who_wait_the_lowest_rank_goes_first() -> None:
    assert entered([5, 2, 1, 2, 0], places=1) == [0, 4, 2, 1, 3], "the first came to an empty place"


def test_a_cancelled_one_takes_no_place() -> None:
    assert entered([0, 1, 2, 3], places=1, cancelled=[1, 2]) == [0, 3]


def test_one_that_is_cancelled_in_the_moment_in_which_it_gets_a_place_gives_it_on() -> None:
    async def run() -> None:
        gate = Gate(1)
        await gate.enter(0)
        second = asyncio.create_task(gate.enter(1))
        await asyncio.sleep(0)
        gate.leave()  # the place is the second's, which has not gone on yet
        second.cancel()
        await asyncio.wait([second])
        assert second.cancelled() and gate.free == 1

    asyncio.run(run())


# ---- ahead of training ----------------------------------------------------------------------------------------------


def test_later_iterations_fill_the_places_that_late_episodes_leave_free(held: type[Held]) -> None:
    held.stuck = frozenset([TASKS[0].id])
    with Ahead(player(env=held, max_live=2)) as ahead:
        ahead.start(("iteration", 0), [RolloutRequest(task, 1) for task in TASKS[:2]], rank=0)
        ahead.start(("iteration", 1), [RolloutRequest(task, 1) for task in TASKS[1:3]], rank=1)
        (later, _), ended = ahead.take(("iteration", 1)), list(held.walked)
        assert TASKS[0].id not in ended and [m.success for (m,) in later] == [True, True]
        held.open.set()
        late, stats = ahead.take(("iteration", 0))
    assert [m.success for (m,) in late] == [True, True], "a late episode is finished"
    assert stats.n_sampled_tokens == sum(len(c.completion_ids) for (m,) in late for t in m.turns for c in t.calls)


def test_what_runs_ahead_is_what_a_run_gives() -> None:
    requests = [RolloutRequest(task, 2) for task in TASKS]
    told: list[str] = []
    with Ahead(player()) as ahead:
        ahead.start(KEY, requests, rank=3)
        found, _ = ahead.take(KEY, lambda trajectory: told.append(trajectory.id))
    plain = player().run(requests, KEY)
    assert [[shown(m) for m in group] for group in found] == [[shown(m) for m in group] for group in plain]
    assert sorted(told) == sorted(member.id for group in plain for member in group)


def test_the_error_of_an_iteration_is_raised_where_it_is_taken_and_the_others_go_on() -> None:
    class Broken(Corridor):
        def reset(self, **kwargs: Any):
            if kwargs["options"]["task"].id == TASKS[0].id:
                raise RuntimeError("no kitchen here")
            return super().reset(**kwargs)

    with Ahead(player(env=Broken)) as ahead:
        ahead.start(("iteration", 0), [RolloutRequest(TASKS[0], 2)], rank=0)
        ahead.start(("iteration", 1), [RolloutRequest(TASKS[1], 2)], rank=1)
        with pytest.raises(AgentRLError, match="no kitchen here"):
            ahead.take(("iteration", 0))
        assert [m.success for m in ahead.take(("iteration", 1))[0][0]] == [True, True]


def test_closing_stops_what_runs_and_closes_its_environments(held: type[Held]) -> None:
    held.stuck = frozenset(task.id for task in TASKS)
    threads = set(threading.enumerate())
    ahead = Ahead(player(env=held))
    ahead.start(KEY, [RolloutRequest(task, 1) for task in TASKS[:3]], rank=0)
    assert held.reached.wait(WAIT_S)
    ahead.close()
    assert held.walked == [], "nobody went on"
    assert sorted(held.closed_envs) == sorted(task.id for task in TASKS[:3])
    assert not {thread for thread in threading.enumerate() if thread.name == "rollouts"} - threads
    ahead.close()  # a second time is no harm


class Engine:
    """An engine that batches by itself: asks are answered in the order in which they come."""

    capabilities = frozenset({"logprobs"})

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        await asyncio.sleep(0)
        return Completion(ids=list(RIGHT), logprobs=[0.0] * len(RIGHT), finish="stop", version=7)


def test_an_engine_that_batches_by_itself_runs_ahead_too() -> None:
    with Ahead(Rollouts(EnvPool(Corridor), agent(), Engine(), sampling=Sampling(max_tokens=8))) as ahead:
        ahead.start(KEY, [RolloutRequest(task, 2) for task in TASKS], rank=0)
        found, _ = ahead.take(KEY)
    assert all(member.success for group in found for member in group)
    assert {call.policy_version for group in found for m in group for t in m.turns for call in t.calls} == {7}


# ---- the measurement ------------------------------------------------------------------------------------------------


def test_the_benchmark_knows_its_bound_and_nobody_beats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound by hand: tokens of all / (100 x slots), or the longest sum of an episode's waits."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    bench = importlib.import_module("bench_scheduler")
    load = bench.Load(n_episodes=4, n_turns=2)
    chains = [sum(load.latency_s[e]) + sum(load.n_tokens[e]) / 100 for e in range(4)]
    assert load.bound_s(slots=64) == pytest.approx(max(chains))
    assert load.bound_s(slots=1) == pytest.approx(load.n_tokens.sum() / 100)
    found = bench.measured(load, "enough slots", 64)
    assert all(row["bound_ratio"] >= 1 for row in found)
    assert [row["against"] for row in found][:2] == ["lock-step, measured now", "one tool at a time, measured now"]
