"""What ``agentrl.explain`` found, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from agentrl.terminal import inert

Json = Any
MOST_ROWS = 12  # of a list of turns that are compared
MOST_TABLES = 6
NARROWEST = 10  # letters of a text in a table, however narrow the terminal
MOST_LETTERS = 320  # of an observation


def print_overview(found: Mapping[str, Json]) -> None:
    """The trajectories of an iteration, group by group."""
    out = _console()
    out.print(Text(f"{found['run']}, iteration {found['iteration']}", style="bold"), soft_wrap=True)
    for group in found["groups"]:
        out.print()
        _print_group(out, group)
    out.print()
    if found["problem"]:
        out.print(Text(f"Not computed again: {found['problem']}.", style="bold red"), soft_wrap=True)
    elif not found["equal"]:
        n = found["n_turns"] - found["n_equal"]
        out.print(Text(f"{n} of {found['n_turns']} advantages are NOT what the record says.", style="bold red"))
    elif found["n_turns"]:
        out.print(f"All {found['n_turns']} advantages, computed again, equal the recorded ones.")
    else:
        out.print("No trajectory of this iteration was trained on.")
    if found["groups"]:
        example = found["groups"][0]["members"][0]["id"]
        out.print(Text(inert(f"Why? agentrl explain {found['run']} {example}"), style="dim"), soft_wrap=True)


def print_explanation(found: Mapping[str, Json]) -> None:
    """Why the turns of a trajectory have their advantages: one turn in full, or all in a table."""
    out = _console()
    turns = found["turns"]
    title = inert(found["trajectory"])
    one = len(turns) == 1
    out.print(Text(f"{title}  turn {turns[0]['turn']}" if one else title, style="bold"), soft_wrap=True)
    if one:
        _print_turn(
            out, turns[0], next(each for each in found["group"]["members"] if each["id"] == found["trajectory"])
        )
    out.print()
    _print_group(out, found["group"], found["trajectory"])
    out.print()
    if found["left_out"]:
        out.print(Text(f"No advantage: {inert(found['left_out'])}.", style="bold"), soft_wrap=True)
        return
    if one:
        _print_steps(out, found, turns[0])
    else:
        _print_table(out, turns)
    _print_verdict(out, found)


def _console() -> Console:
    return Console(markup=False, emoji=False, highlight=False)


def number(value: float | None, digits: int = 4) -> str:
    """A number as formulas show it."""
    return "none" if value is None else f"{value:.{digits}g}"


# ── the turn and its group ───────────────────────────────────────────────────────────────────────────────────────────


def _print_turn(out: Console, turn: Mapping[str, Json], own: Mapping[str, Json]) -> None:
    saw = " ".join(inert(turn["observation"]).split())
    saw = saw if len(saw) <= MOST_LETTERS else f"{saw[:MOST_LETTERS]} …"
    got = f"reward {number(turn['reward'])}"
    got += f", penalty {number(turn['penalty'])}" if turn["penalty"] else ""
    lines = [("saw", saw), ("did", f"{inert(turn['action'])}{'' if turn['valid'] else '   (invalid)'}"), ("got", got)]
    if own["rewards"]:
        parts = ", ".join(f"{name} {number(value)}" for name, value in own["rewards"].items())
        lines.append(("scores", f"{parts}   (of the trajectory, added to its last turn's reward)"))
    if turn["measured"]:
        measured = ", ".join(f"{name} {_shown(value)}" for name, value in turn["measured"].items())
        lines.append(("measured", measured))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for heading, text in lines:
        grid.add_row(heading, Text(text))
    out.print(grid)


def _print_group(out: Console, group: Mapping[str, Json], own: str = "") -> None:
    members = group["members"]
    table = _table("", "trajectory", "outcome", "success", "#reward", "#turns", "#advantage")
    for member in members:
        low, high = member["advantage_min"], member["advantage_max"]
        advantage = "left out" if low is None else number(low) if low == high else f"{number(low)} … {number(high)}"
        cells = [_short(member["id"], group["id"]), member["outcome"], "yes" if member["success"] else "no"]
        cells += [number(member["reward"]), str(member["turns"]), advantage]
        _add(table, member["id"] == own, cells)
    n = len(members)
    heading = f"group {group['id']}: {n} trajector{'y' if n == 1 else 'ies'}"
    out.print(Text(inert(heading), style="bold"), soft_wrap=True)
    _print_wide(out, table)


def _short(identity: str, group: str) -> str:
    return identity.removeprefix(f"{group}/")


def _table(*headings: str) -> Table:
    """Headings that begin with # are of numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        numeric = heading.startswith("#")
        table.add_column(heading.lstrip("#"), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    return table


def _print_wide(out: Console, table: Table) -> None:
    """A table whose numbers are never cut and whose texts never vanish, also where that takes more than the width of the
    terminal."""
    for column in table.columns:
        longest = max(len(str(cell)) for cell in (column.header, *column.cells))
        column.min_width = longest if column.no_wrap else min(longest, NARROWEST)
    least = Measurement.get(out, out.options.update(max_width=10_000), table).minimum
    table.width = least if least > out.width else None
    out.print(table, crop=False)


def _add(table: Table, own: bool, cells: list[str]) -> None:
    table.add_row(*(Text(inert(cell)) for cell in ("→" if own else "", *cells)), style="bold" if own else "")


# ── one turn in full ─────────────────────────────────────────────────────────────────────────────────────────────────


def _print_steps(out: Console, found: Mapping[str, Json], turn: Mapping[str, Json]) -> None:
    for step in turn["rewards"]:
        _print_heading(out, step)
        _print_columns(out, step)
    for step in turn["credit"]:
        _print_heading(out, step)
        _print_columns(out, step)
        if step["term"] is not None:
            _print_term(out, step["term"])
            _print_compared(out, step["term"], found, turn["turn"])
        elif step["gave"] is not None:
            out.print(f"  A = {number(step['gave'])}   (the method has no explain(); this is what it gave)")
        if not step["agrees"]:
            wrong = (
                f"  explain() of {step['name']} says {step['term']['value']!r}, but the method gave {step['gave']!r}"
            )
            out.print(Text(wrong, style="bold red"), soft_wrap=True)
        if step["gave"] is not None and len(turn["credit"]) > 1:
            out.print(f"  advantage: {_composed(step)}")
        out.print()


def _composed(step: Mapping[str, Json]) -> str:
    if step["changes"]:
        return f"{number(step['before'])} becomes {number(step['after'])}"
    return f"{number(step['before'])} + {_signed(step['gave'])} = {number(step['after'])}"


def _signed(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)


def _print_heading(out: Console, step: Mapping[str, Json]) -> None:
    heading = Text(f"{step['place']} {inert(step['name'])}", style="bold")
    out.print(heading.append(f"   {inert(step['formula'])}", style="not bold dim"), soft_wrap=True)


def _print_columns(out: Console, step: Mapping[str, Json]) -> None:
    for name, (before, after) in step["columns"].items():
        changed = "unchanged" if before == after else "was none" if before is None else f"was {_shown(before)}"
        out.print(Text(inert(f"  {name} = {_shown(after)}   ({changed})")), soft_wrap=True)


def _shown(value: Json) -> str:
    return number(value) if isinstance(value, float) else "none" if value is None else str(value)


def _walk(term: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    yield term
    for part in term["parts"]:
        yield from _walk(part)


def _print_term(out: Console, term: Mapping[str, Json]) -> None:
    """One line for each term, a term of the same name and numbers only once; on two lines where it is long."""
    seen: set[tuple[str, str]] = set()
    width = max(len(each["symbol"]) for each in _walk(term))
    for each in _walk(term):
        if (each["symbol"], each["filled"]) in seen:
            continue
        seen.add((each["symbol"], each["filled"]))
        start = f"  {each['symbol']:<{width}} = "
        value = number(each["value"])
        ends = [each["formula"].replace(" ** ", "^")] if each["formula"] != each["filled"] else []
        ends += [each["filled"]] if each["filled"] != value else []
        line = f"{start}{' = '.join([*ends, value])}"
        if len(line) > out.width and len(ends) > 1:
            line = f"{start}{ends[0]}\n  {'':<{width}} = {ends[1]} = {value}"
        text = Text(line)
        note = "; ".join(filter(None, (inert(each["note"]), _among(each))))
        if note:
            text.append(f"   {note}", style="dim")
        out.print(text, soft_wrap=True)


def _among(term: Mapping[str, Json]) -> str:
    """With whom it was compared, in words."""
    among = term.get("among")
    if among is None or term["formula"] == "0":
        return ""
    text = f"{among['name']}: {number(among['n_units'], 12)} {among['unit']}"
    if among["virtual"]["n"]:
        text += f" and {among['virtual']['n']} counting as {number(among['virtual']['value'])}"
    return text


def _print_compared(out: Console, term: Mapping[str, Json], found: Mapping[str, Json], turn: int) -> None:
    """What each comparison compares: the turns, or where it is with the whole group its trajectories."""
    compared = [each for each in _walk(term) if "members" in each.get("among", ()) and each["among"]["n_rows"] > 1]
    for each in compared[:MOST_TABLES]:
        among = each["among"]
        about = " ".join(among["about"].split())
        about = about if len(about) <= 80 else f"{about[:80]} …"
        out.print(Text(inert(f"  {each['symbol']}, {among['name']}{about and f' ({about})'}:")), soft_wrap=True)
        if among["whole_group"]:
            _print_by_trajectory(out, among, found["group"]["id"])
        else:
            _print_members(out, among, found, turn)
    if len(compared) > MOST_TABLES:
        out.print(Text("  … further comparisons: --json has them all", style="dim"))


def _print_by_trajectory(out: Console, among: Mapping[str, Json], group: str) -> None:
    """The compared number of each member of the group, one line for all."""
    values: dict[str, list[float]] = {}
    for row in among["members"]:
        values.setdefault(_short(row["trajectory"], group), []).append(row["value"])
    each = (f"{name} {number(sum(found) / len(found))}" for name, found in values.items())
    varies = any(len(set(found)) > 1 for found in values.values())
    mean = f"    {among['symbol']}, mean over turns" if varies else f"    {among['symbol']}"
    out.print(Text(inert(f"{mean}: {', '.join(each)}")), soft_wrap=True)


def _print_members(out: Console, among: Mapping[str, Json], found: Mapping[str, Json], turn: int) -> None:
    """The compared number of each turn, the explained one among them."""
    table = _table("  ", "trajectory", "#turn", "action", f"#{among['symbol']}")
    rows = among["members"]
    own = [row for row in rows if row["trajectory"] == found["trajectory"] and row["turn"] == turn]
    first = [*own, *(row for row in rows if row not in own)][:MOST_ROWS]
    for row in (row for row in rows if row in first):
        cells = [_short(row["trajectory"], found["group"]["id"]), str(row["turn"]), row["action"]]
        _add(table, row in own, [*cells, number(row["value"])])
    _print_wide(out, table)
    if len(rows) > MOST_ROWS:
        out.print(Text(f"  … and {len(rows) - MOST_ROWS} more: --json has them all", style="dim"))


# ── all turns ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _print_table(out: Console, turns: list[Mapping[str, Json]]) -> None:
    """A line for each turn: its action, the parts of its advantage, and the advantage."""
    columns = list(dict.fromkeys(name for turn in turns for name in _parts(turn)))
    penalty = any(turn["penalty"] for turn in turns)
    headings = ("", "#turn", "action", "#reward", *(("#penalty",) if penalty else ()))
    table = _table(*headings, *(f"#{name}" for name in columns), "#advantage")
    for turn in turns:
        parts = _parts(turn)
        cells = [str(turn["turn"]), turn["action"] + ("" if turn["valid"] else " (invalid)"), number(turn["reward"])]
        cells += [number(turn["penalty"])] if penalty else []
        advantage = turn["recorded"] if turn["recomputed"] is None else turn["recomputed"]
        cells += [*(parts.get(name, "") for name in columns), number(advantage)]
        _add(table, False, cells)
    _print_wide(out, table)


def _parts(turn: Mapping[str, Json]) -> dict[str, str]:
    """What the advantage is made of; of several credit methods also what each gave."""
    several = len(turn["credit"]) > 1
    found: dict[str, str] = {}
    for step in turn["credit"]:
        if several and step["gave"] is not None:
            found[step["name"]] = number(step["gave"])
        for part in step["term"]["parts"] if step["term"] else ():
            found[f"{step['name']} {part['symbol']}" if several else part["symbol"]] = number(part["value"])
    return found


def _print_verdict(out: Console, found: Mapping[str, Json]) -> None:
    turns = found["turns"]
    if found["problem"]:
        recorded = ", ".join(number(turn["recorded"]) for turn in turns)
        text = f"Not computed again: {found['problem']}. From the record: advantage {recorded}."
        out.print(Text(text, style="bold red"), soft_wrap=True)
        return
    if len(turns) == 1:
        recorded, now = (number(turns[0][name], 12) for name in ("recorded", "recomputed"))
        text = f"Advantage {now}, computed again from the record; "
        text += f"recorded {recorded}: equal." if found["equal"] else f"recorded {recorded}: NOT EQUAL."
    else:
        wrong = [str(turn["turn"]) for turn in turns if not turn["equal"]]
        text = f"All {len(turns)} advantages, computed again, equal the recorded ones."
        text = f"NOT EQUAL to the recorded advantages: turn {', '.join(wrong)}." if wrong else text
    if not found["equal"]:
        text += " The record, a method or config.toml was changed after the iteration."
    out.print(Text(text, style="" if found["equal"] else "bold red"), soft_wrap=True)
