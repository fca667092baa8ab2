"""What a chat template does to a conversation, and what agentrl makes of that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.doctor.checks import Finding, collector, ok
from agentrl.doctor.subject import ASKS, REPLIES, SAYS, SYSTEM, Refused, Subject, said, shared
from agentrl.errors import ConfigError
from agentrl.types import Message

CHECKS, check = collector("conversation")
LOOK_UP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up_weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
AS_TEMPLATE = (
    'shows earlier turns as the template writes them (agent.earlier_turns = "auto") and opens a new sample where that reads '
    "differently; every sampled token is still trained once"
)
ANEW = "with the window memory of these settings nothing, as it renders every turn anew; a memory that appends "


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
    renderer, used = subject.renderer, bool(subject.table.system)
    heads = [used, True] if renderer.traits(system=True).system else [False]
    seen = [(system, renderer.traits(system=system), _growth(subject, system)) for system in dict.fromkeys(heads)]
    changed = next((one for one in seen if one[1].rewrites or one[2].kept < one[2].before), None)
    if changed is not None:
        system, _, growth = changed
        when = "" if system == used else ", where agent.system is given"
        return Finding(
            "warning" if system == used else "note",
            f"a turn that is added changes what stood before it{when}: {growth.shown}",
            "what was sampled is no beginning of the next prompt, so an episode that grows is not one sample",
            ("" if subject.appends else ANEW) + AS_TEMPLATE,
            'agent.earlier_turns = "as_sampled" keeps one sample an episode, in a form that the model may not know; or a '
            "chat_template that leaves earlier turns alone",
            {"kept": growth.kept, "tokens": growth.before},
        )
    _, traits, growth = seen[0]
    numbers = {"kept": growth.kept, "tokens": growth.before}
    if traits.spaces:
        return Finding(
            "note",
            "earlier turns keep their words but not all spaces around them"
            + (f": {growth.shown}" if growth.shown else ""),
            "text that is rendered again is not token for token what was sampled",
            "shows the sampled ids themselves, which are never decoded and encoded again",
            'nothing; agent.earlier_turns = "as_template" for the template\'s own spaces',
            numbers,
        )
    return Finding("ok", f"adding a turn keeps all {growth.before} tokens that stood before it", numbers=numbers)


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
            ("" if subject.appends else ANEW) + AS_TEMPLATE
            + ("; a completion is parsed together with the opening" if traits.opening else ""),
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


@dataclass(frozen=True, slots=True)
class _Growth:
    """What became of a prompt of ``before`` tokens when a turn and a reply were added: ``kept`` of them stand; ``shown`` says where
    the first difference is between what the template writes and what stood, or was added, there; "" where there is none."""

    before: int
    kept: int
    shown: str


def _growth(subject: Subject, system: bool) -> _Growth:
    renderer, head = subject.renderer, [SYSTEM] if system else []
    short = subject.write([*head, ASKS]).removesuffix(renderer.opening)
    whole = subject.write([*head, ASKS, SAYS, REPLIES])
    before, after = subject.ids(short), subject.ids(whole)
    kept = shared(before, after)
    if kept < len(before):
        place = shared(short, whole)
        return _Growth(len(before), kept, f"from token {kept} on, {_near(short, place)} becomes {_near(whole, place)}")
    closing = subject.write([ASKS, SAYS, REPLIES]).partition(said(SAYS))[2]
    grown = short + said(SAYS) + closing
    place = shared(grown, whole)
    if place == len(grown) == len(whole):
        return _Growth(len(before), kept, "")
    return _Growth(len(before), kept, f"{_near(grown, place)} is written {_near(whole, place)}")


def _near(text: str, place: int) -> str:
    return repr(text[max(0, place - 12) : place + 20])


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
