"""How long a report of 10,000 episodes takes to write and to open.

    python tests/benchmarks/bench_viewer.py [--json]

``rows()`` gives one dictionary a measurement, as in bench_household. The episodes are made here and shaped like the quick
start's: 13 turns, 80 tokens of context and 7 sampled ones a turn, 8 members a group, 12 texts in a turn's info. Writing is compared
with reading the same record, which it cannot do without: ``bound_ratio`` is how many times as long it takes (CPU time, without
formulas). Opening is wall-clock time in a real Chromium, from the address until the page is drawn, the median of several windows
that keep nothing from one another; the bound is two seconds. Without a browser those rows are left out, with a line on standard
error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.browsers import find_chromium
from agentrl.errors import ConfigError
from agentrl.store import read_trajectories, write_trajectories
from agentrl.types import Call, Outcome, Task, Trajectory, Turn
from agentrl.viewer import write_report

N_EPISODES, GROUP, N_TURNS, N_CONTEXT, N_SAMPLED, N_INFO = 10_000, 8, 13, 80, 7, 12
A_FILE = 1000  # episodes
REPEATS = 5
BOUND_S = 2.0
READY = "html[data-ready]"


def turns(rng: np.random.Generator) -> list[Turn]:
    """The turns of one episode."""
    found = []
    for number in range(N_TURNS):
        place = int(rng.integers(40))
        prompt, completion = rng.integers(320, size=N_CONTEXT).tolist(), rng.integers(320, size=N_SAMPLED).tolist()
        sampled = Call("agent", prompt, completion, (-rng.exponential(0.3, N_SAMPLED)).tolist(), {"temperature": 1.0})
        turn = Turn(
            f"You arrive at shelf {place}. On the shelf {place}, you see a mug {number}, and a plate 1.",
            f"{place}|-1||",
        )
        turn.calls, turn.action, turn.advantage = [sampled], f"go to shelf {place}", float(rng.normal())
        turn.info = {f"field {key}": f"some words about {(key * number) % 17} and others" for key in range(N_INFO)}
        turn.seconds = {"sampling": 0.1234567, "environment": 0.00001234}
        found.append(turn)
    return found


def record(folder: Path) -> None:
    """Writes the record: the turns of 64 episodes, under 10,000 names."""
    rng = np.random.default_rng(0)
    known = [turns(rng) for _ in range(64)]
    (folder / "trajectories").mkdir(parents=True)
    for file in range(N_EPISODES // A_FILE):
        episodes = []
        for number in range(A_FILE):
            task = Task(f"house-{file}-{number // GROUP}", type=f"type {number % 6}")
            group = f"iteration={file}/task={task.id}/place={number // GROUP}"
            outcome = Outcome.TERMINATED if number % 3 else Outcome.MAX_TURNS
            one = Trajectory(f"{group}/member={number % GROUP}", "bench/House-v0", task, group, outcome=outcome)
            one.turns, one.success = known[number % 64], number % 3 > 0
            episodes.append(one)
        write_trajectories(folder / "trajectories" / f"iteration_{file:06d}.jsonl.zst", episodes)


def reading_s(folder: Path) -> float:
    """CPU seconds of reading the record as it is."""
    started = time.process_time()
    for file in sorted((folder / "trajectories").glob("*")):
        for _ in read_trajectories(file):
            pass
    return time.process_time() - started


def openings(folder: Path) -> Iterator[tuple[str, float]]:
    """(what, seconds until it is drawn) of each opening, each in a window of its own."""
    from playwright.sync_api import sync_playwright

    page_of = (folder / "report.html").as_uri()
    first = "#/episode/iteration=0/task=house-0-0/place=0/member=0"
    places = {"overview": ("", ".cards"), "table": ("#/episodes", "a.row"), "episode": (first, ".tokenline")}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(find_chromium()), args=["--no-sandbox"])
        for _ in range(REPEATS):
            for name, (address, drawn) in places.items():
                context = browser.new_context()
                page = context.new_page()
                started = time.perf_counter()
                page.goto(page_of + address)
                page.wait_for_selector(READY)
                page.wait_for_selector(drawn)
                yield name, time.perf_counter() - started
                context.close()
        browser.close()


def rows() -> list[dict[str, Any]]:
    """The measurements, the main one first."""
    size = f"{N_EPISODES:,} episodes of {N_TURNS} turns"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        record(folder)
        read = reading_s(folder)
        started = time.process_time()
        written = write_report(folder, formulas=0)
        seconds = time.process_time() - started
        found = [
            row(f"writing the report of {size}", written.n_episodes / seconds, "episodes/CPU-s")
            | {"against": "reading the record alone", "bound": "reading the record", "bound_ratio": seconds / read},
        ]
        try:
            find_chromium()
        except ConfigError as error:
            print(f"opening is not measured: {error}", file=sys.stderr)
            return found
        times: dict[str, list[float]] = {}
        for name, taken in openings(folder):
            times.setdefault(name, []).append(taken)
    opened = [
        row(f"opening the {name}, {size}", statistics.median(taken), "s")
        | {"bound": f"{BOUND_S:g} s", "bound_ratio": BOUND_S / statistics.median(taken)}
        for name, taken in times.items()
    ]
    return [*opened, *found]


def row(name: str, value: float, unit: str) -> dict[str, Any]:
    """One measurement without a peer."""
    return {"name": name, "value": value, "unit": unit, "against": "", "peer": None, "ratio": None}


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found = rows()
    if as_json:
        print(json.dumps(found))
        return
    for entry in found:
        print(
            f"{entry['name']}: {entry['value']:.3g} {entry['unit']} (bound: {entry['bound']}, {entry['bound_ratio']:.2f})"
        )


if __name__ == "__main__":
    main()
