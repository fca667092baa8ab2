"""Is a record still true? The environment is reset on the recorded task and seed, the recorded actions are taken again, and what
comes back is compared with what was written down.

    result = replay(Path("runs/quickstart"), "iteration=12/task=tiny-7")
    result.difference            None where everything is equal
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentrl import build, config
from agentrl.config import RunConfig
from agentrl.env import checked_key, checked_reply, checked_reset, hook
from agentrl.errors import CheckpointError, did_you_mean
from agentrl.rollouts import EnvPool
from agentrl.store import find_trajectory
from agentrl.terminal import inert
from agentrl.types import Outcome, Trajectory, Turn

UNSEEN = (Outcome.ENV_FAULT, Outcome.ENV_TIMEOUT, Outcome.POLICY_FAULT)  # the last observation was not recorded
OnTurn = Callable[[int, Turn], None]
Check = tuple[int, str, Any, Any]  # turn (from 1), what, recorded, now


@dataclass(frozen=True, slots=True)
class Difference:
    """Where record and environment part: the ``turn`` (from 1; one past the last for what followed it), ``what`` differs
    (observation, state key, reward, success, end, error), and both sides."""

    turn: int
    what: str
    recorded: Any
    now: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """A record, how many of its turns came back equal, and the first difference. ``again``: what the environment did this time
    with the action whose reply the record lacks, for a fault."""

    trajectory: Trajectory
    n_equal: int
    difference: Difference | None
    again: str = ""


def replay(run: Path, wanted: str, on_turn: OnTurn | None = None) -> Replay:
    """Replays the trajectory whose id is ``wanted``, or alone contains it, in the environment of the run's config.toml.

    ``on_turn`` gets the number (from 1) and the record of each turn that came back equal. Raises CheckpointError for a
    folder or id that cannot be found, ConfigError or GameError for an environment or task that cannot be made.
    """
    run_file = run / "config.toml"
    if not run_file.is_file():
        raise CheckpointError(f"{run} has no config.toml; give the folder of a run, an evaluation or recorded games")
    settings = config.load(run_file)
    trajectory = find_trajectory(run, wanted)
    pool = _pool(settings, trajectory)
    try:
        build.check_tasks(pool, [trajectory.task])
        env = pool.take()
        try:
            return compare(env, trajectory, on_turn)
        finally:
            pool.put(env)
    finally:
        pool.close()


def _pool(settings: RunConfig, trajectory: Trajectory) -> EnvPool:
    """Environments like the one that a trajectory was played in: its scene's, or for the panel of real games one of their own."""
    scene = trajectory.task.env
    table = next((table for table in settings.env if scene and table.title == scene), settings.env[0])
    if scene and table.title != scene:
        known = did_you_mean(scene, [table.title for table in settings.env])
        raise CheckpointError(f"the run file has no environment '{scene}', where {trajectory.id} was played.{known}")
    panel = trajectory.id.partition("/task=")[0]
    games = settings.evaluation.games
    of_games = games is not None and panel.startswith("eval=") and panel.endswith("/games")
    return build.env_pool(table, **({"games": games} if of_games else {}))


def compare(env: gymnasium.Env[str, str], trajectory: Trajectory, on_turn: OnTurn | None = None) -> Replay:
    """Takes the actions of a record in ``env`` and stops at the first difference. An error of the environment is one, too."""
    number, n_equal = 1, 0
    try:
        for number, what, recorded, now in _checks(env, trajectory):
            if recorded != now:
                return Replay(trajectory, n_equal, Difference(number, what, recorded, now))
            if what == "end":  # the last check of a turn
                n_equal = number
                if on_turn is not None:
                    on_turn(number, trajectory.turns[number - 1])
    except Exception as error:
        happened = f"{type(error).__name__}: {error}"
        return Replay(trajectory, n_equal, Difference(number, "error", None, happened))
    return Replay(trajectory, n_equal, None, _again(env, trajectory))


