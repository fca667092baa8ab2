"""How long the pages of agentrl/Browser-v0 take: a step and a reset, in plain Python and in Chromium.

    python tests/benchmarks/bench_browser.py [--json]

``rows()`` gives one dictionary a measurement: ``name``, ``value`` and ``unit``; ``against`` names the peer, a constant of
environments.md (MiniWoB's pages on a 2-core x86-64 machine: a step by BrowserGym, and one by Playwright in one evaluate); ``peer``
is its value in the same unit and ``ratio`` = peer / ours. Steps are random admissible actions on tasks of every type; making
the list of actions is not counted. Python's times are processor time, Chromium's are by the clock. Means of a pass, the best of
several. The rows of Chromium are missing where there is none.
"""

from __future__ import annotations

import argparse
import json
import time
from random import Random
from typing import Any

from agentrl.browsers import find_chromium
from agentrl.envs.browser.env import BrowserEnv
from agentrl.errors import ConfigError, MissingExtra

N_TASKS, REPEATS = 64, 5
BROWSERGYM_MS, DIRECT_MS = 790.0, 2.3
CONSTANT = "a constant: a step of BrowserGym's MiniWoB on a 2-core x86-64 machine"
DIRECT = "a constant: a step of MiniWoB by Playwright, one evaluate, on a 2-core x86-64 machine"


def passed(env: BrowserEnv, n_tasks: int) -> tuple[float, float]:
    """Mean seconds of a step and of a reset in one pass over tasks, the types taking turns."""
    clock = time.process_time if env.engine == "python" else time.perf_counter
    steps = resets = 0.0
    n_steps = 0
    for place, task in enumerate(env.tasks("train")[:n_tasks]):
        random, over = Random(place), False
        started = clock()
        env.reset(options={"task": task})
        resets += clock() - started
        for _ in range(task.max_turns or 1):
            action = random.choice(env.admissible_actions)
            started = clock()
            _, _, over, _, _ = env.step(action)
            steps += clock() - started
            n_steps += 1
            if over:
                break
    return steps / n_steps, resets / n_tasks


def measured(name: str, env: BrowserEnv, n_tasks: int, repeats: int, peer: tuple[str, float]) -> list[dict[str, Any]]:
    """The rows of one engine and level."""
    passed(env, 16)  # lists of tasks and regular expressions are made once
    steps, resets = zip(*(passed(env, n_tasks) for _ in range(repeats)), strict=True)
    env.close()
    step_ms, reset_ms = 1e3 * min(steps), 1e3 * min(resets)
    return [
        {
            "name": f"browser: {name}, a step ({1e3 / step_ms:,.0f} a second)",
            "value": step_ms,
            "unit": "ms",
            "against": peer[0],
            "peer": peer[1],
            "ratio": peer[1] / step_ms,
        },
        {
            "name": f"browser: {name}, a reset",
            "value": reset_ms,
            "unit": "ms",
            "against": "nothing",
            "peer": None,
            "ratio": None,
        },
    ]


def rows() -> list[dict[str, Any]]:
    """The measurements, the main one first."""
    found: list[dict[str, Any]] = []
    for level in ("tiny", "full"):
        found += measured(f"Python, level {level}", BrowserEnv(level), N_TASKS, REPEATS, (CONSTANT, BROWSERGYM_MS))
    try:
        find_chromium()
        env = BrowserEnv("tiny", engine="chromium")
        env.reset()
    except (ConfigError, MissingExtra):
        return found
    return found + measured("Chromium, level tiny", env, 16, 2, (DIRECT, DIRECT_MS))


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
        faster = f"; {found['ratio']:.3g} x faster than {found['against']}" if found["ratio"] else ""
        print(f"{found['name']}: {found['value']:.3g} {found['unit']}{faster}")


if __name__ == "__main__":
    main()
