"""The reference pages as Markdown."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl import facts
from agentrl.errors import ConfigError, did_you_mean
from agentrl.listing import STAGES, listing
from agentrl.reference.schema import toml, words
from agentrl.store import write_atomic
from agentrl.tool import Recipe, tools_of

FILES = {
    "methods": "agentrl/algorithms/METHODS.md",
    "keys": "configs/REFERENCE.md",
    "envs": "envs/README.md",
    "tools": "tools/README.md",
}
STAGE_WORDS = {
    "sampler": "Which tasks are played, and by how many members",
    "score": "Rewards besides the environment's",
    "filter": "Which groups and trajectories are trained on",
    "reward": "What changes rewards, penalties and columns before credit",
    "credit": "Each turn's advantage",
    "token_weight": "Weights and masks of tokens",
    "loss": "The loss of the tokens",
    "regularizer": "What is added to the loss",
}


def page(what: str, *, own: bool = False) -> str:
    """The page of ``methods``, ``keys``, ``envs`` or ``tools``; ``own``: of what ships with agentrl alone. Raises ConfigError for
    another word."""
    makers: dict[str, Callable[[bool], Iterator[str]]] = {
        "methods": _methods,
        "keys": _keys,
        "envs": _environments,
        "tools": _tools,
    }
    if what not in makers:
        raise ConfigError(f"there is no reference page of '{what}'.{did_you_mean(what, makers)}")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(makers[what](own))).rstrip() + "\n"


def write(checkout: Path) -> list[Path]:
    """Writes every page into a checkout, of what ships with agentrl, and the counts into its README; returns the files."""
    files = {checkout / file: page(what, own=True) for what, file in FILES.items()}
    readme = checkout / "README.md"
    files[readme] = with_counts(readme.read_text(encoding="utf-8"))
    for file, text in files.items():
        write_atomic(file, text.encode("utf-8"))
    return list(files)


def with_counts(text: str) -> str:
    """A page whose block of methods holds how many of each stage ship, and their names. Raises ConfigError for one without it."""
    head, start, rest = text.partition("<!-- methods: written by `make docs` -->\n")
    _, end, tail = rest.partition("<!-- end of methods -->")
    if not (start and end):
        raise ConfigError(
            "the page has no block between <!-- methods: written by `make docs` --> and <!-- end of methods -->"
        )
    by_stage = _by_stage(own=True)
    n_methods = sum(map(len, by_stage.values()))
    cells = (
        (stage, str(len(found)), f"{STAGE_WORDS[stage]}: {', '.join(row['name'] for row in found)}")
        for stage, found in by_stage.items()
    )
    counts = "\n".join(_table(("stage", f"methods ({n_methods})", "what, and which"), cells))
    return f"{head}{start}\n{counts}\n\n{end}{tail}"


def _note(what: str) -> str:
    return f"<!-- Written by `make docs`; the same with plug-ins of your own: `agentrl list {what} --markdown`. -->"


# ── methods ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _methods(own: bool) -> Iterator[str]:
    by_stage = _by_stage(own)
    yield from ("# Methods, one by one", "", _note("methods"), "")
    yield (
        "Every method with its formula, source, parameters and columns, from its file; a column in braces is the one that this "
        "parameter names. What a method is, and how they compare, says [README.md](README.md)."
    )
    yield ""
    for stage, found in by_stage.items():
        links = ", ".join(f"[{row['name']}](#{_slug(stage + ' ' + row['name'])})" for row in found)
        yield f"- **{stage}**: {links}"
    for stage, found in by_stage.items():
        yield from ("", f"## {stage}", "", f"{STAGE_WORDS[stage]}.", "")
        for row in found:
            yield from _method(row)


def _by_stage(own: bool) -> dict[str, list[dict[str, Any]]]:
    rows = [row for row in listing("methods")["methods"] if not own or _ships(row["module"])]
    return {stage: [row for row in rows if row["stage"] == stage] for stage in STAGES}


def _method(row: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"### {row['stage']} {row['name']}", "", f"    {row['formula']}", "", _prose(row["docstring"]), "")
    reads, writes = (", ".join(f"`{column}`" for column in row[key]) for key in ("reads", "writes"))
    source = "" if "Source:" in row["docstring"] else f"Source: {row['source']}. "
    columns = f"Reads {reads or 'no column'}{f', writes {writes}' if writes else ''}. " if reads or writes else ""
    yield from (f"{source}{columns}In `{row['module']}`.", "")
    if row["parameters"]:
        cells = ((f"`{name}`", words(each), _default(each)) for name, each in row["parameters"].items())
        yield from (*_table(("parameter", "values", "default"), cells), "")


# ── keys of a run file ───────────────────────────────────────────────────────────────────────────────────────────────


def _keys(own: bool) -> Iterator[str]:
    rows, tables = facts.run_keys(), facts.run_tables()
    yield from ("# Run files, key by key", "", _note("keys"), "")
    yield (
        "Every table of a run file and its keys, from `agentrl/run_tables.py`. How run files are written, and what they build on, "
        "says [README.md](README.md); the methods that `[algorithm]` names and their parameters are in "
        "[METHODS.md](../agentrl/algorithms/METHODS.md), the options of environments in [envs](../envs/README.md)."
    )
    for name, about in tables.items():
        shown = f"[[{name}]]` or `[{name}]" if name in facts.SEVERAL else f"[{name}]"
        yield from ("", f"## `{shown}`", "", _prose(about), "")
        found = [row for row in rows if row["table"] == name]
        cells = ((f"`{row['key']}`", words(row["schema"]), _default(row), _prose(row["meaning"])) for row in found)
        yield from _table(("key", "values", "default", "meaning"), cells)


# ── environments ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _environments(own: bool) -> Iterator[str]:
    rows = [row for row in facts.environments() if not own or row["id"].startswith("agentrl/")]
    yield from ("# Environments", "", _note("envs"), "")
    yield (
        "Every environment with its levels, options and splits, from its class. An id is what `[env]` of a run file and "
        "`agentrl eval` take; `agentrl check ID` verifies its contract. Your own: [examples](../examples/README.md)."
    )
    yield ""
    cells = (
        (f"[`{row['id']}`](#{_slug(row['id'])})", _prose(row.get("about", row.get("problem", "")))) for row in rows
    )
    yield from _table(("id", "what"), cells)
    for row in rows:
        if "problem" not in row:
            yield from _environment(row)


def _environment(row: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"## {row['id']}", "", _prose(row["text"]), "")
    if folder := _folder(row["modules"]):
        yield from (f"More on its [page]({folder}/README.md).", "")
    offered = facts.offers(row["id"]) if row["levels"] else row["offers"]  # one without levels may need data to be made
    yield from (f"Offers: {', '.join(offered) or 'none of the optional hooks'}.", "")
    shown = ((f"`{each['name']}`", f"`{_default(each)}`") for each in row["options"])
    yield from (*_table(("option", "default"), shown), "")
    sizes = facts.sizes(row["id"], row["levels"])
    if sizes:
        splits = list(next(iter(sizes.values())))
        cells = ((level, *(f"{found[split]:,}" for split in splits)) for level, found in sizes.items())
        yield from _table((f"`{next(iter(row['levels']))}`", *(f"{split} tasks" for split in splits)), cells)
    else:
        yield "It has no levels of its own; its tasks come from what it is given."


def _folder(modules: Iterable[str]) -> str:
    """The folder of a provided environment's page, as it is linked from ``envs/``: its own, else that of a class above it; "" where
    there is none."""
    matches = (re.match(r"agentrl\.envs\.(\w+)\.", module) for module in modules)
    envs = Path(__file__).parents[1] / "envs"
    return next((match[1] for match in matches if match and (envs / match[1] / "README.md").is_file()), "")


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tools(own: bool) -> Iterator[str]:
    rows = [row for row in listing("tools")["tools"] if not own or _ships(row["module"])]
    yield from ("# Tools", "", _note("tools"), "")
    yield (
        'The tools that an environment can be given by name, as in `ToolEnv(tools=["calculator", …])` or `[env.options]`; a table '
        "`{ name = …, … }` gives options. Your own: [examples](../examples/README.md)."
    )
    heads = {row.get("toolset", row["name"]): row for row in reversed(rows)}  # the first of each
    for name in reversed(heads):
        yield from ("", f"## {name}", "", _prose(inspect.getdoc(sys.modules[heads[name]["module"]]) or ""), "")
        yield from _toolset(name)
        for row in rows:
            if row.get("toolset", row["name"]) == name and "parameters" in row:
                yield from _tool(row)


def _toolset(name: str) -> Iterator[str]:
    """The options of a toolset, and what its class says of them."""
    entry = tools_of(name)
    if not isinstance(entry, Recipe):
        return
    yield from (_prose(inspect.getdoc(entry.cls) or ""), "")
    cells = [(f"`{each['name']}`", f"`{_default(each)}`") for each in facts.options(entry.cls)]
    if cells:
        yield from (*_table(("option", "default"), cells), "")


def _tool(row: Mapping[str, Any]) -> Iterator[str]:
    """What a model is told of a tool."""
    yield from (f"**`{row['name']}`**: {_prose(row['description'])}", "")
    required = row["parameters"].get("required", ())
    cells = (
        (
            f"`{key}`",
            words(each),
            "required" if key in required else _default(each),
            _prose(each.get("description", "")),
        )
        for key, each in row["parameters"].get("properties", {}).items()
    )
    yield from (*_table(("argument", "values", "default", "meaning"), cells), "")


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _ships(module: str) -> bool:
    return module.partition(".")[0] == "agentrl"


def _slug(text: str) -> str:
    """GitHub's name of a heading."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


def _prose(text: str) -> str:
    """A docstring as Markdown: code in single backticks, sessions of Python and drawn tables as blocks of code, and no text that
    HTML would take for a tag."""
    return "\n\n".join(_paragraph(part) for part in text.split("\n\n"))


def _paragraph(text: str) -> str:
    if text.startswith("    "):
        return text
    if text.startswith((">>>", "==")):
        return "\n".join(f"    {line}" for line in text.splitlines())
    parts = re.split(r"(``.+?``)", text)
    shown = (f"`{part[2:-2]}`" if part.startswith("``") else re.sub(r"<(?=[\w/!|])", "&lt;", part) for part in parts)
    return "".join(shown)


def _default(field: Mapping[str, Any]) -> str:
    return "required" if field.get("required") else toml(field.get("default"))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