def _again(env: gymnasium.Env[str, str], trajectory: Trajectory) -> str:
    """Takes the action again whose reply was a fault, if there is one."""
    if trajectory.outcome not in UNSEEN or not trajectory.turns or "environment" in trajectory.turns[-1].seconds:
        return ""
    if trajectory.turns[-1].info.get("unfinished"):  # it had no action yet
        return ""
    action = trajectory.turns[-1].action
    try:
        env.step(action)
    except Exception as error:
        return f"the action that it ends with, {action!r}, fails again: {type(error).__name__}: {error}"
    return f"the action that it ends with, {action!r}, is answered this time: the fault does not come again"


def _checks(env: gymnasium.Env[str, str], trajectory: Trajectory) -> Iterator[Check]:
    """What is compared, in order; the environment goes on as the checks are asked for."""
    turns, outcome = trajectory.turns, trajectory.outcome
    state_key = hook(env, "state_key")
    observation, info = checked_reset(env, trajectory.task, trajectory.seed)
    for number, turn in enumerate(turns, start=1):
        yield number, "observation", turn.observation, observation
        yield number, "state key", turn.state_key, None if state_key is None else checked_key(env, state_key())
        last = number == len(turns)
        if last and "environment" not in turn.seconds:  # the environment never answered it
            if outcome in UNSEEN:
                return  # the fault came instead of a reply
            break  # a limit ended the episode before the turn had an action
        observation, reward, terminated, truncated, info = env.step(turn.action)
        checked_reply(env, observation, info)
        yield number, "reward", turn.reward, float(reward)
        yield number, "success", bool(turn.info.get("success", False)), bool(info.get("success", False))
        ended = outcome.value if last and outcome in (Outcome.TERMINATED, Outcome.TRUNCATED) else "goes on"
        yield number, "end", ended, "terminated" if terminated else "truncated" if truncated else "goes on"
    if outcome not in UNSEEN:
        yield len(turns) + 1, "observation", trajectory.last_observation, observation
        yield len(turns) + 1, "success", trajectory.success, bool(info.get("success", False))


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────────


def console() -> Console:
    """Where replays are printed: texts of environments are data."""
    return Console(markup=False, emoji=False, highlight=False)


def print_turn(number: int, turn: Turn) -> None:
    """One turn that came back equal."""
    out = console()
    out.print(Text(f"[{number}] {inert(turn.observation.strip())}"))
    out.print(Text(f"  > {inert(turn.action)}   reward {turn.reward:+g}", style="bold"))


def print_replay(result: Replay) -> None:
    """What a replay found: one line where all is equal, else the difference side by side."""
    trajectory, difference, out = result.trajectory, result.difference, console()
    out.print(Text(inert(trajectory.id), style="bold"), soft_wrap=True)
    if difference is None:
        ending = f"outcome {trajectory.outcome}, success {trajectory.success}, reward {trajectory.reward:g}"
        out.print(f"equal: {result.n_equal} of {trajectory.n_turns} turns compared, {ending}", soft_wrap=True)
        if trajectory.error:
            out.print(Text(f"the record ends with: {inert(trajectory.error)}"), soft_wrap=True)
        if result.again:
            out.print(Text(inert(result.again)), soft_wrap=True)
        return
    where = f"turn {difference.turn}" if difference.turn <= trajectory.n_turns else "after the last turn"
    what = "the environment failed" if difference.what == "error" else f"the {difference.what} differs"
    equal = f"{result.n_equal} equal turn{'' if result.n_equal == 1 else 's'}"
    out.print(f"{where}: {what}, after {equal}", soft_wrap=True)
    if difference.turn <= trajectory.n_turns:
        out.print(Text(f"  > {inert(trajectory.turns[difference.turn - 1].action)}"), soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("recorded", "now"):
        table.add_column(heading, ratio=1)
    table.add_row(*_side_by_side(_shown(difference.recorded), _shown(difference.now)))
    out.print(table)


def _shown(value: Any) -> str:
    return "none" if value is None else inert(str(value))


def _side_by_side(one: str, other: str) -> tuple[Text, Text]:
    """Both texts, bold from where they part."""
    start = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    first, second = Text(one), Text(other)
    first.stylize("bold green", start)
    second.stylize("bold red", start)
    return first, second
