"""Calls of tools beside the search: what the option ``tools`` of the environment adds.

A reply that holds a ``<tool_call>`` is read as calls and as nothing else, so no argument can act as an answer. One call a reply.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.chat.tool_calls import CallProblem, Hermes
from agentrl.errors import ConfigError, did_you_mean
from agentrl.tool import Tool, ToolResult, ToolSpec, encodable, tool, tools_of
from agentrl.tool_env import tool_loop
from agentrl.types import ToolCall


@dataclass(frozen=True)
class Calls:
    """The tools by name, the search first."""

    tools: Mapping[str, Tool]

    @classmethod
    def of(cls, specs: Sequence[ToolSpec], look_up: Callable[[str], str]) -> Calls:
        """``look_up`` answers a search. Raises ConfigError for what is no function, and for two tools of one name."""
        if isinstance(specs, str | Mapping):
            raise ConfigError(f"SearchQA: tools: wanted a list; got {specs!r:.100}; write [{specs!r:.100}]")

        @tool
        def search(query: str) -> str:
            """Finds passages that fit a query, the best first.

            Args:
                query: Names and words that such a passage holds.
            """
            return look_up(query)

        found: dict[str, Tool] = {"search": search}
        for spec in specs:
            entry = tools_of(spec, "SearchQA.tools")
            if not isinstance(entry, Tool):
                raise ConfigError(f"SearchQA.tools takes functions, and {spec!r:.100} has a state; ToolEnv takes it")
            if entry.name in found:
                raise ConfigError(f"SearchQA: two tools are called '{entry.name}'; give one of them another name")
            found[entry.name] = entry
        return cls(found)

    @property
    def waits(self) -> bool:
        """Whether a call may wait for something."""
        return not all(each.inline for each in self.tools.values())

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """In OpenAI's form."""
        return [each.schema() for each in self.tools.values()]

    def run(self, text: str) -> tuple[str, ToolCall | None, str | None]:
        """What the one call in a reply gave: its text, the call (None: nothing was called) and the kind of error, if any
        (``ToolResult.error``). Raises Fault where the machinery failed."""
        parsed = Hermes().parse(text)
        if isinstance(parsed, CallProblem):
            return _told(parsed.text), None, "malformed"
        if len(parsed.calls) != 1:
            return _told(f"wanted one call in a reply; got {len(parsed.calls)}; nothing was called"), None, "limit"
        call = parsed.calls[0]
        named = self.tools.get(call.name)
        if named is None:
            name = call.name[:64]
            return _told(f"no tool is called '{name}'.{did_you_mean(name, self.tools)}"), None, "unknown"
        result = self._result(named, call)
        if result.error or call.name == "search":  # passages stand between tags of their own
            return result.text, call, result.error
        return Hermes().respond([(call.name, result.text)]), call, None

    def _result(self, named: Tool, call: ToolCall) -> ToolResult:
        work = named.call(call.arguments)
        if not named.inline:
            return asyncio.run_coroutine_threadsafe(work, tool_loop()).result()
        try:
            work.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError(f"the tool {named.name} waited, and says that it never does")

    def texts(self) -> Iterator[str]:
        """Texts that hold every word of calls and their results, numbers apart."""
        for each in self.tools.values():
            call = ToolCall(each.name, dict.fromkeys(each.parameters["properties"], "x"))
            yield Hermes().render([call])
            yield Hermes().respond([(each.name, "x")])
        yield "Error: no tool is called Did you mean it has no value the expression cannot be read"
        yield from (*string.punctuation, *string.digits, " ", "\n")


def _told(problem: str) -> str:
    return f"Error: {encodable(problem)}"
