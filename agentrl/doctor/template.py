"""What a chat template does to a conversation, and what agentrl makes of that."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from agentrl.chat.renderer import Renderer
from agentrl.doctor.checks import Finding, collector, ok
from agentrl.doctor.subject import ASKS, REPLIES, SAYS, SYSTEM, Refused, Subject, said
from agentrl.errors import ConfigError
from agentrl.types import Message

CHECKS, check = collector("template")
LOOK_UP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up_weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
AS_TEMPLATE = (
    'a memory that appends shows earlier turns as the template writes them (agent.earlier_turns = "auto") and opens a new sample '
    "where that reads differently; every sampled token is still trained once. "
)
ANEW = "the window memory renders every turn anew, so nothing grows; with a memory that appends: "


@check("template")
def turns(subject: Subject) -> Finding:
    """A conversation of several turns can be rendered and extended."""
    renderer = subject.renderer
    try:
        prompt = renderer.prompt([ASKS])
        grown = renderer.extend(prompt, renderer.completion([(said(SAYS), False)]), [REPLIES])
    except ConfigError as error:
        return Finding(
            "failure" if subject.appends else "warning",
            "it cannot render user, assistant, user",
            str(error),
            "cannot let a prompt grow behind what was sampled; renders single messages",
            'agent.memory = { name = "window" }, which puts the past into one message; or tokenizer.chat_template',
        )
    return ok(
        f"{len(prompt)} tokens grow to {len(grown)} when a turn and a reply are added",
        prompt=len(prompt),
        grown=len(grown),
    )


@check("turns")
def prefix(subject: Subject) -> Finding:
    """A turn that is added leaves the tokens before it as they were."""
    renderer = subject.renderer
    head = [SYSTEM] if renderer.traits(system=True).system else []
    short = subject.write([*head, ASKS]).removesuffix(renderer.opening)
    before, whole = subject.ids(short), subject.ids(subject.write([*head, ASKS, SAYS, REPLIES]))
    answer = [*renderer.encode_text(said(SAYS)), renderer.stop_ids[0]]
    prompt = renderer.prompt([*head, ASKS])
    grown = renderer.extend(prompt[: len(prompt) - len(_opening(renderer, prompt))], answer, [REPLIES])
    where = _difference(before, whole[: len(before)])
    traits = subject.traits if subject.table.system or not head else renderer.traits(system=True)
    if where is None and not traits.rewrites and not traits.spaces:
        return ok(f"adding a turn keeps all {len(before)} tokens that stood before it", kept=len(before))
    if where is None:
        place = _difference(grown, whole)
        shown = "" if place is None else f": token {place} is {_at(subject, grown, place)} where it was sampled"
        shown += "" if place is None else f" and {_at(subject, whole, place)} where the template writes it"
    else:
        shown = f": token {where} of {len(before)} was {_at(subject, before, where)} and becomes {_at(subject, whole, where)}"
    numbers = {"kept": len(before) if where is None else where, "tokens": len(before)}
    if traits.rewrites or where is not None:
        return Finding(
            "warning",
            f"a turn that is added changes what stood before it{shown}",
            "what was sampled is no beginning of the next prompt, so an episode that grows is not one sample",
            ("" if subject.appends else ANEW) + AS_TEMPLATE,
            'agent.earlier_turns = "as_sampled" keeps one sample an episode, in a form that the model may not know; or a '
            "chat_template that leaves earlier turns alone",
            numbers,
        )
    return Finding(
        "note",
        f"earlier turns keep their words but not all their spaces{shown}",
        "text that is rendered again is not token for token what was sampled",
        "shows the sampled ids themselves, which are never decoded and encoded again",
        'nothing; agent.earlier_turns = "as_template" for the template\'s own spaces',
        numbers,
    )


@check("turns")
def thoughts(subject: Subject) -> Finding:
    """What becomes of <think>…</think> in earlier turns."""
    traits = subject.traits
    if traits.drops_thoughts:
        opened = ", and the generation prompt opens <think> itself" if traits.opening else ""
        return Finding(
            "warning",
            f"the template drops the thoughts of earlier turns{opened}",
            "the next prompt lacks thoughts that were sampled: an episode of K turns with thoughts is K samples, each with a "
            "context to compute again",
            ("" if subject.appends else ANEW) + AS_TEMPLATE.rstrip()
            + (" A completion is parsed together with the opening" if traits.opening else ""),
            'agent.earlier_turns = "as_sampled" keeps the thoughts and one sample an episode; agent.memory = { name = "window" } '
            "keeps prompts short instead",
        )  # fmt: skip
    if traits.opening:
        return Finding(
            "note",
            f"the generation prompt opens a thought ({traits.opening!r}); earlier turns keep theirs",
            "a completion begins inside of a thought, so <think> is not in it",
            "parses the opening together with the completion, and closes it in demonstrations",
            "agent.template_options, where the template has a switch (enable_thinking in some)",
        )
    return ok("earlier turns keep their thoughts")


@check("turns")
def system(subject: Subject) -> Finding:
    """Whether system messages reach the model, and whether the template writes one of its own."""
    wanted = bool(subject.table.system)
    if not subject.renderer.traits(system=True).system:
        return Finding(
            "failure" if wanted else "note",
            f"the template takes no system message: {_why_no_system(subject)}",
            "agent.system cannot be used" + (", and the settings have one" if wanted else ""),
            "refuses agent.system with this template; without one nothing is lost",
            "put the text in front of agent.prompt",
        )
    own = _own_system(subject)
    if own and not wanted:
        return Finding(
            "note",
            f"where no system message is given the template writes its own: {own!r}",
            "every prompt holds words that no setting shows",
            "leaves them, as the model was trained with them",
            "agent.system replaces them",
        )
    return ok("system messages are shown" + ("" if own or not wanted else ", and the settings have one"))


@check("turns")
def roles(subject: Subject) -> Finding:
    """Whether roles may repeat, and whether the assistant may begin."""
    refused = {}
    for name, messages in {
        "two user messages in a row": [ASKS, REPLIES],
        "an assistant's message first": [SAYS, ASKS],
    }.items():
        problem = _refusal(subject, messages)
        if problem:
            refused[name] = problem
    if not refused:
        return ok("two user messages in a row and an assistant's message first are rendered")
    return Finding(
        "note",
        "it refuses " + " and ".join(f"{name} ({problem})" for name, problem in refused.items()),
        "demonstrations or prompts of another form could not be rendered",
        "writes one user message, then the model's turn, and never another order",
        "nothing",
        {"refused": sorted(refused)},
    )


@check("turns")
def tools(subject: Subject) -> Finding:
    """What the template makes of tools, of none, and of an empty list."""
    wanted = subject.table.tools == "template"
    grave = "failure" if wanted else "warning"
    usual = 'describes tools in the prompt\'s own text (agent.tools = "text", the default)'
    change = 'agent.tools = "text"; or a chat_template that renders the variable tools'
    try:
        subject.write([ASKS], tools=[LOOK_UP])
        none, empty = subject.write([ASKS], tools=None), _written_or_none(subject, [])
    except Refused as error:
        return Finding(
            grave,
            f"the template raises when it is given tools: {error}",
            'agent.tools = "template" cannot be used',
            usual,
            change,
        )
    try:
        shown = subject.renderer.with_tools([LOOK_UP])
    except ConfigError:
        return Finding(
            "failure" if wanted else "note",
            "the template shows no tools",
            'agent.tools = "template" cannot be used',
            usual,
            change,
        )
    added = len(shown.prompt([ASKS])) - len(subject.renderer.prompt([ASKS]))
    if empty != none:
        return Finding(
            "note",
            f"tools are shown ({added} tokens for a small one); an empty list of them is "
            + ("refused" if empty is None else "rendered otherwise than none"),
            "code that passes tools=[] prompts the model in a form of its own",
            "passes no variable tools where an environment has none",
            "nothing",
            {"tokens": added},
        )
    return ok(f"tools are shown ({added} tokens for a small one), an empty list is as none", tokens=added)


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _opening(renderer: Renderer, prompt: Sequence[int]) -> list[int]:
    """The ids at a prompt's end that open a thought."""
    ends = (list(prompt[-n:]) for n in range(1, len(prompt) + 1))
    return next((ids for ids in ends if renderer.opening and renderer.decode(ids) == renderer.opening), [])


