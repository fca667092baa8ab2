"""How fast MiniWoB's pages are: resets and steps by task and by kind of event, in one browser, one page.

    python tests/benchmarks/bench_miniwob.py [--json]

``rows()`` gives one dictionary a measurement: ``name``, ``value`` and ``unit``; ``against`` names the peer, ``peer`` is its value
in the same unit and ``ratio`` how much faster ours is. The peer is BrowserGym 0.14 on the same pages: 0.79 s a step and 2.6 s a
reset, constants of environments.md (2-core x86-64 machine, Python 3.11). ``bound`` rows say what the browser allows: bare
evaluates of ``1``, measured in the same run; "% of it" is a step's share of that. Medians over ``ROUNDS`` rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from agentrl.envs.browser.actions import Action, to_text
from agentrl.envs.browser.tree import walk
from agentrl.envs.miniwob.env import RELOADED, MiniWoBEnv
from agentrl.envs.miniwob.tasks import task

PEER = "a constant: BrowserGym on a 2-core x86-64 machine"
PEER_STEPS, PEER_RESETS = 1 / 0.79, 1 / 2.6  # a second
ROUNDS = 3
N = 40  # of a round
# (what, task, events, the role acted on, the action with {bid})
STEPS = (
    ("click by js", "click-checkboxes-large", "js", "checkbox", "click"),
    ("click by js", "click-tab-2-hard", "js", "tab", "click"),
    ("click by js", "email-inbox", "js", "heading", "click"),
    ("fill by js", "login-user", "js", "textbox", "fill"),
    ("fill by js", "read-table-2", "js", "textbox", "fill"),
    ("select_option", "choose-list", "js", "combobox", "select_option"),
    ("click by the browser's mouse", "click-checkboxes-large", "trusted", "checkbox", "click"),
    ("fill by the browser's keyboard", "login-user", "trusted", "textbox", "fill"),
    ("press", "login-user", "js", "textbox", "press"),
    ("hover", "click-checkboxes-large", "js", "checkbox", "hover"),
)
RESETS = ("click-test", "click-checkboxes-large", "login-user", "email-inbox", "search-engine")


def per_second(work: Callable[[int], None], n: int = N) -> float:
    """How many a second: the median of the rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for number in range(n):
            work(number)
        found.append(n / (time.perf_counter() - began))
    return statistics.median(found)


def step_rate(env: MiniWoBEnv, name: str, role: str, do: str) -> float:
    """Steps a second of an action that does not end the episode."""
    env.reset(options={"task": task(name, 0)})
    nodes = [node for node in walk(env._now().root) if node.role == role and node.bid]
    assert nodes, (name, role)

    def one(number: int) -> None:
        node = nodes[number % len(nodes)]
        option = node.children[number % len(node.children)].name if node.children else ""
        more: tuple[str, ...] = {
            "fill": (f"text {number}",),
            "select_option": (option,),
            "press": ("a",),
        }.get(do, ())
        _, _, ended, _, info = env.step(to_text(Action(do, (str(node.bid), *more))))
        assert not ended and info["valid"], info

    one(0)
    return per_second(one)


def rows() -> list[dict[str, Any]]:
    """The measurements, the main one first."""
    found: list[dict[str, Any]] = []
    envs = {events: MiniWoBEnv(level="full", events=events) for events in ("js", "trusted")}
    try:
        env = envs["js"]
        env.reset(options={"task": task("click-test", 0)})
        page = env._page
        bound = per_second(lambda _: page.run(page.evaluate("1")), 4 * N)
        for what, name, events, role, do in STEPS:
            rate = step_rate(envs[events], name, role, do)
            label = f"miniwob: {what}, {name} ({100 * rate / bound:.0f} % of the bound)"
            found.append(row(label, rate, "steps/s", PEER_STEPS))
        for name in RESETS:
            n = 4 if name in RELOADED else N // 2
            rate = per_second(lambda number, name=name: _reset(env, name, number), n)
            found.append(row(f"miniwob: reset with the observation, {name}", rate, "resets/s", PEER_RESETS))
        found.append(row("miniwob: the bound, bare evaluates", bound, "evaluates/s", None))
    finally:
        for each in envs.values():
            each.close()
    return found


def _reset(env: MiniWoBEnv, name: str, number: int) -> None:
    env.reset(options={"task": task(name, number)})


def row(name: str, value: float, unit: str, peer: float | None) -> dict[str, Any]:
    """A measurement beside the peer's."""
    against = {"against": PEER if peer else "nothing", "peer": peer, "ratio": value / peer if peer else None}
    return {"name": name, "value": value, "unit": unit} | against


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
        faster = f"; {found['ratio']:.0f} x faster than {found['against']}" if found["ratio"] else ""
        print(f"{found['name']}: {found['value']:.0f} {found['unit']}{faster}")


if __name__ == "__main__":
    main()
