from __future__ import annotations

import asyncio
import enum
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from agentrl.errors import ConfigError, Fault, RegistryError
from agentrl.tool import BadArguments, Recipe, Tool, ToolError, ToolFault, Toolset, register_tool, tool, tools_of


class Colour(enum.Enum):
    RED = "red"


class Point(BaseModel):
    x: int
    y: float = 0.5


def run(made: Tool, **arguments: Any) -> Any:
    return asyncio.run(made.call(arguments))


@tool
def paint(
    times: Annotated[int, Field(ge=1, description="how often")],
    at: Point,
    colour: Colour = Colour.RED,
    *,
    mode: Literal["fast", "fine"] = "fast",
) -> str:
    """Paints a point.

    With a brush.

    Args:
        times: is described by its annotation already.
        at (Point): Where,
            in pixels.
        mode: How well.

    Returns:
        What was done.
    """
    return f"{times} {at.x} {at.y} {colour.name} {mode}"


def test_schema_is_openais_form_of_the_signature() -> None:
    about = paint.schema()["function"]
    assert paint.schema()["type"] == "function"
    assert (about["name"], about["description"]) == ("paint", "Paints a point.\n\nWith a brush.")
    schema = about["parameters"]
    assert (schema["required"], schema["additionalProperties"]) == (["times", "at"], False)
    assert schema["properties"]["times"] == {"description": "how often", "minimum": 1, "type": "integer"}
    assert schema["properties"]["at"]["description"] == "Where, in pixels."
    assert schema["properties"]["mode"] == {
        "default": "fast",
        "description": "How well.",
        "enum": ["fast", "fine"],
        "type": "string",
    }
    assert "title" not in str(schema)


def test_call_gives_typed_arguments_with_defaults() -> None:
    result = run(paint, times="2", at={"x": 1})
    assert (result.text, result.error) == ("2 1 0.5 RED fast", None)
    assert paint(1, Point(x=3)) == "1 3 0.5 RED fast"  # plain Python


def test_each_problem_of_the_arguments_is_a_line() -> None:
    result = run(paint, times=0, at={"x": "left"}, colour="blue", mod="fine")
    assert result.error == "arguments"
    lines = result.text.split("\n")
    assert lines[0] == "Error: paint: argument 'times': input should be greater than or equal to 1; got 0"
    assert lines[1].startswith("paint: argument 'at.x': input should be a valid integer") and "got 'left'" in lines[1]
    assert "got 'blue'" in lines[2]
    assert lines[3] == "paint has no argument 'mod'. Did you mean 'mode'?"
    assert run(paint, times=1).text == "Error: paint: the argument 'at' is missing"
    assert asyncio.run(paint.call([1])).text == "Error: paint wants its arguments as an object; got [1]"


@pytest.mark.parametrize(
    ("raised", "error", "text"),
    [
        (ToolError("no such file"), "tool", "Error: no such file"),
        (ZeroDivisionError("by 0"), "exception", "Error: bad raised ZeroDivisionError: by 0"),
        (SystemExit(3), "exception", "Error: bad raised SystemExit: 3"),
        (TimeoutError("its own"), "exception", "Error: bad raised TimeoutError: its own"),
    ],
)
@pytest.mark.parametrize("timeout_s", [None, 10.0])
def test_what_a_tool_raises_is_text(raised: BaseException, error: str, text: str, timeout_s: float | None) -> None:
    @tool(timeout_s=timeout_s)
    def bad() -> str:
        """Raises."""
        raise raised

    result = run(bad)
    assert (result.error, result.text) == (error, text)


def test_many_problems_of_arguments_are_told_in_few_lines() -> None:
    result = run(paint, times=1, at={"x": 1}, **{f"wrong{number}": 1 for number in range(500)})
    assert result.error == "arguments" and result.text.count("\n") == 10
    assert result.text.endswith("… and 490 more problems of the arguments")


def test_only_declared_errors_are_faults() -> None:
    @tool(faults=(ConnectionError,))
    def fetch(which: int) -> str:
        """Raises."""
        raise [ConnectionRefusedError("no server"), ToolFault("the index is gone"), OSError("not declared")][which]

    with pytest.raises(ToolFault, match="tool 'fetch': ConnectionRefusedError: no server"):
        run(fetch, which=0)
    with pytest.raises(Fault, match="the index is gone"):
        run(fetch, which=1)
    assert run(fetch, which=2).error == "exception"


def test_timeouts_end_async_and_abandon_sync_tools() -> None:
    free, ended = threading.Event(), []

    @tool(timeout_s=0.05)
    async def waits() -> str:
        """Waits."""
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return "never"

    @tool(timeout_s=0.05)
    def hangs() -> str:
        """Hangs."""
        free.wait(10)
        return "late"

    assert (run(waits).error, ended) == ("timeout", ["cancelled"])
    result = run(hangs)
    free.set()
    assert (result.error, result.text) == ("timeout", "Error: hangs took longer than 0.05 s and was given up")


def test_concurrency_is_bounded_over_event_loops() -> None:
    live: list[int] = []
    most: list[int] = []

    @tool(concurrency=2)
    async def busy() -> str:
        """Works."""
        live.append(1)
        most.append(len(live))
        await asyncio.sleep(0.01)
        live.pop()
        return "done"

    async def many() -> list[Any]:
        return await asyncio.gather(*(busy.call({}) for _ in range(4)))

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(most), max(most), live) == (12, 2, [])


