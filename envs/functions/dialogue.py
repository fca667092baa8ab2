"""An episode of several user turns: what the environments of this package share.

The user speaks; the agent calls tools, over as many of its own turns as it needs; its first text without a call ends the user
turn, which is judged, and the user speaks again. The user is scripted: what is said does not depend on the agent's words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from agentrl.chat.tool_calls import CallFormat
from agentrl.errors import ConfigError, did_you_mean
from agentrl.tool import Tool, ToolSpec
from agentrl.tool_env import Called, Reply, ToolEnv
from agentrl.types import Json, Task, ToolCall

DESCRIBE = ("json", "signatures", "none")
NOTHING_TO_SAY = "Done."  # the oracle's text


class Dialogue(ToolEnv):
    """Subclasses write ``said(task, turn)``, ``n_turns(task)``, ``judge(turn, calls)`` and ``right_calls(task, turn)``.

    The reward is 1 (times ``reward_scale``) at the end of an episode all of whose user turns were right, else 0; the first wrong
    one ends it, unless ``go_on``. ``describe``: "json" puts the schemas of the tools behind the first request, "signatures" a
    line each, "none" nothing (``[agent] tools = "template"``). ``max_steps`` bounds the agent's turns of one user turn; beyond
    it the turn is judged as it stands.

    Further keys of ``info``: ``score``, the share of user turns that were right so far; ``user_turn``, from 0; ``task_type``,
    ``task_id``; ``problem``, what was wrong with the user turn that the action ended ("" where nothing was); ``tool_names``, of
    those offered now.
    """

    def __init__(
        self,
        tools: Sequence[ToolSpec] = (),
        *,
        format: str = "hermes",
        describe: str = "json",
        split: str = "train",
        max_steps: int = 20,
        max_parallel: int = 16,
        go_on: bool = False,
        reward_scale: float = 1.0,
    ) -> None:
        if describe not in DESCRIBE:
            raise ConfigError(f"describe = {describe!r}.{did_you_mean(str(describe), DESCRIBE)}")
        if max_steps < 1 or reward_scale <= 0:
            raise ConfigError(f"wanted max_steps and reward_scale above 0; got {max_steps} and {reward_scale:g}")
        super().__init__(
            tools,
            format=format,
            describe="none" if describe == "none" else "text",
            split=split,
            max_parallel=max_parallel,
        )
        self.as_json = describe == "json"
        self.max_steps, self.go_on, self.reward_scale = max_steps, go_on, reward_scale
        self.success_at = reward_scale
        self._begin()

    # ── what a subclass writes ───────────────────────────────────────────────────────────────────────────────────────

    def n_turns(self, task: Task) -> int:
        """How many user turns there are."""
        raise NotImplementedError(f"{type(self).__name__} must write n_turns(task)")

    def said(self, task: Task, turn: int) -> str:
        """What the user says in that turn."""
        raise NotImplementedError(f"{type(self).__name__} must write said(task, turn)")

    def judge(self, turn: int, calls: Sequence[Called]) -> str:
        """What is wrong with a user turn that ends now, in which these calls were made; "" where nothing is."""
        raise NotImplementedError(f"{type(self).__name__} must write judge(turn, calls)")

    def right_calls(self, task: Task, turn: int) -> Sequence[ToolCall]:
        """The calls that are right in that turn, in an order in which they can be made."""
        raise NotImplementedError(f"{type(self).__name__} must write right_calls(task, turn)")

    def together(self, task: Task, turn: int) -> bool:
        """Whether the right calls of that turn may be made in one action."""
        return False

    def next_turn(self, turn: int) -> None:
        """Called before the user speaks in that turn: it may bring new tools."""

    # ── ToolEnv ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def prompt(self, task: Task) -> str:
        """What the user says first."""
        self._begin()
        return self.said(task, 0)

    def description(self) -> str:
        """What the model is told of its tools."""
        if not self._tools:
            return ""
        lines = [described(tool, self.as_json) for tool in self._tools.values()]
        return "\n".join(["Tools that you may call:", *lines, usage(self.format)])

    def reply(self, task: Task, text: str) -> str | None:
        """Judges the user turn that the text ends; the next request, None where there is none."""
        self._problem = self._turn_problem()
        self._wrong += bool(self._problem)
        self._turn += 1
        if (self._wrong and not self.go_on) or self._turn == self.n_turns(task):
            return None
        self._first, self._steps = len(self.called), 0
        self.next_turn(self._turn)
        return self.said(task, self._turn)

    def score(self, task: Task, answer: str, calls: Sequence[Called]) -> float:
        """``reward_scale`` where every user turn was right, else 0."""
        return 0.0 if self._wrong else self.reward_scale

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Starts a dialogue."""
        text, info = super().reset(seed=seed, options=options)
        return text, info | self._about()

    async def _step(self, action: str) -> Reply:
        self._problem = ""
        self._steps += not self._over
        reply = await super()._step(action)
        if self._steps < self.max_steps or reply[2] or not self.task:
            return reply
        said = self.reply(self.task, "")
        if said is None:
            return reply[0], *(await self._end(self.task, ""))[1:]  # what the last calls gave is still told
        self._list_tools()
        told = f"{reply[0]}\n\n{said}" if reply[0] else said
        return told, *reply[1:4], reply[4] | self._about()

    def _info(self, **counts: Any) -> dict[str, Any]:
        return super()._info(**counts) | self._about()

    # ── an episode ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        self._turn = self._first = self._steps = self._wrong = 0
        self._problem = ""

    def _turn_problem(self) -> str:
        """What is wrong with the user turn that ends now."""
        calls = self.called[self._first :]
        right = self.right_calls(self.task, self._turn) if self.task else ()
        if right and not calls:
            return "nothing was called"
        if calls and not right:
            return "nothing should have been called"
        return self.judge(self._turn, calls)

    def _about(self) -> dict[str, Json]:
        task = self.task
        n_turns = self.n_turns(task) if task else 1
        return {
            "score": (self._turn - self._wrong) / n_turns,
            "user_turn": min(self._turn, n_turns - 1),
            "problem": self._problem,
            "task_type": task.type if task else "",
            "task_id": task.id if task else "",
            "tool_names": list(self._tools),
        }

    def oracle(self) -> list[str]:
        """Completions that are right from here on: the calls of each user turn that are still missing, in one action where they
        may be made together or are too many for ``max_steps``, then a text. What has gone wrong is not mended."""
        if self.task is None or self._over:
            return []
        found: list[str] = []
        for turn in range(self._turn, self.n_turns(self.task)):
            done = [called.call for called in self.called[self._first :]] if turn == self._turn else []
            left = self._missing(turn, done)
            steps = max(1, self.max_steps - 1 - (self._steps if turn == self._turn else 0))
            size = max(1, len(left) if self.together(self.task, turn) else math.ceil(len(left) / steps))
            found += (self.format.render(left[start : start + size]) for start in range(0, len(left), size))
            found.append(NOTHING_TO_SAY)
        return found

    def failure(self) -> str | None:
        """After a wrong user turn "never_found" where a tool that was needed until then was never called, else "wrong_action"."""
        if self.task is None or not self._wrong:
            return None
        needed = {call.name for turn in range(self._turn) for call in self.right_calls(self.task, turn)}
        return "never_found" if needed - {called.call.name for called in self.called} else "wrong_action"

    def _missing(self, turn: int, done: Sequence[ToolCall]) -> list[ToolCall]:
        assert self.task is not None
        left = list(self.right_calls(self.task, turn))
        for call in done:
            if call in left:
                left.remove(call)
        return left


# ── tools in words ───────────────────────────────────────────────────────────────────────────────────────────────────


def usage(form: CallFormat) -> str:
    """How calls are written and how a user turn is ended."""
    return f"{form.usage} A reply without a call goes to the user, who may then ask for more."


def described(tool: Tool, as_json: bool) -> str:
    """A line about a tool: its schema, or its signature and what it does. Noted at the function, for it never changes."""
    known = tool.function.__dict__.setdefault("_described", {})
    if as_json not in known:
        known[as_json] = json.dumps(tool.schema()["function"], ensure_ascii=False) if as_json else signature(tool)
    return known[as_json]


def signature(tool: Tool) -> str:
    """name(argument: type, …): what it does. An argument that may be left out has its default."""
    parts = []
    for name, schema in tool.parameters.get("properties", {}).items():
        kind = " or ".join(map(str, schema["enum"])) if "enum" in schema else schema.get("type", "any")
        default = f" = {schema['default']!r}" if "default" in schema else ""
        parts.append(f"{name}: {kind}{default}")
    return f"{tool.name}({', '.join(parts)}): {tool.description}"
