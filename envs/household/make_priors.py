"""Derives ``priors.json`` from statistics over real ALFWorld games: ``python -m agentrl.envs.household.make_priors``.

Reads ``data/alfworld/{household_stats.json,alfworld_vocab.json,games.jsonl.gz}`` in ``agentrl.env.shared_folder()``
and writes ``priors.json`` beside this file: numbers and vocabulary only, no game. Source: ALFWorld and ALFRED (MIT).

    rooms           room -> {"receptacles": {kind: [share of rooms that have it, mean number in those, most]},
                             "items": {kind: share of rooms that have it}, "lamps": {kind: share}}
    sizes           room -> {"receptacles": quantiles of their number at 0, 5 … 100 %, "items": of those that can be picked up}
    numbers         item kind -> [mean number in the rooms that have it, most]
    locations       item kind -> {receptacle kind: share}, most frequent first
    can_contain     receptacle kind -> item kinds
    properties      "heatable", "coolable", "cleanable", "sliceable", "toggleable", "is_receptacle" -> item kinds
    openable        receptacle kind -> share that opens
    co_located      pairs of receptacle kinds that the agent reaches from one place, most frequent first
    task_rooms      task type -> rooms
    sentences       task type -> templates
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from agentrl.env import shared_folder
from agentrl.envs.household.house import TASK_TYPES

ROOMS = ("Kitchen", "LivingRoom", "Bedroom", "Bathroom")  # ALFRED's floor plans 1-30, 201-230, 301-330, 401-430
LAMPS = ("DeskLamp", "FloorLamp")
RARE = 0.03  # a lamp place, or a pair of places reached together, seen less often than this is left out


def room_of(task_dir: str) -> str:
    """The room of a game's folder name, which ends in the number of ALFRED's floor plan."""
    plan = int(task_dir.rsplit("-", 1)[1])
    return ROOMS[0] if plan < 100 else ROOMS[plan // 100 - 1]


def count_games(path: Path) -> dict[str, Any]:
    """What the condensed statistics lack: sizes and numbers, which receptacles open, which share a place, where lamps stand."""
    sizes: dict[str, dict[str, list[int]]] = {room: {"receptacles": [], "items": []} for room in ROOMS}
    numbers = defaultdict(list)
    opens, lamps, pairs = defaultdict(Counter), defaultdict(Counter), Counter()
    lamp_rooms, rooms = defaultdict(set), defaultdict(set)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for game in map(json.loads, lines):
            facts = defaultdict(list)
            problem = game["pddl_problem"]
            for fact in re.findall(r"\(([^()]*)\)", problem[problem.index("(:init") : problem.index("(:goal")]):
                name, *arguments = fact.split()
                facts[name].append(arguments)
            kinds = {name: kind.removesuffix("Type") for name, kind in facts["receptacleType"] + facts["objectType"]}
            openable = {name for (name,) in facts["openable"]}
            for name, _ in facts["receptacleType"]:
                opens[kinds[name]][name in openable] += 1
            room = room_of(game["task_dir"])
            house = game["task_dir"] + game["trial"]
            rooms[room].add(house)
            sizes[room]["receptacles"].append(len(facts["receptacleType"]))
            sizes[room]["items"].append(len(facts["pickupable"]))
            for kind, n in Counter(kinds[item] for (item,) in facts["pickupable"]).items():
                numbers[kind].append(n)
            for item, place in facts["inReceptacle"]:
                if kinds[item] in LAMPS:
                    lamps[kinds[item]][kinds[place]] += 1
                    lamp_rooms[room, kinds[item]].add(house)
            here = defaultdict(list)
            for name, location in facts["receptacleAtLocation"]:
                here[location].append(kinds[name])
            for together in here.values():
                pairs.update(set(combinations(sorted(together), 2)))
    floor = RARE * sum(pairs.values())
    return {
        "sizes": {room: {what: quantiles(found) for what, found in of.items()} for room, of in sizes.items()},
        "numbers": {kind: [round(mean(found), 2), max(found)] for kind, found in sorted(numbers.items())},
        "openable": {k: round(c[True] / c.total(), 3) for k, c in sorted(opens.items()) if c[True]},
        "co_located": [list(pair) for pair, n in pairs.most_common() if n >= floor],
        "lamp_locations": {k: shares(c) for k, c in lamps.items() if k == "DeskLamp"},  # floor lamps stand on the floor
        "lamps": {
            room: {"DeskLamp": round(len(lamp_rooms[room, "DeskLamp"]) / len(rooms[room]), 2)}
            for room in ROOMS
            if lamp_rooms[room, "DeskLamp"]
        },
    }


def quantiles(numbers: list[int]) -> list[int]:
    """Every twentieth of the sorted numbers, from the least to the greatest."""
    ordered = sorted(numbers)
    return [ordered[round(i * (len(ordered) - 1) / 20)] for i in range(21)]


def shares(counts: Counter[str]) -> dict[str, float]:
    """Counts as shares of their sum, most frequent first, rare ones left out."""
    total = counts.total()
    return {kind: round(n / total, 3) for kind, n in counts.most_common() if n >= RARE * total}


def derive(folder: Path) -> dict[str, Any]:
    """The content of ``priors.json`` from the real data in ``folder``."""
    stats = json.loads((folder / "household_stats.json").read_text(encoding="utf-8"))
    vocab = json.loads((folder / "alfworld_vocab.json").read_text(encoding="utf-8"))
    counted = count_games(folder / "games.jsonl.gz")
    proper = {kind.lower(): kind for kind in vocab["objects"] + vocab["receptacles"]}
    proper["basketball"] = "BasketBall"
    rooms = {
        room: {
            "receptacles": {proper[k]: [r["p"], r["mean"], r["max"]] for k, r in stats[room]["receptacles"].items()},
            "items": {proper[k]: p for k, p in stats[room]["objects_present_p"].items()},
            "lamps": counted["lamps"].get(room, {}),
        }
        for room in ROOMS
    }
    locations = {
        proper[item]: {proper[place]: p for place, p in places.items()}
        for item, places in sorted(stats["object_locations"].items())
    }
    whole = set(proper.values())
    properties = {name.lower(): [k for k in kinds if k in whole] for name, kinds in vocab["actions"].items()}
    properties["is_receptacle"] = vocab["movable_receptacles"]
    return {
        "rooms": rooms,
        "sizes": counted["sizes"],
        "numbers": counted["numbers"],
        "locations": locations | counted["lamp_locations"],
        "can_contain": {
            place: [k for k in kinds if k in whole]
            for place, kinds in vocab["can_contain"].items()
            if place in vocab["receptacles"]
        },
        "properties": properties,
        "openable": counted["openable"],
        "co_located": counted["co_located"],
        "task_rooms": {t: vocab["goals_valid"][t] for t in TASK_TYPES},
        "sentences": {t: vocab["goal_templates"][t] for t in TASK_TYPES},
    }


def main() -> None:
    """Writes ``priors.json``."""
    priors = derive(Path(shared_folder()) / "data" / "alfworld")
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in priors.items()]
    Path(__file__).with_name("priors.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
