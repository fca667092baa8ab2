"""Checks of what is read back: actions in tags, calls of tools."""

from __future__ import annotations

from typing import Any

from agentrl.chat import ActionFormat, VerlAgentFormat
from agentrl.chat.tool_calls import FORMATS, Calls
from agentrl.doctor.checks import Finding, collector, ok
from agentrl.doctor.subject import ASKS, Refused, Subject, shared
from agentrl.types import Message, ToolCall

CHECKS, check = collector("formats")
ACTIONS = ("go to table 2", "take apple 3 from fridge 1", "look")
CALLS = (
    ToolCall("look_up", {"town": 'Bad "Ems" <b>', "days": [1, -2.5], "exact": True}),
    ToolCall("note", {"text": "öffne\nTür 🚪 \\ ' {", "to": None}),
)


@check("template")
def action_tags(subject: Subject) -> Finding:
    """An action that is written as a completion is read back from its tokens."""
    table, renderer = subject.table, subject.renderer
    form = (
        VerlAgentFormat()
        if table.projection == "verl_agent"
        else ActionFormat(table.action_tags is not False, table.think_tags)
    )
    lost, n_tags, opened = [], 0, bool(renderer.opening)
    for action in ACTIONS:
        written = renderer.decode(renderer.encode_text(action)).strip()  # a tokenizer of few words knows no others
        ids = renderer.completion(form.pieces(action, "I look" if form.think_tags else "", opened=opened))
        parsed = form.parse(renderer.opening + renderer.decode(ids))
        n_tags = len(ids) - len(renderer.encode_text(action)) - 1
        if parsed.problem or parsed.action != written:
            lost.append(f"{action!r} comes back as {parsed.action!r}{f' ({parsed.problem})' if parsed.problem else ''}")
    if lost:
        return Finding(
            "failure",
            f"{len(lost)} of {len(ACTIONS)} actions are lost between text and tokens: {lost[0]}",
            "no demonstration could be written, and a right answer would be read as another",
            "checks each demonstration and stops at the first that is lost",
            "agent.action_tags = false, where the tags are what is lost; or another tokenizer",
        )
    kind = f"in tags, which take {n_tags} tokens" if form.action_tags else "without tags"
    return ok(f"actions are read back {kind}", tokens=n_tags)


@check("template")
def tool_calls(subject: Subject) -> Finding:
    """Calls of tools are read back in each format, and in the one that the template itself writes."""
    renderer = subject.renderer
    lost = []
    for name, make in FORMATS.items():
        text = make().render(CALLS)
        decoded = renderer.decode(renderer.completion([(text, True)]))
        found = make().parse(decoded)
        if not (isinstance(found, Calls) and found.calls == CALLS):
            lost.append((name, decoded == text))
    own, read_as = _own_form(subject)
    shown = f"the template writes calls {f'as {own!r}' if not read_as else 'as the format ' + read_as}" if own else (
        "the template writes no calls of its own"
    )  # fmt: skip
    numbers = {"lost": [name for name, _ in lost], "own": own, "read_as": read_as}
    if lost:
        return Finding(
            "note",
            f"this tokenizer cannot write calls of tools ({', '.join(name for name, _ in lost)}); {shown}",
            "letters or signs of a call have no tokens, so environments with tools cannot be played",
            "plays environments whose actions are words of the tokenizer",
            "a tokenizer that covers all text, for environments with tools",
            numbers,
        )
    if own and not read_as:
        return Finding(
            "note",
            f"{shown}, which is none of {', '.join(FORMATS)}",
            "the form that the model was trained to call in is not read",
            "tells the model the form that it reads, in the prompt's text",
            'env.options.format = "json", "python" or "hermes", whichever is nearest; a warm start (agentrl sft) teaches it',
            numbers,
        )
    return Finding("ok", f"calls are read back in the formats {', '.join(FORMATS)}; {shown}", numbers=numbers)


def _own_form(subject: Subject) -> tuple[str, str]:
    """What the template writes for a call of a tool, and the format that reads it; "" each where there is none."""
    call = ToolCall(CALLS[0].name, {"town": "Ems", "days": [1, -2]})
    row: dict[str, Any] = {"name": call.name, "arguments": dict(call.arguments)}
    message: Any = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "abcdef123", "function": row}],
    }
    empty: Message = {"role": "assistant", "content": ""}
    try:
        text = subject.write([ASKS, message], opens=False)
        plain = subject.write([ASKS, empty], opens=False)
    except Refused:
        return "", ""
    if call.name not in text:
        return "", ""
    start = shared(text, plain)
    end = min(shared(text[::-1], plain[::-1]), len(plain) - start)
    stop = len(text) - end
    # Both texts may go on with the same sign ("<" of a tag): it belongs to the call where the call ends with it.
    while start and text[start] not in "<[{" and text[start - 1] == text[stop - 1]:
        start, stop = start - 1, stop - 1
    own = text[start:stop].strip()
    for name, make in FORMATS.items():
        found = make().parse(own)
        if isinstance(found, Calls) and found.calls == (call,):
            return own, name
    return own, ""
