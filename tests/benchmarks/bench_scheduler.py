"""What waiting costs: 64 episodes of 8 turns, environments of uneven speed, an engine of fixed speed.

    python tests/benchmarks/bench_scheduler.py [--json]

The latency of an environment's step is log-normal: mean 0.5 s, spread 1.0 (of its logarithm), cut at 5 s. The engine gives
each request 100 tokens a second and serves at most ``slots`` at a time; a turn is 20 to 80 tokens. All is played at a tenth of
its time, and the rows hold the whole.

``bound`` is the larger of the engine's whole work (tokens / (100 x slots)) and the longest chain of one episode. Beside
agentrl's rollouts, on the same latencies and lengths: *lock-step*, where all generate, then all step, and each waits for the
slowest; and *one tool at a time*, where all generate, then the environments step one after the other (the loop of a trainer
that calls a batch's tools in sequence). Both are written here for the comparison, with nothing but the waiting. ``ratio`` =
the peer's seconds / ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from agentrl import seeding
from agentrl.agents.base import Decision, Episode, View
from agentrl.env import AwaitedEnv, TextEnv
from agentrl.policies.base import Request
from agentrl.rollouts import EnvPool, Rollouts
from agentrl.types import Call, Completion, RolloutRequest, Sampling, Task

N_EPISODES, N_TURNS = 64, 8
MEAN_S, SPREAD, CUT_S = 0.5, 1.0, 5.0
TOKENS_PER_S = 100.0
SCALE = 0.1
SLOTS = {"enough slots": 64, "an engine that binds": 8}


@dataclass(frozen=True)
class Load:
    """How long each step takes, and how many tokens each turn has: both [episodes, turns]."""

    n_episodes: int = N_EPISODES
    n_turns: int = N_TURNS
    seed: int = 0

    @cached_property
    def latency_s(self) -> np.ndarray:
        rng = seeding.stream(self.seed, "latency")
        drawn = rng.lognormal(np.log(MEAN_S) - SPREAD**2 / 2, SPREAD, (self.n_episodes, self.n_turns))
        return np.minimum(drawn, CUT_S)

    @cached_property
    def n_tokens(self) -> np.ndarray:
        return seeding.stream(self.seed, "tokens").integers(20, 81, (self.n_episodes, self.n_turns))

    def bound_s(self, slots: int) -> float:
        """The larger of the engine's work and the longest chain."""
        generation = self.n_tokens / TOKENS_PER_S
        return max(float(generation.sum()) / slots, float((generation + self.latency_s).sum(1).max()))


class Engine:
    """Each request takes its tokens' time; ``slots`` of them at once."""

    capabilities = frozenset({"logprobs"})

    def __init__(self, slots: int) -> None:
        self.slots = asyncio.Semaphore(slots)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        async with self.slots:
            await asyncio.sleep(sampling.max_tokens / TOKENS_PER_S * SCALE)
        return Completion(ids=[0] * sampling.max_tokens, logprobs=None, finish="stop", version=0)


class BatchEngine:
    """The same speed in batches: one takes as long as its longest request."""

    capabilities = frozenset({"batch"})

    def __init__(self, slots: int) -> None:
        self.batch_size = slots

    def generate_batch(self, requests: Sequence[Request]) -> list[Completion]:
        lengths = [request.sampling.max_tokens for request in requests]
        for first in range(0, len(lengths), self.batch_size):
            time.sleep(max(lengths[first : first + self.batch_size]) / TOKENS_PER_S * SCALE)
        return [Completion(ids=[0] * n, logprobs=None, finish="stop", version=0) for n in lengths]


class Slow(TextEnv, AwaitedEnv):
    """Steps that take their time elsewhere."""

    def __init__(self, load: Load) -> None:
        self.load = load

    def tasks(self, split: str) -> list[Task]:
        return [Task(id=f"slow-{n}", seed=n, split=split) for n in range(self.load.n_episodes)]

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "reset":
            self.episode, self.turn = int(kwargs["options"]["task"].seed), 0
            return "ready", {}
        await asyncio.sleep(self.load.latency_s[self.episode, self.turn] * SCALE)
        self.turn += 1
        return "done", 0.0, self.turn == self.load.n_turns, False, {}


