"""How long the household game takes: a turn with its admissible list and won, and a load with its reset.

    python tests/benchmarks/bench_household.py [--json]

``rows()`` gives one dictionary a measurement, the main one first: ``name``, ``value`` and ``unit``; ``against`` names
the peer and whether it was measured now or is a constant of a named machine, ``peer`` is its value in the same unit and
``ratio`` = peer / ours; ``bound`` says what no plain-Python rules can avoid and ``bound_ratio`` = ours / bound. Times
are medians of several repeats. A turn is played in the kitchen of median size among the real games. A load is from the JSON
text of a game that the process has not seen to its first observation: processes of their own load every real kitchen once,
in an order of their own, and the median kitchen counts, each with its fastest time (``median`` is over all loads, with
whatever else the machine did). Where the data is absent both are of a generated house, as the name says.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentrl.env import shared_folder
from agentrl.envs.household import games, generate
from agentrl.envs.household.house import House
from agentrl.envs.household.world import World

REPEATS = 9
N_TURNS = 2_000
N_LOADS = 40
N_PROCESSES = 8
N_ENGINE_TURNS = 12
ROWS = Path(shared_folder(), "data", "alfworld", "games.jsonl.gz")
# environments.md: alfworld 0.4.2 on an idle 2-core x86-64 machine, Python 3.11; the smallest of the range it gives.
ENGINE_TURN_US = 57_000.0
ENGINE_LOAD_MS = 1_300.0
CONSTANT = "TextWorld engine of alfworld 0.4.2, a constant of a 2-core x86-64 machine"


def kitchens() -> list[bytes]:
    """The real kitchen games as lines of JSON, by size; none without the data. None is loaded for that."""
    if not ROWS.exists():
        return []
    with gzip.open(ROWS, "rb") as file:
        found = [line for line in file if int(json.loads(line)["task_dir"].rsplit("-", 1)[1]) < 100]
    return sorted(found, key=lambda line: len(json.loads(line)["pddl_problem"]))


def generated() -> House:
    """The house that stands in where the data is absent."""
    return generate.house(generate.tasks("easy", "train")[0])


def median_s(run: Callable[[], float]) -> float:
    """Median of the seconds that ``run`` reports."""
    return statistics.median(run() for _ in range(REPEATS))


def turn_s(house: House) -> float:
    """Seconds a turn of random admissible commands, with the admissible list and won after each."""
    world = World(house)

    def run() -> float:
        draw, admissible = random.Random(0).random, (world.reset(), world.admissible())[1]
        start = time.perf_counter()
        for _ in range(N_TURNS):
            world.step(admissible[int(draw() * len(admissible))])
            admissible = world.admissible()
            _ = world.won
        return (time.perf_counter() - start) / N_TURNS

    return median_s(run)


def lists_s(house: House) -> float:
    """Seconds to write down and sort the same admissible lists, knowing what stands in them."""
    world, rng, parts = World(house), random.Random(0), []
    world.reset()
    for _ in range(200):
        admissible = world.admissible()
        parts.append([command.split(" ", 1) for command in rng.sample(admissible, len(admissible))])
        world.step(rng.choice(admissible))

    def run() -> float:
        start = time.perf_counter()
        for commands in parts:
            sorted([" ".join(words) for words in commands])
        return (time.perf_counter() - start) / len(parts)

    return median_s(run)


def load_s(make: Callable[[], House]) -> float:
    """Seconds to make a house and reset it."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(N_LOADS):
            World(make()).reset()
        return (time.perf_counter() - start) / N_LOADS

    return median_s(run)


def unseen(order: int) -> list[list[float]]:
    """Seconds to load and reset each kitchen, and of that to read its JSON, in this process, which has loaded none: [n, 2].
    ``order`` seeds the order in which they are loaded."""
    lines = kitchens()
    times = [[0.0, 0.0] for _ in lines]
    for index in random.Random(order).sample(range(len(lines)), len(lines)):
        text = lines[index].decode()
        start = time.perf_counter()
        row = json.loads(text)
        read = time.perf_counter()
        World(games.load(row)).reset()
        times[index] = [time.perf_counter() - start, read - start]
    return times


