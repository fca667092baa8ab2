"""Real ALFWorld games in ALFWorld's own engine.

    env = agentrl.env.make("agentrl/ALFWorld-v0", games="alfworld/json_2.1.1")
    text, info = env.reset(seed=0)

A turn takes milliseconds and a reset a second, all of it Python: ``[env] isolation = "process"`` plays episodes side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agentrl.envs.household import games as game_files
from agentrl.envs.household.env import HouseholdEnv
from agentrl.envs.household.house import Dialect
from agentrl.errors import ConfigError, MissingExtra
from agentrl.types import Task

# Imported here, and not at the first game, so that worker processes share it (agentrl.rollouts.worker).
try:
    from agentrl.envs.alfworld import engine as engines
except ImportError as _error:
    engines = None
    _missing: ImportError | None = _error
else:
    _missing = None

Snapshot = tuple[Task | None, game_files.Source, tuple[str, ...]]


class ALFWorldEnv(HouseholdEnv):
    """``agentrl/Household-v0`` with TextWorld in the place of the native rules: the same tasks, texts and keys of ``info``.

    ``games`` is a folder as ``alfworld-download`` leaves it, or a file of rows, and must be given. ``split``, ``task_types``,
    ``seed`` and ``reward_scale`` are Household's; ``dialect`` concerns rows only, since files bring their grammar.

    ``state_key`` are the engine's own facts, and finer than Household's: it also tells apart what only words depend on.
    ``oracle`` is the engine's planner (half a second a call), ``expert`` Household's, which reads texts. ``restore`` plays the
    commands again.
    """

    levels: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(
        self,
        games: str | os.PathLike[str] | None = None,
        split: str = "train",
        dialect: Dialect = "move",
        task_types: Sequence[str] | None = None,
        seed: int | None = 0,
        reward_scale: float = 1.0,
    ) -> None:
        if engines is None:
            raise MissingExtra("alfworld", "agentrl/ALFWorld-v0") from _missing
        if games is None:
            raise ConfigError(
                "agentrl/ALFWorld-v0 needs real games: give games=FOLDER, as alfworld-download leaves it, or a file of rows; "
                "agentrl/Household-v0 can generate some"
            )
        super().__init__(
            split=split, games=games, dialect=dialect, task_types=task_types, seed=seed, reward_scale=reward_scale
        )
        self._engine = engines.Engine()
        self._source: game_files.Source = ""

    def _open(self, source: game_files.Source, task: Task | None = None) -> Any:
        assert engines is not None  # else there is no instance
        row = game_files.read(source)
        dialect = None if "grammar" in row or self.dialect == "move" else self.dialect
        house = game_files.load(source, dialect=dialect)
        self._engine.load(engines.game_data(row, house.dialect), house)
        self._source = source
        return self._engine

    def oracle(self) -> list[str]:
        """Commands that reach the goal from here, by the engine's planner."""
        _ = self.game
        return self._engine.plan()

    def snapshot(self) -> Any:
        """The task, its game and what was played. Picklable."""
        _ = self.game
        return self.task, self._source, tuple(self._engine.commands)

    def restore(self, snapshot: Any) -> None:
        """Plays what led to a snapshot, also one of another task."""
        self.task, source, commands = snapshot
        if self._game is None or source != self._source:
            self._game = self._open(source)
        self._engine.play(list(commands))
