"""Every word of a dialogue that goes right, and of most refusals, for a word-level tokenizer.

Amounts of money are multiples of ten up to ``MOST_MONEY``, which is enough for all accounts of a state together.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Sequence
from random import Random

from agentrl.chat.tool_calls import CallFormat
from agentrl.envs.functions import bank, calendar, files, orders, tickets
from agentrl.envs.functions.dialogue import NOTHING_TO_SAY, described, usage
from agentrl.envs.functions.service import REQUESTS, Draw, Unfit
from agentrl.envs.functions.tasks import IRRELEVANT, NEW_TOOL, SERVICES, SUBJECTS

MOST_MONEY = 4_000
DRAWS = 40  # of every request, so that each of its wordings is among them
_POOLS: dict[str, tuple[str, ...]] = {
    "": SUBJECTS,
    "files": (*files.FOLDERS, *files.NAMES, *files.WORDS),
    "calendar": (*calendar.TITLES, *calendar.PEOPLE, *calendar.DAYS, *calendar.TIMES),
    "orders": (*orders.ITEMS, *orders.CITIES, *orders.REASONS),
    "bank": (*bank.ACCOUNTS, *bank.COMPANIES, *bank.NOTES),
    "tickets": (*tickets.TOPICS, *tickets.STAFF, *tickets.PRIORITIES, *tickets.COMMENTS),
}
_REFUSALS = (
    "Error: there is no file x; known: nothing. there is already a file x. a path is a folder, a slash and a name",
    "no event is called x. 1 at 2 is taken. x is already invited. there is no open day x. there is no time x",
    "there is no order of x. only 3 of x are left. order 1 is open, not delivered. order 1 is cancelled. there is no city x",
    "there is no card of x. the two accounts are the same. x has only 3. card 1 is already frozen. there is no company x",
    "there is no ticket about x. ticket 1 is closed. there is no person x. there is no folder x. there is no account x",
    "no tool is called 'x'. Did you mean 'x'? x: the argument 'x' is missing. x has no argument 'x'.",
    "the reply is empty; wanted a call of a tool, or the final answer. The episode is over.",
    "x: argument 'x': input should be greater than or equal to 1; got 0",
    "returned: broken null true false name result arguments type text tool_call tool_response",
)


def texts(form: CallFormat, among: Sequence[str] = ()) -> Iterator[str]:
    """Texts that hold every word of these back ends (none named: of all), each at the start of a text and after a space."""
    kinds = [SERVICES[name] for name in among or SERVICES]
    for kind in kinds:
        for tool in kind.listed():
            yield from _twice(described(tool, as_json=True), described(tool, as_json=False))
        for seed in range(3):
            state = kind.start(Random(seed), 4)
            yield from (json.dumps(state), " ".join(["", kind.name, *state]), kind.name)
    for service_request in (each for each in REQUESTS if each.service in kinds):
        for seed in range(DRAWS):
            random = Random(seed)
            draw = Draw(random, service_request.service(service_request.service.start(random, 6)))
            try:
                said = service_request.write(draw)
            except Unfit:
                continue
            yield from _twice(said.text, said.vague, said.detail)
            yield from _twice(*(form.render([call]) for call in draw.calls))
            results = [json.dumps(result, separators=(",", ":")) for result in draw.results]
            yield form.respond([(call.name, text) for call, text in zip(draw.calls, results, strict=True)])
    yield from _twice("Tools that you may call:", usage(form), NOTHING_TO_SAY, NEW_TOOL, *_REFUSALS, *IRRELEVANT)
    for word in (word for name in ["", *(kind.name for kind in kinds)] for word in _POOLS[name]):
        yield f"{word} {word}"
    for number in (*range(100), *range(100, MOST_MONEY, 10), 2030):
        yield f"{number} {number}"
    yield from (*string.punctuation, " ", "\n", "…", "True", "False")


def _twice(*found: str) -> Iterator[str]:
    for text in found:
        yield from (text, f" {text}")
