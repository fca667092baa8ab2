"""How long credit takes: every method at 14,204 turns (64 groups of 8 ragged episodes of up to 50, 20 states a group) and at a
million, and the parts beside quadratic code.

    python tests/benchmarks/bench_credit.py

``rows()`` gives one dictionary a measurement, GiGPO's first: ``name``, ``value`` and ``unit`` (the best of several runs);
``against`` names the peer and whether it was measured now or is a constant of a named machine, ``peer`` is its value in the
same unit and ``ratio`` = peer / ours; ``bound`` says what no code can avoid that brings the rows of a trajectory together,
one stable sort of as many integers, and ``bound_ratio`` = ours / bound. Where time should grow with the number of turns, the
peer is the smaller case's time scaled up, so a ratio near 1 says that it does. The quadratic peer is the way released code
computes returns: one search through all rows for every row; at 64,000 rows it is timed on a part of them and scaled up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agentrl import registry
from agentrl.algorithms.audit import audit
from agentrl.algorithms.credit import GiGPO
from agentrl.algorithms.rewards import SimilarAnchor
from agentrl.algorithms.table import TurnTable
from agentrl.types import Task, Trajectory, Turn

GAMMA = 0.95
N_TURNS = 50
GROUP_SIZE = 8
VERL_AGENT = "verl-agent's code on such a table, a constant of a 2-core machine"
VERL_AGENT_S = 3.53


def columns(n_rows: int) -> dict[str, Any]:
    """Episodes of 50 turns in groups of 8, 10 for a success, twelve different states a task."""
    rng = np.random.default_rng(0)
    trajectory, turn = np.divmod(np.arange(n_rows), N_TURNS)
    group = trajectory // GROUP_SIZE
    reward = np.where((turn == N_TURNS - 1) & (trajectory % 3 == 0), 10.0, 0.0)
    state = [f"task {g} room {s}" for g, s in zip(group, rng.integers(0, 12, n_rows), strict=True)]
    return {
        "group": [f"task-{g}" for g in group],
        "trajectory": [f"iteration=0/task={g}/member={i}" for g, i in zip(group, trajectory, strict=True)],
        "turn": turn,
        "reward": reward,
        "state": state,
    }


def ragged(n_groups: int, n_turns: int) -> TurnTable:
    """``n_turns`` turns of ``n_groups`` groups of 8: episodes of 5 to 50 turns, 20 states and three strata a group."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 50, GROUP_SIZE * n_groups)
    short = n_turns - int(lengths.sum())
    lengths[: abs(short)] += np.sign(short)
    trajectory = np.repeat(np.arange(lengths.size), lengths)
    turn = np.arange(n_turns) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    group, last = trajectory // GROUP_SIZE, turn == lengths[trajectory] - 1
    return TurnTable(
        group=group,
        trajectory=trajectory,
        turn=turn,
        reward=np.where(last & (trajectory % 3 == 0), 1.0, 0.0),
        state=group * 20 + rng.integers(0, 20, n_turns),
        task=group,
        n_tokens=rng.integers(1, 100, n_turns),
        stratum=lengths[trajectory] // 17,
        value=rng.random(n_turns),
        entropy=rng.random(n_turns),
        advantage=rng.normal(size=n_turns),
    )


def every_method() -> dict[str, Callable[[TurnTable], Any]]:
    """agentrl's own credit methods by name with their defaults, and the audit of one."""
    found: dict[str, Callable[[TurnTable], Any]] = {}
    for name in registry.names("credit"):
        if not registry.get("credit", name).__module__.startswith("agentrl."):
            continue
        method = registry.build("credit", {"name": name, **({"alpha": 0.5} if name == "stratified_grpo" else {})})
        state = (method.init(0),) if hasattr(method, "init") else ()
        found[name] = lambda table, call=method, state=state: call(table, *state)
    found["audit"] = lambda table: audit(table, table["advantage"])
    return found


def rooms(n_groups: int) -> TurnTable:
    """8 episodes of 25 turns a group that see 20 rooms of 80 words, of which a sentence changes at every turn."""
    rng = np.random.default_rng(0)
    n_turns = n_groups * GROUP_SIZE * 25
    trajectory, turn = np.divmod(np.arange(n_turns), 25)
    group = trajectory // GROUP_SIZE
    texts = [[" ".join(f"w{w}" for w in rng.integers(0, 500, 80)) for _ in range(20)] for _ in range(n_groups)]
    seen = [
        f"{texts[g][room]} . It is {time}"
        for g, room, time in zip(group, rng.integers(0, 20, n_turns), turn, strict=True)
    ]
    return TurnTable(group=group, trajectory=trajectory, turn=turn, reward=np.zeros(n_turns), observation=seen)


def trajectories(n_rows: int) -> list[Trajectory]:
    """The same episodes as records."""
    data, result = columns(n_rows), []
    for start in range(0, n_rows, N_TURNS):
        turns = [
            Turn(observation=data["state"][row], state_key=data["state"][row], reward=float(data["reward"][row]))
            for row in range(start, start + N_TURNS)
        ]
        group = data["group"][start]
        result.append(
            Trajectory(id=data["trajectory"][start], env="bench", task=Task(id=group), group=group, turns=turns)
        )
    return result