def _difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first place where two lists of ids differ; None where they are equal."""
    pairs = itertools.zip_longest(one, other)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), None)


def _at(subject: Subject, ids: Sequence[int], place: int) -> str:
    return subject.token(ids[place] if place < len(ids) else None)


def _refusal(subject: Subject, messages: Sequence[Message]) -> str:
    try:
        text = subject.write(messages)
    except Refused as error:
        return str(error)
    lost = [message for message in messages if said(message) not in text]
    return f"drops the {lost[0].get('role')}'s" if lost else ""


def _why_no_system(subject: Subject) -> str:
    return _refusal(subject, [SYSTEM, ASKS]) or "it drops it"


def _own_system(subject: Subject) -> str:
    """The words that the template writes in front where no system message is given and not where one is."""
    alone = _words(subject, subject.write([ASKS]).partition(said(ASKS))[0])
    given = subject.write([SYSTEM, ASKS]).partition(said(ASKS))[0].replace(said(SYSTEM), "")
    known = _words(subject, given)
    return " ".join(word for word in alone if word not in known)


def _words(subject: Subject, text: str) -> list[str]:
    """The words of a template's text, without special tokens."""
    for token in subject.tokenizer.all_special_tokens:
        text = text.replace(token, " ")
    return re.findall(r"\S+", text)


def _written_or_none(subject: Subject, tools: list[Any]) -> str | None:
    try:
        return subject.write([ASKS], tools=tools)
    except Refused:
        return None
