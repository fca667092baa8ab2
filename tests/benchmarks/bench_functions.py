"""How long function calling takes: a reset, a call, a check, and a whole episode.

    python tests/benchmarks/bench_functions.py [--json]

``rows()`` gives one dictionary a measurement: ``name``, ``value`` and ``unit``; ``against`` names the peer, a constant of
environments.md: BFCL's multi-turn back ends behind a safe executor (2-core x86-64 machine, Python 3.11); ``peer`` is its
value in the same unit and ``ratio`` = peer / ours. The peer's back ends are others, of about the same size, so a ratio says
what an episode costs, not whose code is better. Tasks are the first of level full; their generation is not counted. Medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from agentrl.envs.functions.env import FunctionCallingEnv
from agentrl.envs.functions.tasks import Tasks, task
from agentrl.types import ToolCall

N_TASKS = 60
REPEATS = 5
CONSTANT = "a constant: safe executor of BFCL's back ends on a 2-core x86-64 machine"
RESET_MS, CALL_US, CHECK_MS = 0.66, 36.0, 0.9
LEVEL = "full"


def timed(env: FunctionCallingEnv, index: int, calls: list[float], checks: list[float]) -> tuple[float, float]:
    """Seconds of the reset and of the whole episode of a task, played right; adds those of each call and each check."""
    wanted = env.tasks("train")[index]
    began = time.perf_counter()
    env.reset(options={"task": wanted})
    reset = time.perf_counter() - began
    for calls_of_turn in wanted.reference:
        for call in calls_of_turn:
            action = env.format.render([ToolCall(call["name"], call["arguments"])])
            before = time.perf_counter()
            env.step(action)
            calls.append(time.perf_counter() - before)
        before = time.perf_counter()
        _, _, _, _, info = env.step("Done.")
        checks.append(time.perf_counter() - before)
    assert info["success"]
    return reset, time.perf_counter() - began


def rows() -> list[dict[str, Any]]:
    """The measurements, the main one first."""
    env = FunctionCallingEnv(level=LEVEL)
    resets: list[float] = []
    calls: list[float] = []
    checks: list[float] = []
    episodes: list[float] = []
    for _ in range(REPEATS):
        for index in range(N_TASKS):
            of_task: list[float] = []
            reset, episode = timed(env, index, calls, of_task)
            resets.append(reset)
            episodes.append(episode)
            checks.append(sum(of_task))  # BFCL's constant is that of all turns, with the replay of the right calls
    made: list[float] = []
    for number in range(N_TASKS):
        began = time.perf_counter()
        task.__wrapped__(LEVEL, "train", number)
        made.append(time.perf_counter() - began)

    def row(name: str, seconds: list[float], unit: str, peer: float | None) -> dict[str, Any]:
        value = statistics.median(seconds) * {"us": 1e6, "ms": 1e3}[unit]
        against = {"against": CONSTANT if peer else "nothing", "peer": peer, "ratio": peer / value if peer else None}
        return {"name": f"functions: {name}, level {LEVEL}", "value": value, "unit": unit} | against

    turns = statistics.mean(len(found.reference) for found in Tasks(LEVEL, "train")[:N_TASKS])
    return [
        row("reset with the description of 24 tools", resets, "ms", RESET_MS),
        row("a call: parse, validate, execute, respond", calls, "us", CALL_US),
        row(f"check of all user turns of an episode ({turns:.1f}) with the replay", checks, "ms", CHECK_MS),
        row("a whole episode, played right", episodes, "ms", None),
        row("a task made from its seed", made, "ms", None),
    ]


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found_rows = rows()
    if as_json:
        print(json.dumps(found_rows))
        return
    for found in found_rows:
        faster = f"; {found['ratio']:.1f} x faster than {found['against']}" if found["ratio"] else ""
        print(f"{found['name']}: {found['value']:.3g} {found['unit']}{faster}")


if __name__ == "__main__":
    main()