def quadratic_returns(trajectory: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Returns to go with a search through all rows for each row."""
    return spread(trajectory, returns_of_each(trajectory, reward), len(reward))


def returns_of_each(trajectory: np.ndarray, reward: np.ndarray) -> dict[str, np.ndarray]:
    """The returns of each trajectory: one search through all rows for each trajectory."""
    by_trajectory = {}
    for each in np.unique(trajectory):
        rewards = reward[np.where(trajectory == each)[0]]
        returns, running = np.zeros_like(rewards), 0.0
        for t in reversed(range(len(rewards))):
            running = rewards[t] + GAMMA * running
            returns[t] = running
        by_trajectory[each] = returns
    return by_trajectory


def spread(trajectory: np.ndarray, by_trajectory: dict[str, np.ndarray], n_rows: int) -> np.ndarray:
    """Back to the first ``n_rows`` rows: one search through all rows for each of them."""
    result = np.zeros(len(trajectory))
    for row, each in enumerate(trajectory[:n_rows]):
        members = np.where(trajectory == each)[0]
        result[row] = by_trajectory[each][np.where(members == row)[0]][0]
    return result


def seconds(function: Callable[[], object], repeats: int) -> float:
    """The best of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def quadratic_seconds(n_rows: int, share: int) -> float:
    """Time of the quadratic reference, its loop over rows timed on one ``share``-th of them and scaled up."""
    data = columns(n_rows)
    ids = np.array(data["trajectory"], dtype=object)
    by_trajectory = returns_of_each(ids, data["reward"])
    once = seconds(lambda: returns_of_each(ids, data["reward"]), 1)
    return once + share * seconds(lambda: spread(ids, by_trajectory, n_rows // share), 3)


def sorting(n_rows: int) -> float:
    """Seconds of one stable sort of ``n_rows`` integers that are in no order."""
    keys = np.random.default_rng(0).integers(0, n_rows, n_rows)
    return seconds(lambda: np.argsort(keys, kind="stable"), 5)


def row(name: str, took: float, against: str, peer: float, bound: float | None = None) -> dict[str, Any]:
    """A measurement, its times (in seconds) told in milliseconds."""
    return {
        "name": f"credit: {name}",
        "value": took * 1e3,
        "unit": "ms",
        "against": against,
        "peer": peer * 1e3,
        "ratio": peer / took,
        "bound": "" if bound is None else "one stable sort of as many integers",
        "bound_ratio": None if bound is None else took / bound,
    }


def rows() -> list[dict[str, Any]]:
    """The measurements."""
    found = large_rows()
    found.sort(key=lambda each: "gigpo" not in each["name"])
    return found + quadratic_rows() + [table_row(), similarity_row()]


def large_rows() -> list[dict[str, Any]]:
    """Every method at 14,204 turns and at a million."""
    usual, huge, result = ragged(64, 14_204), ragged(4_506, 1_000_000), []
    bounds = sorting(14_204), sorting(1_000_000)
    for name, function in every_method().items():
        at_usual = seconds(lambda call=function: call(usual), 9)
        at_huge = seconds(lambda call=function: call(huge), 3)
        peer = (VERL_AGENT, VERL_AGENT_S) if name == "gigpo" else ("10 ms", 0.010)
        result.append(row(f"{name}, 14,204 turns", at_usual, *peer, bounds[0]))
        scaled = at_usual * 1_000_000 / 14_204
        result.append(row(f"{name}, 1,000,000 turns", at_huge, "14,204 turns, scaled up", scaled, bounds[1]))
    return result


def quadratic_rows() -> list[dict[str, Any]]:
    """Returns, and GiGPO as a whole, beside quadratic returns alone."""
    small, large = TurnTable(**columns(6_400)), TurnTable(**columns(64_000))
    peers = quadratic_seconds(6_400, share=8), quadratic_seconds(64_000, share=640)
    timed: dict[str, Callable[[TurnTable], object]] = {
        "returns": lambda table: table.returns_to_go(GAMMA),
        "gigpo": GiGPO(gamma=GAMMA),
    }
    result = []
    for name, function in timed.items():
        for table, peer in zip((small, large), peers, strict=True):
            took = seconds(lambda call=function, table=table: call(table), 5)
            against = "quadratic returns, measured now"
            result.append(row(f"{name}, {len(table):,} turns of equal episodes", took, against, peer))
    return result


def table_row() -> dict[str, Any]:
    """The table of 64,000 turns from its records."""
    small, large = trajectories(6_400), trajectories(64_000)
    at_small = seconds(lambda: TurnTable.from_trajectories(small), 3)
    at_large = seconds(lambda: TurnTable.from_trajectories(large), 3)
    return row("table of 64,000 turns from records", at_large, "6,400 turns, scaled up", 10 * at_small)


def similarity_row() -> dict[str, Any]:
    """Anchors by similarity, four times the groups."""
    method, small, large = SimilarAnchor(threshold=0.9), rooms(2), rooms(8)
    at_small = seconds(lambda: method(small), 3)
    at_large = seconds(lambda: method(large), 3)
    return row("similar_anchor, 1,600 turns of 8 groups", at_large, "2 groups, scaled up", 4 * at_small)


if __name__ == "__main__":
    for each in rows():
        print(
            f"{each['name']:<52} {each['value']:9.2f} ms   {each['ratio']:9.2f} x faster than {each['against']}"
            + (f"   ({each['bound_ratio']:.1f} x {each['bound']})" if each["bound"] else "")
        )
