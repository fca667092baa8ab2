"""Tools, a list of tasks and a score make an environment: python examples/06_your_own_task_list.py"""

from typing import Any

import gymnasium

import agentrl
from agentrl.agents import Decision, Episode, View
from agentrl.tool_env import ToolEnv


def sums(split: str) -> list[dict[str, str]]:
    """Rows of a task list; a ``Task`` does as well."""
    first = {"train": 0, "valid_seen": 20, "valid_unseen": 40}[split]
    return [{"prompt": f"What is {a} * {a + 3}?", "reference": str(a * (a + 3))} for a in range(first, first + 20)]


def make(**options: Any) -> ToolEnv:
    """Tools, tasks, score."""
    return ToolEnv(["calculator"], sums, lambda task, answer, calls: float(answer == task.reference), **options)


gymnasium.register(id="my/Sums-v0", entry_point=make)  # in a run file: [env] id = "my_package:my/Sums-v0"


class Model:
    """Stands in for a language model: it calls the calculator, and then repeats what that says."""

    def start(self, episode: Episode) -> "Model":
        return self

    async def act(self, view: View) -> Decision:
        if "<tool_response>" in view.observation:
            return Decision(view.observation.split("\n")[1])
        product = view.observation.split("?")[0].removeprefix("What is ")
        return Decision(f'<tool_call>{{"name": "calculator", "arguments": {{"expression": "{product}"}}}}</tool_call>')


if __name__ == "__main__":
    print(*agentrl.rollout("my/Sums-v0", Model(), n=2), sep="\n\n")
