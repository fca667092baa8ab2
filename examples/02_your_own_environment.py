"""Your own environment, played; `cd examples && agentrl check 02_your_own_environment:my/Door-v0` checks its contract."""

import gymnasium

import agentrl
from agentrl.env import SPLITS, TextEnv
from agentrl.types import Task


class Door(TextEnv):
    """A hall of doors; the text says which one to open."""

    def tasks(self, split: str) -> list[Task]:
        return [Task(id=f"{split}-{i}", seed=40 * SPLITS.index(split) + i, split=split) for i in range(40)]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        self.number, self.is_open = self.choose_task(options).seed, False
        return f"You see a door with the number {self.number}.", self.info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        self.is_open = self.is_open or action == f"open {self.number}"
        text = "It opens." if self.is_open else "Nothing happens."
        return text, float(self.is_open), self.is_open, False, self.info()

    def info(self) -> dict:
        return {"success": self.is_open, "admissible_actions": [f"open {self.number + i}" for i in range(3)]}

    def state_key(self) -> str:
        return f"{self.number} {self.is_open}"  # equal keys mean the same decision point: what GiGPO groups by

    def oracle(self) -> list[str]:
        return [] if self.is_open else [f"open {self.number}"]  # what wins from here


gymnasium.register(id="my/Door-v0", entry_point=lambda **options: Door(**options))
if __name__ == "__main__":
    for policy in ("random", "oracle"):
        print(f"{policy} wins", agentrl.evaluate("my/Door-v0", policy, n=40, max_turns=2)["success_rate"], sep="\n")
