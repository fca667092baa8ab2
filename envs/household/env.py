"""The household game as an environment: Gymnasium's API around ``World``.

    env = agentrl.env.make("agentrl/Household-v0", difficulty="tiny")
    text, info = env.reset(seed=0)
    text, reward, terminated, truncated, info = env.step(info["admissible_actions"][0])

Houses are generated (``difficulty``), or are real ALFWorld games (``games``: a folder as ``alfworld-download`` leaves
it, or a file of rows). The reward is 1 on the turn that reaches the goal and 0 otherwise; how many turns an episode may
last is the run file's ``max_turns``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from agentrl.env import SPLITS, TextEnv
from agentrl.envs.household import games as game_files
from agentrl.envs.household.games import GameFile
from agentrl.envs.household.house import TASK_TYPES, Dialect, House
from agentrl.envs.household.world import Snapshot, World
from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.seeding import stable_hash
from agentrl.types import Task

if TYPE_CHECKING:
    from agentrl.envs.household.oracle import Expert

GOALS = ("template", "human")


class Game(Protocol):
    """What the environment asks of a game: of ``World``, or of another engine that plays the same."""

    house: House
    valid: bool
    places_text: str

    def reset(self) -> str: ...
    def step(self, command: str) -> str: ...
    def admissible(self) -> list[str]: ...
    def inventory(self) -> str: ...
    def unseen(self) -> list[str]: ...
    def state_key(self) -> str: ...
    @property
    def won(self) -> bool: ...
    @property
    def held(self) -> str: ...


class HouseholdEnv(TextEnv):
    """Rooms with receptacles and items, and one of ALFWorld's six kinds of goal.

    ``difficulty`` names a level of ``generate``; ``split`` is where ``reset`` without a task draws from; ``games``
    replaces the generated houses; ``goals`` is "template" (the sentence of the game itself) or "human" (one of those that
    people wrote for a real game, always the same one for a task and its seed); ``dialect`` is "move" (alfworld 0.4) or
    "put" (older data), where the default leaves a real game the dialect of its own grammar; ``task_types`` keeps some of
    the six types; ``seed`` seeds the first ``reset`` that is given none; ``reward_scale`` is the reward of the winning turn.

    Keys of ``info``: success and won (bool), score (1.0 or 0.0), admissible_actions (sorted list), goal (the sentence),
    inventory (text), held (an item's name or "nothing"), places (the receptacles, in the introduction's order), unseen
    (those of them whose content was not told yet: an agent's own notes, nothing hidden), task_type, task_id,
    is_action_valid (bool).
    """

    levels: ClassVar[Mapping[str, Sequence[str]]] = {"difficulty": ("tiny", "easy", "medium", "full")}

    def __init__(
        self,
        difficulty: str = "tiny",
        split: str = "train",
        games: str | os.PathLike[str] | None = None,
        dialect: Dialect = "move",
        task_types: Sequence[str] | None = None,
        seed: int | None = 0,
        reward_scale: float = 1.0,
        goals: str = "template",
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"wanted a split among {', '.join(SPLITS)}; got '{split}'.{did_you_mean(split, SPLITS)}")
        if dialect not in get_args(Dialect):
            raise ConfigError(f"wanted a dialect among {', '.join(get_args(Dialect))}; got '{dialect}'")
        if goals not in GOALS:
            raise ConfigError(f"wanted goals among {', '.join(GOALS)}; got '{goals}'.{did_you_mean(str(goals), GOALS)}")
        if goals == "human" and games is None:
            raise ConfigError('goals = "human" needs the sentences of real games; give their folder as games')
        if isinstance(task_types, str):
            raise ConfigError(f"wanted a list of task types; got the text '{task_types}'; write [\"{task_types}\"]")
        for name in task_types or ():
            if name not in TASK_TYPES:
                raise ConfigError(f"wanted task types of ALFWorld; got '{name}'.{did_you_mean(str(name), TASK_TYPES)}")
        self.difficulty = difficulty
        self.split = split
        self.dialect: Dialect = dialect
        self.goals = goals
        self.task_types = tuple(task_types) if task_types else None
        self.reward_scale = reward_scale
        self.task: Task | None = None
        self._games = None if games is None else _of_types(game_files.find(games), self.task_types)
        self._first_seed = seed
        self._game: Game | None = None
        self._splits: dict[str, Sequence[Task]] = {}
        if games is None:
            self.tasks(split)  # an unknown difficulty is an error here, not in the middle of a run
        elif not self._games:
            raise GameError(f"wanted games of the types {self.task_types}; '{games}' has none; give other task_types")

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, split: str) -> Sequence[Task]:
        """Generated tasks, or one task a game. Games whose split is unknown belong to every split."""
        if split not in SPLITS:
            raise GameError(f"no split '{split}'.{did_you_mean(split, SPLITS)}")
        if split not in self._splits:
            if self._games is None:
                from agentrl.envs.household import generate

                self._splits[split] = generate.tasks(self.difficulty, split, task_types=self.task_types)
            else:
                self._splits[split] = [_task(game, split) for game in self._games if game.split in ("", split)]
        return self._splits[split]

    def find_task(self, task_id: str) -> Task:
        """The task of that id in any split."""
        if self._games is None:
            from agentrl.envs.household import generate

            return generate.task_by_id(task_id)
        for split in (self.split, *SPLITS):
            for task in self.tasks(split):
                if task.id == task_id:
                    return task
        raise GameError(f"no game '{task_id}'.{did_you_mean(task_id, [game.id for game in self._games][:2000])}")

    # ── Gymnasium ────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Starts ``options["task"]`` (a Task or its id), ``options["game"]`` (whatever ``games.load`` takes), or a task
        drawn from the split. Raises GameError for a game that cannot be read and an id that no split knows.
        """
        if seed is None:
            seed, self._first_seed = self._first_seed, None
        super().reset(seed=seed)
        for key in options or {}:
            if key not in ("task", "game"):
                raise GameError(f"reset has no option '{key}'.{did_you_mean(str(key), ('task', 'game'))}")
        source = (options or {}).get("game")
        if source is not None:
            game = self._open(source)
            self.task = Task(id=_game_id(game.house), type=game.house.goal.type, split=self.split)
        else:
            if not (options or {}).get("task") and not len(self.tasks(self.split)):
                raise GameError(f"the games have no task in the split '{self.split}'; give another split")
            self.task = self.choose_task(options)
            game = self._game_of(self.task)
        self._game = game
        return game.reset(), self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """One turn. An inadmissible action, or one that is no text, changes nothing and says so. Raises GameError before
        the first ``reset``."""
        game = self.game
        text = game.step(action if isinstance(action, str) else "")  # no command is ""
        won = game.won
        return text, self.reward_scale if won else 0.0, won, False, self._info()

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def game(self) -> Game:
        """The game being played. Raises GameError before the first ``reset``."""
        if self._game is None:
            raise GameError("no game is being played; call reset first")
        return self._game

    @property
    def world(self) -> World:
        """The same with everything that is hidden from a player."""
        world = self.game
        assert isinstance(world, World), "another engine plays"
        return world

    @property
    def admissible_actions(self) -> list[str]:
        """The actions that do something now, sorted."""
        return self.game.admissible()

    def state_key(self) -> str:
        """The exact state: equal within a task if and only if the states are the same."""
        return self.game.state_key()

    def snapshot(self) -> tuple[Task | None, House, Snapshot]:
        """The game and its state, for ``restore`` of this or another environment. Picklable."""
        world = self.world
        return self.task, world.house, world.snapshot()

    def restore(self, snapshot: tuple[Task | None, House, Snapshot]) -> None:
        """Goes back to a snapshot, also one of another task."""
        self.task, house, state = snapshot
        if not isinstance(self._game, World) or self._game.house is not house:
            self._game = World(house)
        self._game.restore(state)

    def expert(self, noise: float = 0.0, seed: int = 0, order: Literal["prior", "random"] = "prior") -> Expert:
        """A searching player that reads only what an agent reads; ``act(observation, admissible, goal)``."""
        from agentrl.envs.household.oracle import Expert

        return Expert(noise=noise, seed=seed, order=order)

    def vocabulary(self) -> Iterator[str]:
        """Texts that hold every word of this environment."""
        from agentrl.envs.household import vocabulary

        yield from vocabulary.texts()
        if self.goals == "human":
            for game in self._games or ():
                for sentence in game_files.human_goals(game.source):
                    yield from (sentence, f" {sentence}")

    def export(self, task: Task) -> dict[str, str]:
        """The task as files of the real ALFWorld engine: path below the folder of games -> text. Raises MissingExtra without
        the package alfworld, whose rules stand in every game, and GameError for a house that cannot be written."""
        from agentrl.envs.household import export

        source = task.options.get("game")
        return export.files(task, self._game_of(task).house, [] if source is None else game_files.human_goals(source))

    def failure(self) -> str | None:
        """What went wrong until here (``failure.failure``); None where another engine plays."""
        from agentrl.envs.household.failure import failure

        return failure(self._game) if isinstance(self._game, World) else None

    def oracle(self) -> list[str]:
        """Commands that reach the goal from here, by one who knows where everything is."""
        from agentrl.envs.household import oracle

        return oracle.plan(self.world)

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _game_of(self, task: Task) -> Game:
        source = task.options.get("game") if isinstance(task.options, Mapping) else None
        if source is not None:
            return self._open(source, task)
        from agentrl.envs.household import generate

        house = generate.house(task)
        return World(house if house.dialect == self.dialect else replace(house, dialect=self.dialect))

    def _open(self, source: game_files.Source, task: Task | None = None) -> Game:
        """A real game, before its ``reset``; ``task`` chooses among the sentences that people wrote for its goal."""
        house = game_files.load(source, dialect=_asked(self.dialect))
        return World(self._worded(house, source, task or Task(id=_game_id(house))))

    def _worded(self, house: House, source: Any, task: Task) -> House:
        """The house of a real game with the goal sentence that ``goals`` asks for."""
        if self.goals == "template":
            return house
        sentences = game_files.human_goals(source)
        if not sentences:
            raise GameError(
                f"game '{task.id}': wanted a goal sentence of people ('human_goals', or 'turk_annotations' with 'task_desc', "
                'in the row or in traj_data.json); the game has none; set goals = "template"'
            )
        chosen = sentences[stable_hash("human goal", task.seed, task.id) % len(sentences)]
        return replace(house, goal=replace(house.goal, text=chosen))

    def _info(self) -> dict[str, Any]:
        game, task = self.game, self.task
        won = game.won
        return {
            "success": won,
            "won": won,
            "score": 1.0 if won else 0.0,
            "admissible_actions": game.admissible(),
            "goal": game.house.goal.text,
            "inventory": game.inventory(),
            "held": game.held or "nothing",
            "places": game.places_text,
            "unseen": ", ".join(game.unseen()) or "nothing",
            "task_type": game.house.goal.type,
            "task_id": task.id if task else "",
            "is_action_valid": game.valid,
        }


def _asked(dialect: Dialect) -> Dialect | None:
    """What to ask of ``games.load``: the default leaves a game its own grammar's dialect."""
    return None if dialect == "move" else dialect


def _of_types(found: Sequence[GameFile], task_types: Sequence[str] | None) -> list[GameFile]:
    return [game for game in found if task_types is None or game.type in task_types]


def _task(game: GameFile, split: str) -> Task:
    return Task(id=game.id, type=game.type, split=split, options={"game": game.source})


def _game_id(house: House) -> str:
    parts = [house.meta.get("task_dir", ""), house.meta.get("trial", "")]
    return "/".join(part for part in parts if part) or house.meta.get("source", "game")