def unseen_s() -> tuple[float, float, float]:
    """Seconds of an unseen load of the median kitchen: the fastest of each, the JSON's part of that, and the median of all."""
    code = "import bench_household, json; print(json.dumps(bench_household.unseen({})))"
    places = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    processes = []
    for order in range(N_PROCESSES):
        command = [sys.executable, "-c", code.format(order)]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": places}, check=True, capture_output=True, text=True
        )
        processes.append(json.loads(done.stdout))
    total = [min(times[index][0] for times in processes) for index in range(len(processes[0]))]
    reading = [min(times[index][1] for times in processes) for index in range(len(processes[0]))]
    every = [seconds for times in processes for seconds, _ in times]
    return statistics.median(total), statistics.median(reading), statistics.median(every)


def words_s(line: bytes) -> float:
    """Seconds to cut a problem's text into words and no more, the fastest of many times, as of a load."""
    problem = json.loads(line)["pddl_problem"]

    def run() -> float:
        start = time.perf_counter()
        problem.lower().replace("(", " ").replace(")", " ").split()
        return time.perf_counter() - start

    return min(run() for _ in range(REPEATS * N_LOADS))


def engine_s(row: dict[str, Any]) -> tuple[float, float] | None:
    """Seconds a turn and a load with its reset of the real engine on the same game; None where it is not installed."""
    try:
        import alfworld
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs.pddl.pddl import PddlEnv
    except ImportError:
        return None
    shipped = Path(os.path.dirname(alfworld.__file__), "data")
    grammar = (shipped / "alfred.twl2").read_text().replace("UNKNOWN GOAL", row["task"].removesuffix("."))
    game = {"pddl_domain": (shipped / "alfred.pddl").read_text(), "grammar": grammar}
    env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
    start = time.perf_counter()
    env.load(game | {"pddl_problem": row["pddl_problem"]})
    state = env.reset()
    load, rng, turns = time.perf_counter() - start, random.Random(0), []
    for _ in range(N_ENGINE_TURNS):
        command = rng.choice(state["admissible_commands"])
        start = time.perf_counter()
        state, _, _ = env.step(command)
        turns.append(time.perf_counter() - start)
    return statistics.median(turns), load


def rows() -> list[dict[str, Any]]:
    """The measurements, the main one first."""
    lines = kitchens()
    row = json.loads(lines[len(lines) // 2]) if lines else None
    house = generated() if row is None else games.load(row)
    size = f"{len(house.receptacles)} receptacles, {len(house.items)} items"
    which = f"{'generated house' if row is None else 'real kitchen game'} of {size}"
    turn, lists = turn_s(house) * 1e6, lists_s(house) * 1e6
    load = load_row(lines, which)
    engine = None if row is None else engine_s(row)  # last: what it imports makes garbage collection slower
    against = CONSTANT if engine is None else "TextWorld engine of alfworld 0.4.2 on the same game, measured now"
    peer_us, peer_ms = (ENGINE_TURN_US, ENGINE_LOAD_MS) if engine is None else (engine[0] * 1e6, engine[1] * 1e3)
    return [
        {
            "name": f"household: turn with admissible list and won, {which}",
            "value": turn,
            "unit": "us",
            "against": against,
            "peer": peer_us,
            "ratio": peer_us / turn,
            "bound": "writing and sorting the same lists",
            "bound_ratio": turn / lists,
        },
        load | {"against": against, "peer": peer_ms, "ratio": peer_ms / load["value"]},
    ]


def load_row(lines: list[bytes], which: str) -> dict[str, Any]:
    """The measurement of a load with its reset, without its peer."""
    if not lines:
        value = load_s(generated) * 1e3
        nothing = {"bound": "none: nothing is read", "bound_ratio": None}
        return {"name": f"household: load and reset, {which}", "value": value, "unit": "ms"} | nothing
    seconds, reading, median = unseen_s()
    bound = reading + words_s(lines[len(lines) // 2])
    return {
        "name": f"household: JSON of an unseen game to its first observation, median of {len(lines)} real kitchens",
        "value": seconds * 1e3,
        "unit": "ms",
        "median": median * 1e3,
        "bound": f"reading the JSON ({reading * 1e6:.0f} us) and cutting the problem into words",
        "bound_ratio": seconds / bound,
    }


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found = rows()
    if as_json:
        print(json.dumps(found))
        return
    for row in found:
        bound = "" if row["bound_ratio"] is None else f"; {row['bound_ratio']:.2f} x {row['bound']}"
        faster = f"{row['ratio']:,.0f} x faster than {row['against']}"
        print(f"{row['name']}: {row['value']:.3g} {row['unit']}; {faster}{bound}")


if __name__ == "__main__":
    main()
