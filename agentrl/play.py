"""A person plays an environment in the terminal; the record of the game is a trajectory like any other.

    trajectory = play("agentrl/Household-v0", options={"difficulty": "tiny"}, seed=3)

With ``record`` the game is written to a folder that ``agentrl replay`` reads: config.toml, summary.json (of all games in it) and
trajectories/play_000000.jsonl.zst. Further games of the same environment go into the same folder.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium

from agentrl import build, config, seeding
from agentrl.agents import PersonAgent
from agentrl.agents.base import Episode
from agentrl.agents.person import INTERRUPTED, UNDO
from agentrl.config import RunConfig
from agentrl.env import checked_reply, environment
from agentrl.errors import ConfigError, EnvFault
from agentrl.evaluation import Evaluation
from agentrl.rollouts import EnvPool, Limits, run_episode
from agentrl.store import RunFolder, lock, numbered, read_trajectories
from agentrl.terminal import Terminal
from agentrl.types import Outcome, Task, Trajectory, Turn


def play(
    env: str,
    *,
    options: Mapping[str, Any] | None = None,
    split: str = "train",
    task: str | None = None,
    seed: int = 0,
    max_turns: int | None = None,
    record: Path | None = None,
    terminal: Terminal | None = None,
) -> Trajectory:
    """One game. ``task`` is an id of any split; without one, ``seed`` draws a task from ``split``. A game that the person left has
    the outcome ``cancelled``.

    Raises ConfigError or GameError for what cannot be played, EnvFault where the environment failed (after the record is
    written), KeyboardInterrupt where the person pressed Ctrl-C (likewise).
    """
    terminal = terminal or Terminal()
    bound = {} if max_turns is None else {"max_turns": max_turns}
    table = {"id": env, "options": dict(options or {}), "split": split, **bound}
    settings = config.parse({"env": table, "run": {"name": "play", "seed": seed}})
    pool = build.env_pool(settings.only_env)
    try:
        chosen = _drawn(pool, split, seed) if task is None else build.find_task(pool, task)
        build.check_tasks(pool, [chosen])
        with _recorded(record, settings) as (number, keep):
            trajectory = _Game(pool, chosen, settings, number, terminal).play()
            keep(trajectory)
    finally:
        pool.close()
    if trajectory.outcome in (Outcome.TERMINATED, Outcome.TRUNCATED, Outcome.MAX_TURNS):
        terminal.say(trajectory.last_observation.strip())
    terminal.say(_ending(trajectory), "bold")
    if record is not None:
        terminal.say(f"Recorded as {trajectory.id} in {record}.")
    if trajectory.error == INTERRUPTED:
        raise KeyboardInterrupt
    if trajectory.outcome is Outcome.ENV_FAULT:
        raise EnvFault(f"the environment failed: {trajectory.error}")
    return trajectory


def _drawn(pool: EnvPool, split: str, seed: int) -> Task:
    tasks = build.tasks_of(pool, split)
    return tasks[int(seeding.stream(seed, "play").integers(len(tasks)))]


class _Game:
    """One game, and as often as a turn is taken back the same game again, without that turn."""

    def __init__(self, pool: EnvPool, task: Task, settings: RunConfig, number: int, terminal: Terminal) -> None:
        self.pool, self.task, self.settings, self.terminal = pool, task, settings, terminal
        self.key = ("play", number, task.id)
        self.limits = Limits(max_turns=settings.only_env.max_turns)

    def play(self) -> Trajectory:
        env, broken = self.pool.take(), True
        kind = f" ({self.task.type})" if self.task.type else ""
        self.terminal.say(f"{environment(env)}  {self.task.id}{kind}  /help says what you can type", "dim")
        try:
            kept: Sequence[Turn] = ()
            while True:
                trajectory = _at_once(self._episode(env, kept))
                if trajectory.outcome is not Outcome.CANCELLED or trajectory.error != UNDO:
                    break
                kept = trajectory.turns[:-1]
                self.terminal.say(f"Taken back: {trajectory.turns[-1].action}", "dim")
            broken = trajectory.outcome is Outcome.ENV_FAULT
            return trajectory
        finally:
            self.pool.put(env, broken=broken)

    async def _episode(self, env: gymnasium.Env[str, str], kept: Sequence[Turn]) -> Trajectory:
        agent = PersonAgent(
            self.terminal,
            given=tuple(turn.action for turn in kept),
            can_undo=True,
            max_turns=self.limits.turns(self.task),
        )
        group = f"play={self.key[1]}/task={self.task.id}"
        rng = seeding.stream(self.settings.run.seed, "agent", *self.key)
        episode = Episode(
            id=f"{group}/member=0", task=self.task, env=_Told(env, self.terminal, len(kept)), rng=rng, key=self.key
        )
        return await run_episode(
            agent, episode, env_id=environment(env), seed=self.task.seed, group=group, limits=self.limits, replay=kept
        )


def _at_once(episode: Coroutine[Any, Any, Trajectory]) -> Trajectory:
    """The result of an episode that waits for nothing but its person. No event loop: asyncio's own handler would keep Ctrl-C
    from the prompt, and in a notebook a loop runs already."""
    try:
        episode.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a person's episode awaited something")


class _Told(gymnasium.Wrapper[str, str, str, str]):
    """Says after each turn but the first ``n_silent`` what it brought."""

    def __init__(self, env: gymnasium.Env[str, str], terminal: Terminal, n_silent: int) -> None:
        super().__init__(env)
        self.terminal = terminal
        self.n_silent = n_silent

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        checked_reply(self.env, observation, info)
        if self.n_silent:
            self.n_silent -= 1
        else:
            success = bool(info.get("success", False))
            style = "bold green" if success or float(reward) > 0 else "dim"
            self.terminal.say(f"reward {float(reward):+g}   success {'yes' if success else 'no'}", style)
        return observation, reward, terminated, truncated, info


def _ending(trajectory: Trajectory) -> str:
    how = {
        Outcome.TERMINATED: "The game is over",
        Outcome.TRUNCATED: "The environment ended the game",
        Outcome.MAX_TURNS: "That was the last turn",
        Outcome.CANCELLED: "You left the game",
    }.get(trajectory.outcome, "The game cannot go on")
    result = "success" if trajectory.success else "no success"
    n = trajectory.n_turns
    return f"{how}: {result} after {n} turn{'' if n == 1 else 's'}, reward {trajectory.reward:g}."


# ── the record ───────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _recorded(path: Path | None, settings: RunConfig) -> Iterator[tuple[int, Any]]:
    """The number of the game in its folder, and what keeps its trajectory. A folder that cannot be used is an error before the
    game begins."""
    if path is None:
        yield 0, lambda trajectory: None
        return
    folder, games = RunFolder(path), numbered(path, "play")
    if games:
        before = config.load(path / "config.toml").only_env
        if (before.id, before.options) != (settings.only_env.id, settings.only_env.options):
            raise ConfigError(
                f"{path} holds games of {before.id} with the options {before.options}; choose another folder"
            )
        lock(path)
    number = 1 + max(games, default=-1)

    def keep(trajectory: Trajectory) -> None:
        folder.add_trajectories(f"play_{number:06d}", [trajectory])
        played = [game for file in numbered(path, "play").values() for game in read_trajectories(file)]
        seconds = sum(sum(turn.seconds.values()) for game in played for turn in game.turns)
        result = Evaluation(played, seconds).to_dict()
        heading = {"env": settings.only_env.id, "policy": "person", "seed": settings.run.seed}
        folder.write_summary({"status": "completed", **heading, **result})

    if not games:
        RunFolder.create(path, settings.model_dump(mode="python"))
    yield number, keep
