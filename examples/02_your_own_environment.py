"""An environment of one's own: write it, register it, check it, evaluate agents in it. Needs no model.

python examples/02_your_own_environment.py
cd examples && agentrl check 02_your_own_environment:my/Door-v0
"""

from typing import Any

import gymnasium

from agentrl.env import SPLITS, TextEnv
from agentrl.types import Task


class Door(TextEnv):
    """Three doors; the text says which one to open."""

    def tasks(self, split: str) -> list[Task]:
        """Forty tasks a split, with different numbers in each."""
        first = 40 * SPLITS.index(split)
        return [Task(id=f"door-{i}", seed=i, split=split) for i in range(first, first + 40)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = self.choose_task(options)
        self.opened = False
        return f"You see a door with the number {self.task.seed}.", self.info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.opened = self.opened or action == f"open {self.task.seed}"
        text = "It opens." if self.opened else "Nothing happens."
        return text, float(self.opened), self.opened, False, self.info()

    def info(self) -> dict[str, Any]:
        """What the agent may know besides the text."""
        actions = [f"open {self.task.seed + step}" for step in range(3)]
        return {"success": self.opened, "admissible_actions": actions, "goal": "open the door"}

    def state_key(self) -> str:
        """Equal keys mean the same decision point: what GiGPO groups by."""
        return f"{self.task.seed}:{self.opened}"

    def oracle(self) -> list[str]:
        """Actions that win from here."""
        return [] if self.opened else [f"open {self.task.seed}"]


gymnasium.register(id="my/Door-v0", entry_point=lambda **options: Door(**options))

if __name__ == "__main__":
    import agentrl
    from agentrl.evaluator import print_evaluation

    for policy in ("random", "oracle"):
        print_evaluation(agentrl.evaluate("my/Door-v0", policy, n=40, max_turns=2))
