"""Episodes as the page reads them: a chunk of JSON holds whole groups, with each text once.

    {"texts": ["You see a door.", …],
     "episodes": [{"task": {…}, "last": 7, "turns": [{"o": 0, "k": 3, "a": 4, "v": 1, "r": 0, …}]}]}

Of a turn: ``o`` observation, ``k`` state key (-1: none), ``a`` action (numbers of texts), ``v`` valid, ``r`` reward, ``p`` penalty,
``A`` advantage, ``m`` measured columns, ``i`` info (pairs; a text is [its number]), ``s`` seconds, ``c`` calls, ``t`` tool calls,
``img`` images, ``w`` why it has its advantage. Of a call: ``n`` how many ids of its prompt are those of the call before it, ``p``
the other ids, ``c`` ids that were sampled, ``l`` and ``g`` their log-probs by the sampler and by the learner, and the rest by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl.chat.tool_calls import Calls, Hermes, JsonCalls, PythonCalls
from agentrl.types import Call, Trajectory, Turn
from agentrl.viewer.screenshots import Screenshots
from agentrl.viewer.scripts import short

Json = Any
_CALL = re.compile(r'<tool_call>|"name"\s*:\s*"|^\s*\[\w[\w.]*\(')
_FORMATS = (Hermes(), JsonCalls(), PythonCalls())


class Texts:
    """Texts by number, each kept once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    def pairs(self, items: Mapping[str, Json]) -> list[list[Json]]:
        """Names and values: a text as [its number], numbers shortened, the rest as it is."""
        numbers, found = self.numbers, []
        for name, value in items.items():
            place = numbers.setdefault(name, len(numbers))
            if isinstance(value, str):
                found.append([place, [numbers.setdefault(value, len(numbers))]])
            else:
                found.append([place, short(value) if isinstance(value, float) else value])
        return found


class Chunk:
    """A part of a run's episodes, under way. ``size`` estimates its bytes."""

    def __init__(self, images: Screenshots) -> None:
        self.images = images
        self.texts = Texts()
        self.episodes: list[dict[str, Json]] = []
        self.size = 0

    def add(self, trajectory: Trajectory, why: Sequence[Json] = ()) -> int:
        """Adds an episode and returns its place. ``why``: of each of its turns, or of none."""
        previous: dict[str, Call] = {}
        turns = [self._turn(trajectory, number, previous) for number in range(trajectory.n_turns)]
        for turn, reason in zip(turns, why, strict=False):
            turn["w"] = reason
        task = trajectory.task
        shown = {name: getattr(task, name) for name in ("id", "seed", "type", "split", "reference", "max_turns", "env")}
        self.episodes.append(
            {
                "task": {**shown, "options": dict(task.options), "hints": list(task.hints)},
                "env": trajectory.env,
                "seed": trajectory.seed,
                "last": self.texts.number(trajectory.last_observation),
                "rewards": {name: short(value) for name, value in trajectory.rewards.items()},
                "error": trajectory.error,
                "turns": turns,
            }
        )
        return len(self.episodes) - 1

    def data(self) -> dict[str, Json]:
        return {"texts": list(self.texts.numbers), "episodes": self.episodes}

    def _turn(self, trajectory: Trajectory, number: int, previous: dict[str, Call]) -> dict[str, Json]:
        turn, texts = trajectory.turns[number], self.texts
        calls = [self._call(call, previous) for call in turn.calls]
        found: dict[str, Json] = {
            "o": texts.number(turn.observation),
            "k": -1 if turn.state_key is None else texts.number(turn.state_key),
            "a": texts.number(turn.action),
            "v": int(turn.valid),
            "r": short(turn.reward),
            "p": short(turn.penalty),
            "A": short(turn.advantage),
            "c": calls,
            "i": texts.pairs(turn.info),
            "s": [short(turn.seconds.get(name, 0.0), 3) for name in ("sampling", "environment")],
        }
        if turn.columns:
            found["m"] = {name: short(v) if isinstance(v, float) else v for name, v in turn.columns.items()}
        if tools := tool_calls(turn):
            found["t"] = tools
        if shown := self.images.of(turn):
            found["img"] = shown
        self.size += 60 + len(turn.observation) + sum(5 * len(call["p"]) + 14 * len(call["c"]) + 90 for call in calls)
        return found

    def _call(self, call: Call, previous: dict[str, Call]) -> dict[str, Json]:
        prompt = list(call.prompt_ids)
        n_shared = _n_shared(previous.get(call.role), prompt)
        previous[call.role] = call
        found: dict[str, Json] = {
            "role": call.role,
            "n": n_shared,
            "p": prompt[n_shared:],
            "c": list(call.completion_ids),
            "l": _short_list(call.logprobs),
            "g": _short_list(call.learner_logprobs),
            "f": call.finish,
            "v": call.policy_version,
            "t": int(call.trainable and call.source != "forced"),
            "src": call.source,
            "s": dict(call.sampling),
        }
        if call.messages is not None:
            found["messages"] = [self.images.message(message) for message in call.messages]
            self.size += len(str(call.messages))
        if call.reply is not None:
            found["reply"] = dict(call.reply)
        return found


def _short_list(values: Sequence[float] | None) -> list[float | int | None] | None:
    return None if values is None else [float(f"{value:.5g}") for value in values]


def _n_shared(before: Call | None, prompt: list[int]) -> int:
    """How many of the first ids are those of the prompt and completion of the call before it, where all of these are."""
    if before is None:
        return 0
    known = [*before.prompt_ids, *before.completion_ids]
    return len(known) if known and prompt[: len(known)] == known else 0


def tool_calls(turn: Turn) -> list[dict[str, Json]]:
    """The calls of tools in a turn's action (or in the reply of an endpoint): name and arguments. Their results are the next
    observation."""
    if turn.calls and turn.calls[-1].reply and (asked := turn.calls[-1].reply.get("tool_calls")):
        return [_named(each.get("function", each)) for each in asked if isinstance(each, Mapping)]
    if not _CALL.search(turn.action):
        return []
    for way in _FORMATS:
        found = way.parse(turn.action)
        if isinstance(found, Calls) and found.calls:
            return [{"name": call.name, "arguments": dict(call.arguments)} for call in found.calls]
    return []


def _named(call: Mapping[str, Json]) -> dict[str, Json]:
    return {"name": str(call.get("name", "")), "arguments": call.get("arguments", {})}


def chunk_name(number: int) -> str:
    """Of a chunk's file in ``RUN/report``."""
    return f"chunk_{number:05d}.js"


def stale(folder: Path, kept: set[str]) -> list[Path]:
    """Files of an earlier report that this one has no use for."""
    return [path for path in folder.glob("*.js") if path.name not in kept]
