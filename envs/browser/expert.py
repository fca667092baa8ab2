"""Who knows the way on a page, and slips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentrl.errors import GameError
from agentrl.seeding import stream

if TYPE_CHECKING:
    from agentrl.envs.browser.env import BrowserEnv


class Careless:
    """Knows what is right, and on the share ``noise`` of its turns does any admissible action; ``strayed`` says whether it did
    on the last.

    Raises GameError for a noise outside [0, 1].
    """

    def __init__(self, env: BrowserEnv, noise: float, seed: int) -> None:
        if not 0 <= noise <= 1:
            raise GameError(f"wanted noise in [0, 1], got {noise!r}")
        self.env, self.noise = env, noise
        self._random = stream(seed, "browser", "expert").random
        self.strayed = False

    def act(self, observation: str, admissible: Sequence[str], goal: str) -> str:
        """The next action."""
        self.strayed = self._random() < self.noise
        plan = [] if self.strayed else self.env.oracle()
        if plan:
            return plan[0]
        found = self.env.admissible_actions
        return found[int(self._random() * len(found))]