def test_a_cancelled_waiter_gives_its_place_on() -> None:
    @tool(concurrency=1)
    async def busy(event: bool) -> str:
        """Works."""
        if event:
            await asyncio.sleep(0.05)
        return "done"

    async def scene() -> str:
        first = asyncio.create_task(busy.call({"event": True}))
        await asyncio.sleep(0)
        second = asyncio.create_task(busy.call({"event": False}))
        await asyncio.sleep(0)
        second.cancel()
        await first
        return (await asyncio.wait_for(busy.call({"event": False}), 5)).text

    assert asyncio.run(scene()) == "done"


def test_results_are_text_or_json_and_cut() -> None:
    @tool(max_result_chars=10)
    def give(what: int) -> Any:
        """Gives."""
        return ["é", {"a": [1, None]}, Point(x=1), "x" * 12, object()][what]

    texts = [run(give, what=number).text for number in range(5)]
    assert texts[:2] == ["é", '{"a":[1,nu\n… (4 more characters were cut)']
    assert texts[3] == "x" * 10 + "\n… (2 more characters were cut)"
    assert run(give, what=4).error == "tool"


def _untyped(a) -> str:  # type: ignore[no-untyped-def]
    """Text."""
    return a


def _star(*names: str) -> str:
    """Text."""
    return ""


def _positional(a: int, /) -> str:
    """Text."""
    return ""


def _unknown(a: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    """Text."""
    return ""


def _lock(a: threading.Thread) -> str:
    """Text."""
    return ""


def _silent(a: int) -> str:
    return ""


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (_untyped, "'a' has no annotation"),
        (_star, "by name"),
        (_positional, "by name"),
        (_unknown, "'Nowhere' is not defined"),
        (_lock, "cannot validate"),
        (_silent, "no docstring"),
    ],
)
def test_badly_typed_functions_are_refused(function: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        tool(function)


@pytest.mark.parametrize("limits", [{"timeout_s": 0.0}, {"concurrency": 0}, {"name": "two words"}])
def test_bad_limits_and_names_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        tool(**limits)(paint.function)


class Notes(Toolset):
    def __init__(self, limit: int = 2) -> None:
        self.limit = limit
        self.lines: list[str] = []

    @tool
    def write(self, line: str) -> list[str]:
        """Writes."""
        if len(self.lines) == self.limit:
            raise ToolError("the page is full")
        self.lines.append(line)
        return self.lines

    @tool(name="read_all")
    async def read(self) -> list[str]:
        """Reads."""
        return self.lines


class FewNotes(Notes):
    read = None  # type: ignore[assignment]  # a subclass takes a tool away


def test_toolsets_have_tools_bound_to_each_instance() -> None:
    one, two = Notes(), Notes()
    assert [each.name for each in one.tools()] == ["write", "read_all"] == [each.name for each in Notes.listed()]
    assert one.write("a") == ["a"] and run(two.tools()[0], line="b").text == '["b"]'
    assert run(one.tools()[1]).text == '["a"]'
    assert "self" not in Notes.listed()[0].parameters["properties"]
    assert [each.name for each in FewNotes.listed()] == ["write"]


@dataclass
class Boxes(Toolset):
    n: Annotated[int, Field(ge=1)]


def test_tools_are_named_in_lists() -> None:
    assert tools_of(paint) is paint and tools_of(f"{__name__}:paint").name == "paint"
    assert tools_of(paint.function).name == "paint"
    made = tools_of({"name": f"{__name__}:Notes", "limit": 5})
    assert isinstance(made, Recipe) and made.make().limit == 5 and tools_of(Notes).make().limit == 2  # type: ignore[attr-defined]
    assert tools_of({"name": f"{__name__}:Boxes", "n": 1}).make() == Boxes(1)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"name": f"{__name__}:Notes", "limt": 1}, "Did you mean 'limit'"),
        ({"name": f"{__name__}:Notes", "limit": "many"}, "valid integer"),
        ({"name": f"{__name__}:Boxes", "n": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_parameters_of_a_toolset_are_refused(spec: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        tools_of(spec).make()  # type: ignore[union-attr]


def test_bad_entries_are_refused() -> None:
    for spec, why in (
        (3, "wanted tools"),
        ({"limit": 1}, "needs a key 'name'"),
        ({"name": "calculator", "a": 1}, "no param"),
    ):
        with pytest.raises(ConfigError, match=why):
            tools_of(spec)
    with pytest.raises(RegistryError, match="'calculator'"):
        tools_of("calculater")
    with pytest.raises(ConfigError, match="put @tool below"):
        register_tool(paint.function)


def test_a_tool_made_by_hand_validates_as_it_is_told() -> None:
    def refuse(given: dict[str, Any]) -> dict[str, Any]:
        if "q" not in given:
            raise BadArguments("search wants q")
        return given

    made = Tool(
        lambda **given: given, name="search", description="Searches.", parameters={"type": "object"}, validate=refuse
    )
    assert run(made, q=1).text == '{"q":1}' and run(made).error == "arguments"


def test_seconds_are_the_calls() -> None:
    @tool
    def rest() -> str:
        """Rests."""
        time.sleep(0.01)
        return ""

    assert 0.01 <= run(rest).seconds < 5
