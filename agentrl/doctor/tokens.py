"""Checks of a tokenizer: what ends a turn, what begins a prompt, and what a text from outside may not become."""

from __future__ import annotations

from agentrl.doctor.checks import Finding, collector, ok
from agentrl.doctor.subject import ASKS, Subject, said
from agentrl.errors import CheckpointError, ConfigError

CHECKS, check = collector("tokens")
SHOWN = 4  # names of tokens in a line


@check()
def tokenizer(subject: Subject) -> Finding:
    """The tokenizer can be read."""
    try:
        found = subject.tokenizer
    except CheckpointError as error:
        return Finding(
            "failure",
            "the tokenizer cannot be read",
            str(error),
            "can neither train nor evaluate this model",
            "put the model's tokenizer files (tokenizer.json, tokenizer_config.json) into its folder",
        )
    return ok(
        f"{type(found).__name__}, {len(found):,} tokens, {len(found.all_special_ids)} of them special",
        tokens=len(found),
        special=len(found.all_special_ids),
    )


@check("tokenizer")
def template(subject: Subject) -> Finding:
    """There is a chat template, and it renders a message."""
    try:
        n_tokens = len(subject.renderer.prompt([ASKS]))
    except ConfigError as error:
        return Finding(
            "failure",
            "there is no chat template that can be used",
            str(error),
            "renders every prompt by the model's own template, so it cannot use this model",
            "tokenizer.chat_template (chat_template.jinja in the model's folder)",
        )
    return ok(f"a chat template, {n_tokens} tokens for a message of {len(said(ASKS).split())} words")


@check("turns")
def end_of_turn(subject: Subject) -> Finding:
    """What ends the model's turn is what generation stops at."""
    renderer, known = subject.renderer, subject.tokenizer.added_tokens_decoder
    closing = renderer.closing()
    ends = {*subject.generation_ends, subject.tokenizer.eos_token_id} - {None}
    names = ", ".join(subject.token(end) for end in sorted(ends)) or "none"
    first = next((index for index in closing if index in known), None)
    if first is None:
        return Finding(
            "warning",
            f"no token ends the model's turn: behind its text the template writes {renderer.decode(closing)!r}",
            "the model sees earlier turns that end otherwise than those that it is trained to write",
            f"stops at {names}, and writes what the template writes behind earlier turns",
            "tokenizer.chat_template, so that it closes the model's turn with tokenizer.eos_token",
        )
    if first not in renderer.stop_ids:
        return Finding(
            "failure",
            f"{subject.token(first)} ends a turn in the template and is not declared special",
            "generation does not stop at it: each answer runs on to rollout.max_tokens, through turns that the model makes up",
            f"stops at special tokens and at {names} alone",
            f'"special": true for {subject.token(first)} in tokenizer.json, or eos_token_id in generation_config.json',
        )
    rest = renderer.decode(closing[closing.index(first) + 1 :])
    behind = f", behind it the template writes {rest!r}" if rest else ""
    if first not in ends:
        return Finding(
            "warning",
            f"{subject.token(first)} ends a turn in the template; the model's own files end generation at {names}{behind}",
            "an engine that goes by those files writes on past the end of the turn, or never stops",
            "stops at both, and trains the template's token as the end",
            f"tokenizer.eos_token, or eos_token_id = {first} in generation_config.json, before the model is served elsewhere",
            {"end": first, "eos": sorted(ends)},
        )
    return ok(f"{subject.token(first)} ends a turn and generation stops at it{behind}", end=first, eos=sorted(ends))


