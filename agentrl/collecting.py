"""Where an iteration's trajectories come from: rollouts, scores, filters, and what the filters ask for again.

``rollout.staleness = 0``: the episodes of an iteration begin when the last one's updates are made. ``staleness = n``: they may
begin while up to n earlier iterations are still trained on, so an episode's tokens come from weights that are at most n
iterations old. Each of an iteration's episodes is waited for, however long it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentrl import stages
from agentrl.algorithms.method import columns
from agentrl.build import Methods
from agentrl.config import RunConfig
from agentrl.errors import ConfigError, TooManyFaults
from agentrl.rollouts import Ahead, Rollouts
from agentrl.rollouts.pool import RolloutStats, told
from agentrl.types import Group, RolloutRequest, Trajectory

MOST_LOST = 3
SPENT = ("generation", "environment", "environment_wall")


@dataclass(slots=True)
class Collected:
    """An iteration's episodes: all that could be scored, the groups that the filters keep, those that the machinery failed; what
    to write into metrics (``counts``), and seconds (``phases``)."""

    rolled: list[Trajectory] = field(default_factory=list)
    kept: list[Group] = field(default_factory=list)
    faulted: list[Trajectory] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))


class Collector:
    """Collects one iteration after the other. ``on_done`` is called with each episode that has ended."""

    def __init__(
        self,
        config: RunConfig,
        methods: Methods,
        rollouts: Rollouts,
        proposals: stages.Proposals,
        on_done: Callable[[Trajectory], None],
    ) -> None:
        check_staleness(config, methods)
        self.methods = methods
        self.rollouts = rollouts
        self.proposals = proposals
        self.on_done = on_done
        self.staleness = config.rollout.staleness
        self.n_iterations = config.run.iterations
        self.refill_rounds = config.algorithm.refill_rounds
        self._ahead: Ahead | None = None
        self._begun: dict[int, tuple[int, list[RolloutRequest]]] = {}  # iteration: its place in the order, its requests
        self._versions: dict[int, int] = {}  # a policy's version: the iteration that began with it
        self._lost = 0  # iterations in a row without an episode that could be scored

    def collect(self, iteration: int, states: stages.States, version: int) -> Collected:
        """The episodes of an iteration. ``version``: that of the policy's weights as they are now. Filters may ask for more, in
        a bounded loop. Raises TooManyFaults where most episodes of a round, or all of ``MOST_LOST`` iterations in a row, ended in
        faults."""
        self._versions[version] = iteration
        found, retries = Collected(), 0
        requests = self._begin(iteration, states)
        for attempt in range(self.refill_rounds + 1):
            try:
                played, stats = self._play(iteration, attempt, requests)
            except TooManyFaults as error:
                raise TooManyFaults(str(error), [*found.rolled, *found.faulted, *error.episodes]) from error
            retries += stats.n_retries
            for what in SPENT:
                found.phases[what] += getattr(stats, f"{what}_s")
            requests = self._keep(found, played, states)
            found.counts["rollout/rounds"] = attempt + 1
            if not requests or attempt == self.refill_rounds:
                break
            requests = self.proposals.fill(requests)
        found.counts |= {"episode/faults": len(found.faulted), "rollout/retries": retries}
        if self.staleness:
            found.counts |= self._lag(iteration, found.rolled)
        self._lost = self._lost + 1 if found.faulted and not found.rolled else 0
        if self._lost >= MOST_LOST:
            last, ids = found.faulted[-1], [trajectory.id for trajectory in found.faulted]
            raise TooManyFaults(
                f"no episode could be scored in {self._lost} iterations, the last by {last.outcome}: {last.error}; "
                f"those of this one are {told(ids)}",
                found.faulted,
            )
        return found

    def place(self) -> int:
        """The place in the sampler's order from which a resumed run goes on: that of the first iteration not yet collected."""
        return min((place for place, _ in self._begun.values()), default=self.proposals.step)

    def close(self) -> None:
        """Stops the episodes of iterations that nobody will train on."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _begin(self, iteration: int, states: stages.States) -> list[RolloutRequest]:
        """The requests of an iteration; those of the next ones are begun with it, as far as ``staleness`` allows."""
        for number in range(iteration, min(iteration + self.staleness + 1, self.n_iterations)):
            if number not in self._begun:
                place = self.proposals.step
                self._begun[number] = place, self.proposals.begin(states.get("sampler"))
                if self.staleness:
                    self._running().start(("iteration", number), self._begun[number][1], rank=number)
        return self._begun.pop(iteration)[1]

    def _running(self) -> Ahead:
        if self._ahead is None:
            self._ahead = Ahead(self.rollouts)
        return self._ahead

    def _play(
        self, iteration: int, attempt: int, requests: Sequence[RolloutRequest]
    ) -> tuple[list[list[Trajectory]], RolloutStats]:
        key = ("iteration", iteration) if attempt == 0 else ("iteration", iteration, "refill", attempt)
        if not self.staleness:
            played = self.rollouts.run(requests, key, self.on_done)
            return played, self.rollouts.stats
        if attempt:
            self._running().start(key, requests, rank=iteration)
        return self._running().take(key, self.on_done)

    def _keep(self, found: Collected, played: list[list[Trajectory]], states: stages.States) -> list[RolloutRequest]:
        """Scores what was played and adds it to ``found``; returns what the filters ask for."""
        groups = [Group(members[0].group, members) for members in played if members]
        groups = self._without_faults(found, groups)
        stages.score(self.methods, [member for group in groups for member in group.members])
        groups = self._without_faults(found, groups)
        found.rolled += [member for group in groups for member in group.members]
        groups = [group for group in groups if group.members]
        found.kept, requests, measured = stages.keep(self.methods, states, groups, found.kept)
        found.counts |= measured
        return requests

    def _without_faults(self, found: Collected, groups: Sequence[Group]) -> list[Group]:
        found.faulted += [member for group in groups for member in group.members if member.outcome.is_fault]
        return [Group(g.id, [member for member in g.members if not member.outcome.is_fault]) for g in groups]

    def _lag(self, iteration: int, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """How old the weights were that sampled each token, in iterations."""
        calls = [c for trajectory in trajectories for turn in trajectory.turns for c in turn.calls if c.trainable]
        versions = [
            version for call in calls for version in call.versions or [call.policy_version] * len(call.completion_ids)
        ]
        lags = [iteration - self._versions[version] for version in versions]
        return {"staleness/mean": float(np.mean(lags)) if lags else 0.0, "staleness/max": float(max(lags, default=0))}


def check_staleness(config: RunConfig, methods: Methods) -> None:
    """Raises ConfigError where old weights sample and nothing in the loss takes that into account."""
    n = config.rollout.staleness
    if n and config.rollout.batching == "rounds":
        raise ConfigError(
            f'rollout.batching = "rounds" waits for every episode, and rollout.staleness = {n} lets none wait; leave batching out'
        )
    corrected = any("logp_sampler" in columns(method) for method in (*methods.token_weights, methods.loss))
    if n and config.algorithm.old_logprobs == "learner" and not corrected:
        raise ConfigError(
            f"rollout.staleness = {n} trains on tokens of older weights, and nothing corrects for that: set "
            'algorithm.token_weights = [{ name = "tis" }] (or mis, icepop, rejection), or algorithm.old_logprobs = "sampler"'
        )