@dataclass(frozen=True)
class Talker:
    """Asks the engine for as many tokens as the load says."""

    load: Load

    def start(self, episode: Episode) -> Talking:
        return Talking(self.load, episode)


@dataclass(frozen=True)
class Talking:
    load: Load
    episode: Episode

    async def act(self, view: View) -> Decision:
        n = int(self.load.n_tokens[self.episode.task.seed, view.turn])
        sampling = Sampling(max_tokens=n, key=(*self.episode.key, view.turn))
        assert self.episode.generate is not None
        made = await self.episode.generate([0], sampling, f"{self.episode.id}/turn={view.turn}")
        return Decision("go", [Call("agent", [0], made.ids, made.logprobs, {}, made.finish, made.version)])


def agentrl_way(load: Load, policy: Callable[[], Any], **how: Any) -> float:
    """Seconds of ``Rollouts.run``."""
    rollouts = Rollouts(EnvPool(lambda: Slow(load)), Talker(load), policy(), **how)
    requests = [RolloutRequest(task, 1) for task in Slow(load).tasks("train")]
    started = time.perf_counter()
    played = rollouts.run(requests, ("bench", 0))
    seconds = time.perf_counter() - started
    assert all(member.n_turns == load.n_turns for (member,) in played)
    return seconds / SCALE


def lock_step(load: Load, slots: int, *, one_at_a_time: bool) -> float:
    """Seconds of a loop in which every episode waits for every other, twice a turn."""

    async def step(episode: int, turn: int) -> None:
        await asyncio.sleep(load.latency_s[episode, turn] * SCALE)

    async def run() -> None:
        engine, episodes = Engine(slots), range(load.n_episodes)
        for turn in range(load.n_turns):
            wanted = [Sampling(max_tokens=int(load.n_tokens[episode, turn])) for episode in episodes]
            await asyncio.gather(*(engine.generate([0], sampling, "") for sampling in wanted))
            steps: list[Coroutine[Any, Any, None]] = [step(episode, turn) for episode in episodes]
            if one_at_a_time:
                for each in steps:
                    await each
            else:
                await asyncio.gather(*steps)

    started = time.perf_counter()
    asyncio.run(run())
    return (time.perf_counter() - started) / SCALE


def measured(load: Load, where: str, slots: int) -> list[dict[str, Any]]:
    """agentrl's ways, each against lock-step, the first also against one tool at a time."""
    bound, name = load.bound_s(slots), f"{load.n_episodes} episodes x {load.n_turns} turns, {where}"
    locked = lock_step(load, slots, one_at_a_time=False)
    serial = lock_step(load, slots, one_at_a_time=True)
    free = agentrl_way(load, lambda: Engine(slots))
    ways = [
        ("no barrier", free, "lock-step", locked),
        ("no barrier", free, "one tool at a time", serial),
        ("engine in batches, whenever free", agentrl_way(load, lambda: BatchEngine(slots), free=True), "lock-step", locked),
        ("engine in batches, in rounds", agentrl_way(load, lambda: BatchEngine(slots)), "lock-step", locked),
    ]  # fmt: skip
    return [
        {"name": f"{way}: {name}", "value": seconds, "unit": "s", "against": f"{against}, measured now", "peer": peer,
         "ratio": peer / seconds, "bound": "engine's work or longest chain", "bound_ratio": seconds / bound}
        for way, seconds, against, peer in ways
    ]  # fmt: skip


def rows(load: Load | None = None) -> list[dict[str, Any]]:
    """The measurements, the main one first."""
    return [row for where, slots in SLOTS.items() for row in measured(load or Load(), where, slots)]


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found = rows()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for row in found:
        print(
            f"{row['name']}: {row['value']:.2f} {row['unit']}, {row['ratio']:.2f} x {row['against']}, "
            f"{row['bound_ratio']:.3f} x the bound ({row['bound']})"
        )


if __name__ == "__main__":
    main()