@check("template")
def bos(subject: Subject) -> Finding:
    """The token that begins a text stands once at the beginning of a prompt."""
    begin = subject.tokenizer.bos_token_id
    if begin is None:
        return ok("the tokenizer has no token that begins a text")
    prompt, plain = subject.renderer.prompt([ASKS]), list(subject.tokenizer("a")["input_ids"])
    adds, name = plain[:1] == [begin], subject.token(begin)
    if prompt[:2] == [begin, begin]:
        return Finding(
            "warning",
            f"the template writes {name} twice",
            "the model was hardly trained on a doubled beginning",
            "renders what the template says",
            "tokenizer.chat_template, so that it writes it once",
        )
    if prompt[:1] == [begin] and adds:
        return Finding(
            "note",
            f"the template writes {name}, and the tokenizer would add another",
            "code that tokenises a rendered prompt as any text doubles it",
            "tokenises without additions, so it stands once",
            "nothing",
        )
    if adds:
        return Finding(
            "note",
            f"the tokenizer begins texts with {name}, the template's prompts do not have it",
            "prompts lack a token that pre-training had, unless the model was tuned so",
            "follows the template",
            "tokenizer.chat_template, with {{ bos_token }} in front, where the model's card says so",
        )
    return ok(f"{name} stands {'once in front' if prompt[:1] == [begin] else 'nowhere, and nobody adds it'}")


@check("template")
def special_text(subject: Subject) -> Finding:
    """Names of special tokens in what a user or an environment says stay text."""
    renderer, unknown = subject.renderer, subject.tokenizer.unk_token_id
    names = {
        index: token.content for index, token in subject.tokenizer.added_tokens_decoder.items() if index != unknown
    }
    text = " ".join(f"a{name}b {name}" for name in names.values())
    acting = set(renderer.encode_text(text))
    leaks = [name for index, name in names.items() if index in acting]
    framed, frame = subject.ids(subject.write([{"role": "user", "content": text}])), renderer.prompt([ASKS])
    naive = [name for index, name in names.items() if framed.count(index) > frame.count(index)]
    if leaks:
        return Finding(
            "failure",
            f"{len(leaks)} tokens act where they are only text: {_some(leaks)}",
            "an environment's text could end the turn or speak as the model",
            "cuts texts behind the first character of each name, and this tokenizer joins them again",
            "another tokenizer class; nothing in a run file helps",
            {"leaks": len(leaks)},
        )
    return ok(
        f"none of {len(names)} added tokens acts inside a text; rendered as other code does, {len(naive)} would"
        + (f" ({_some(naive)})" if naive else ""),
        added=len(names),
        would_act=len(naive),
    )


@check("tokenizer")
def padding(subject: Subject) -> Finding:
    """Padding cannot be mistaken for text."""
    pad, end = subject.tokenizer.pad_token_id, subject.tokenizer.eos_token_id
    if pad is not None and pad == end:
        return Finding(
            "note",
            f"{subject.token(pad)} is both padding and the end of a text",
            "code that masks the padding's id never trains the end of a turn",
            "masks by position and not by id: ends are trained",
            "nothing",
        )
    return ok("no padding token; none is needed, rows are masked by position" if pad is None
              else f"{subject.token(pad)} pads, and is no end")  # fmt: skip


@check("tokenizer")
def vocabulary(subject: Subject) -> Finding:
    """Every token has a row in the embeddings."""
    rows, ids = subject.shape.vocabulary, subject.tokenizer.get_vocab()
    beyond = sorted((index, name) for name, index in ids.items() if index >= rows)
    numbers = {"rows": rows, "tokens": len(ids), "beyond": len(beyond)}
    if beyond:
        return Finding(
            "failure",
            f"{len(beyond)} of {len(ids):,} tokens have no row in the {rows:,} of the embeddings: {_some([n for _, n in beyond])}",
            "a prompt that holds one ends the forward pass with an error, and on a GPU the process",
            "does not resize a model: it could not know what the new rows should mean",
            "the tokenizer that belongs to the model; or model.resize_token_embeddings(len(tokenizer)), saved, and a warm start",
            numbers,
        )
    spare = rows - (max(ids.values(), default=-1) + 1)
    return Finding(
        "ok", f"{len(ids):,} tokens, {rows:,} rows{f', {spare} of them spare' if spare else ''}", numbers=numbers
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown + (" …" if len(names) > SHOWN else "")
