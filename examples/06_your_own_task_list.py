"""Tools, a list of tasks and a score make an environment: python examples/06_your_own_task_list.py"""

import gymnasium

import agentrl
from agentrl.agents import Decision, View
from agentrl.chat.tool_calls import Hermes
from agentrl.tool_env import ToolEnv
from agentrl.types import ToolCall


def sums(split: str) -> list[dict[str, str]]:
    """Rows of a task list; a ``Task`` does as well."""
    numbers = {"train": range(20), "valid_seen": range(20, 40), "valid_unseen": range(40, 60)}[split]
    return [{"prompt": f"What is {a} * {a + 3}?", "reference": str(a * (a + 3))} for a in numbers]


def make() -> ToolEnv:
    """What a run file names as ``[env] id = "my/Sums-v0"``."""
    return ToolEnv(["calculator"], sums, lambda task, answer, calls: float(answer == task.reference))


class Model:
    """Stands in for a language model: it calls the calculator, and then repeats what that says."""

    def start(self, episode: object) -> "Model":
        return self

    async def act(self, view: View) -> Decision:
        if "<tool_response>" in view.observation:
            return Decision(view.observation.split("\n")[1])
        product = view.observation.split("?")[0].removeprefix("What is ")
        return Decision(Hermes().render([ToolCall("calculator", {"expression": product})]))


if __name__ == "__main__":
    gymnasium.register(id="my/Sums-v0", entry_point=lambda **_: make())
    print(*agentrl.rollout("my/Sums-v0", Model(), n=2), sep="\n\n")
