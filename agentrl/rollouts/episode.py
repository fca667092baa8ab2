"""One episode: the only place where environment, agent and policy meet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.agents.base import Agent, Decision, Episode, View
from agentrl.env import awaited, checked_failure, checked_key, checked_reply, checked_start, hook
from agentrl.errors import EnvError, EnvFault, EnvTimeout, PolicyFault, TurnFault
from agentrl.types import Json, Outcome, Task, Trajectory, Turn


class Busy:
    """Seconds in which at least one of the blocks that are entered through it is under way."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = 0
        self._since = 0.0

    def __enter__(self) -> None:
        if not self._inside:
            self._since = time.perf_counter()
        self._inside += 1

    def __exit__(self, *error: object) -> None:
        self._inside -= 1
        if not self._inside:
            self.seconds += time.perf_counter() - self._since


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_turns`` bounds an episode (None: the task's own, else 50), ``time_limit_s`` its wall-clock time."""

    max_turns: int | None = None
    time_limit_s: float | None = None

    def turns(self, task: Task) -> int:
        return self.max_turns or task.max_turns or 50


async def run_episode(
    agent: Agent,
    episode: Episode,
    *,
    env_id: str,
    seed: int,
    group: str,
    limits: Limits,
    replay: Sequence[Turn] = (),
    on_turn: Callable[[], None] | None = None,
    busy: Busy | None = None,
) -> Trajectory:
    """Plays one episode to its end and returns its record.

    ``replay`` holds turns of an earlier try that a fault cut off: their actions are taken again, without the model.
    Faults of environment or policy are outcomes here (``env_fault``, ``env_timeout``, ``policy_fault``), not exceptions; the
    turns until then, also the one that the environment failed to answer, are kept for the next try: what was sampled is never
    sampled anew, so a fault cannot select among actions. What the user configured wrongly is raised.
    ``on_turn`` is called after each turn; ``busy`` measures the environment's part.
    """
    trajectory = Trajectory(id=episode.id, env=env_id, task=episode.task, group=group, seed=seed)
    player = _Player(agent, episode, trajectory, limits, on_turn, busy or Busy())
    try:
        await player.play(seed, replay)
    except EnvTimeout as fault:
        trajectory.outcome, trajectory.error = Outcome.ENV_TIMEOUT, str(fault)
    except EnvFault as fault:
        trajectory.outcome, trajectory.error = Outcome.ENV_FAULT, str(fault)
    except PolicyFault as fault:
        trajectory.outcome, trajectory.error = Outcome.POLICY_FAULT, str(fault)
    return trajectory


class _Player:
    def __init__(
        self,
        agent: Agent,
        episode: Episode,
        trajectory: Trajectory,
        limits: Limits,
        on_turn: Callable[[], None] | None,
        busy: Busy,
    ) -> None:
        self.episode = episode
        self.trajectory = trajectory
        self.limits = limits
        self.on_turn = on_turn
        self.busy = busy
        self.started = time.monotonic()
        episode.max_turns = limits.turns(episode.task)
        episode.deadline = None if limits.time_limit_s is None else self.started + limits.time_limit_s
        self.session = agent.start(episode)
        self.state_key = hook(episode.env, "state_key")
        self.failure = hook(episode.env, "failure")
        self.awaited = awaited(episode.env)

    async def play(self, seed: int, replay: Sequence[Turn]) -> None:
        observation, info = await self._reset(seed)
        trajectory = self.trajectory
        trajectory.outcome = Outcome.MAX_TURNS
        for number in range(self.limits.turns(self.episode.task)):
            started = time.perf_counter()
            if self.episode.deadline is not None and time.monotonic() > self.episode.deadline:
                trajectory.outcome = Outcome.TIME_LIMIT
                break
            view = View(observation, info, number)
            key = await self._state_key()
            try:
                decision = await self._decision(view, replay[number] if number < len(replay) else None)
            except TurnFault as fault:
                trajectory.turns.append(Turn(observation, key, list(fault.calls), info={"unfinished": True}))
                raise
            if decision.over_budget:
                trajectory.outcome, trajectory.error = Outcome.MAX_TOKENS, decision.problem
                break
            if decision.ends is not None:
                trajectory.outcome, trajectory.error = decision.ends, decision.problem
                if decision.calls:  # what was sampled is trained on; the environment does not see this turn
                    trajectory.turns.append(self._turn(view, key, decision))
                break
            if decision.leaves:
                trajectory.outcome, trajectory.error = Outcome.CANCELLED, decision.problem
                break
            turn = self._turn(view, key, decision)
            turn.seconds["sampling"] = time.perf_counter() - started
            trajectory.turns.append(turn)
            observation, info, ended = await self._step(turn)
            if self.on_turn is not None:
                self.on_turn()
            if ended is not None:
                trajectory.outcome = ended
                break
        trajectory.last_observation = observation
        trajectory.success = bool(info.get("success", False))
        if not trajectory.success and not trajectory.outcome.is_fault:
            trajectory.failure = await self._failure()

    # An environment of this process is called at once; only one of another process lets other episodes go on meanwhile.

    async def _reset(self, seed: int) -> tuple[str, dict[str, Any]]:
        env, away = self.episode.env, self.awaited
        asked: dict[str, Any] = {"seed": seed, "options": {"task": self.episode.task}}
        try:
            with self.busy:
                return checked_start(env, env.reset(**asked) if away is None else await away.ask("reset", **asked))
        except Exception as error:
            raise _env_fault("reset", error) from error

    async def _state_key(self) -> str | None:
        if self.state_key is None:
            return None
        away = self.awaited
        try:
            with self.busy:
                key = self.state_key() if away is None else await away.ask("state_key")
            return checked_key(self.episode.env, key)
        except Exception as error:
            raise _env_fault("state_key", error) from error

    async def _failure(self) -> str:
        if self.failure is None:
            return ""
        away = self.awaited
        try:
            with self.busy:
                found = self.failure() if away is None else await away.ask("failure")
            return checked_failure(self.episode.env, found)
        except Exception as error:
            raise _env_fault("failure", error) from error

    def _turn(self, view: View, key: str | None, decision: Decision) -> Turn:
        """The turn as it is decided, before the environment's reply."""
        admissible = view.info.get("admissible_actions") if decision.only_admissible else None
        turn = Turn(view.observation, key, decision.calls, decision.action)
        turn.valid = decision.valid and (admissible is None or decision.action in admissible)
        if not decision.deliberate:
            turn.info["noise"] = True
        if decision.problem:
            turn.info["problem"] = decision.problem
        return turn

    async def _step(self, turn: Turn) -> tuple[str, dict[str, Any], Outcome | None]:
        env, away = self.episode.env, self.awaited
        try:
            with self.busy:  # what checks its reply is no work of the environment
                started = time.perf_counter()
                reply = env.step(turn.action) if away is None else await away.ask("step", turn.action)
                spent = time.perf_counter() - started
            observation, reward, terminated, truncated, info = reply
            checked_reply(env, observation, info)
            turn.reward = float(reward)
            turn.info = _plain(info) | turn.info
            turn.valid = turn.valid and info.get("valid", True) is not False
        except Exception as error:
            raise _env_fault("step", error) from error
        if not math.isfinite(turn.reward):
            raise EnvFault(f"step gave the reward {turn.reward}")
        turn.seconds["environment"] = spent
        return observation, info, Outcome.TERMINATED if terminated else Outcome.TRUNCATED if truncated else None

    async def _decision(self, view: View, earlier: Turn | None) -> Decision:
        return await (self.session.act(view) if earlier is None else self._replayed(view, earlier))

    async def _replayed(self, view: View, turn: Turn) -> Decision:
        if turn.observation != view.observation:
            raise EnvFault(f"turn {view.turn} cannot be replayed: the environment answered differently this time")
        replay = getattr(self.session, "replay", None)
        if replay is not None:
            return await replay(view, turn)
        record = getattr(self.session, "record", None)
        if (
            record is None
        ):  # a session without a model: asked again, it comes to the same decision and to the same state
            decision = await self.session.act(view)
            if decision.action != turn.action:
                raise EnvFault(f"turn {view.turn} cannot be replayed: the agent now chose {decision.action!r}")
            return decision
        if turn.calls:
            record(view, turn.calls[-1], turn.action)
        return Decision(turn.action, turn.calls, valid=turn.valid, problem=turn.info.get("problem", ""))


_NOT_KEPT = ("admissible_actions",)  # derivable, and most of the bytes


def _plain(info: dict[str, Any]) -> dict[str, Json]:
    return {k: v for k, v in info.items() if k not in _NOT_KEPT and isinstance(v, (str, int, float, bool, type(None)))}


def _env_fault(what: str, error: Exception) -> EnvFault:
    if isinstance(error, EnvFault):
        return error  # of a process that died or hung; it says so itself
    return EnvFault(str(error) if isinstance(error, EnvError) else f"{what} raised {type(error).__name__}: {error}")
