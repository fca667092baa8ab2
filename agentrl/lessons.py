"""What an iteration teaches: samples, turns and their credit; and the updates on them.

    members ─► samples, columns that the learner measures ─► table, advantages ─► updates

``Lessons`` knows no method by name: what a method reads decides what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentrl import build, seeding, stages
from agentrl.algorithms import TurnTable
from agentrl.algorithms.audit import audit
from agentrl.algorithms.method import MEASURED_COLUMNS, WHOLE, scope
from agentrl.config import AlgorithmTable, CriticTable, RunConfig
from agentrl.errors import CheckpointError
from agentrl.learning.samples import Sample, make_samples, record_logprobs
from agentrl.types import Trajectory


@dataclass(slots=True)
class Lesson:
    """The samples of an iteration, the table of their turns and the advantage of each, [K]. ``scores``: log-probs that were
    computed on the way; ``metrics``: what credit tells of itself."""

    samples: list[Sample]
    table: TurnTable
    advantages: np.ndarray
    scores: Any = None  # learning.learner.Scores
    prompts: Any = None  # learning.critic.Prompts: what the critic read
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Lessons:
    """Makes an iteration's lesson and trains on it. ``responses``: what the policy last answered on each task, where a method
    needs to know how far it moved since."""

    config: RunConfig
    methods: build.Methods
    learner: Any
    team: Any = None  # learning.team.Team
    critic: Any = None  # learning.critic.Critic
    responses: Any = None  # learning.responses.LastResponses

    @classmethod
    def of(cls, config: RunConfig, methods: build.Methods, model: Any) -> Lessons:
        """With a learner of ``model``, and a critic made of it as it is now where the run file has one. Where several learn
        together, ``close`` ends the others."""
        from agentrl.learning.responses import LastResponses

        team = build.team(config)
        try:
            critic = None if config.critic is None else _critic(config, config.critic, model, team)
            learner = _learner(config, methods, model, team)
        except BaseException:
            team.close()
            raise
        remembers = any(getattr(method, "needs_probe", False) for _, method in methods.named())
        return cls(config, methods, learner, team, critic, LastResponses(learner) if remembers else None)

    def close(self) -> None:
        """Ends the processes of other learners."""
        if self.team is not None:
            self.team.close()

    # ── credit ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def credit(self, states: stages.States, members: Sequence[Trajectory]) -> Lesson:
        """The lesson of some trajectories, before any update on them."""
        samples, n_turns = make_samples(members), sum(member.n_turns for member in members)
        wanted = self.methods.of_turns(MEASURED_COLUMNS)
        scores = self.learner.score(samples, entropy="entropy" in wanted) if wanted else None
        further = {name: _measured(name, scores, n_turns) for name in sorted(wanted)}
        prompts = None
        if self.critic is not None:
            prompts = self.critic.read(members)
            further["value"] = prompts.by_turn(self.critic.values(prompts))
        table, advantages = stages.assign_credit(self.methods, states, members, further)
        lesson = Lesson(samples, table, advantages, scores, prompts, audit(table, advantages))
        if samples:
            lesson.metrics["samples/per_episode"] = len(samples) / len(members)
            lesson.metrics["advantage/zero_fraction"] = float(np.mean(advantages == 0))
            for method in self.methods.credit:
                lesson.metrics.update(getattr(method, "metrics", lambda _: {})(table))
        if samples and scores is not None and scores.logp_ref is not None:
            lesson.metrics["kl/sampled"] = float(np.mean(scores.logp_old - scores.logp_ref))
        return lesson

    # ── updates ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def update(self, lesson: Lesson, states: stages.States, iteration: int) -> dict[str, float]:
        """The iteration's updates; returns the mean of their metrics."""
        samples, config = lesson.samples, self.config.algorithm
        if not samples:  # no prompt fitted the context
            return {}
        data = self.learner.prepare(samples, lesson.advantages, lesson.table, lesson.scores)
        if self.learner.old_logprobs == "learner":  # else they are the sampler's, taken on trust
            record_logprobs(samples, data.logp_old)
        self.learner.states = states
        measured: list[Mapping[str, float]] = []
        for epoch in range(config.epochs):
            rng = seeding.stream(self.config.run.seed, "updates", iteration, epoch)
            for chosen in self._parts(samples, lesson.table, rng):
                measured.append(self.learner.update(samples, data, lesson.table, chosen))
        result = {name: float(np.mean([m[name] for m in measured if name in m])) for name in measured[0]}
        result |= {
            name: value for name, value in measured[0].items() if name.startswith("sampler_gap")
        }  # before any step
        result["n_updates"] = self.learner.n_updates
        return result | (self._update_critic(lesson, len(measured), iteration) if self.critic is not None else {})

    def _update_critic(self, lesson: Lesson, n_updates: int, iteration: int) -> dict[str, float]:
        """The critic's updates, as many as the policy's where the run file does not say; the mean of their metrics. The explained
        variance is that of the values before them, which is what credit was computed with."""
        from agentrl.learning.critic import explained_variance

        settings, prompts = self.config.critic, lesson.prompts
        assert settings is not None, "a critic is made of its table"
        old, returns = (lesson.table[name][prompts.row] for name in ("value", "returns"))
        epochs = settings.epochs or self.config.algorithm.epochs
        parts = settings.updates_per_iteration or n_updates // self.config.algorithm.epochs
        measured: list[Mapping[str, float]] = []
        for epoch in range(epochs):
            order = seeding.stream(self.config.run.seed, "critic", iteration, epoch).permutation(len(prompts.histories))
            for part in np.array_split(order, min(parts, len(order))):
                measured.append(self.critic.update(prompts, old, returns, part.tolist()))
        result = {name: float(np.mean([m[name] for m in measured])) for name in measured[0]}
        return {**result, "value/explained_variance": explained_variance(old, returns), "value/mean": float(old.mean())}

    def probe(self, trajectories: Sequence[Trajectory]) -> dict[str, Any]:
        """What methods that remember are told besides the metrics, after the updates: see ``stages.observe``."""
        return {} if self.responses is None else {"policy_shift": self.responses.moved(trajectories)}

    def _parts(self, samples: Sequence[Sample], table: TurnTable, rng: np.random.Generator) -> Iterator[list[int]]:
        """Indices of the samples of each update, shuffled; where the loss compares members of a group, no group is cut."""
        whole = any(scope(method) in WHOLE for method in self.methods.of_update())
        units: dict[int, list[int]] = {}
        for index, sample in enumerate(samples):
            units.setdefault(int(table["group"][sample.row.max()]) if whole else index, []).append(index)
        order = rng.permutation(len(units))
        together = list(units.values())
        for part in np.array_split(order, min(n_updates(len(samples), self.config.algorithm), len(units))):
            yield [index for place in part for index in together[place]]

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs besides the policy's weights."""
        return self.learner.state_dict() | {name: part.state_dict() for name, part in self._kept_parts()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError for the state of another run."""
        self.learner.load_state_dict(dict(state))
        for name, part in self._kept_parts():
            if name not in state:
                raise CheckpointError(f"the checkpoint cannot be resumed from: it has no {name}")
            part.load_state_dict(state[name])

    def _kept_parts(self) -> list[tuple[str, Any]]:
        """What a checkpoint holds besides the learner."""
        parts = (("critic", self.critic), ("responses", self.responses))
        return [(name, part) for name, part in parts if part is not None]


def n_updates(n_samples: int, table: AlgorithmTable) -> int:
    """Updates that an epoch makes of ``n_samples``: nearly equal parts, none above ``samples_per_update``."""
    if table.samples_per_update is not None:
        return math.ceil(n_samples / table.samples_per_update)
    return min(table.updates_per_iteration, n_samples)


def _measured(name: str, scores: Any, n_turns: int) -> np.ndarray:
    """A column of ``MEASURED_COLUMNS``, [K]."""
    if name == "kl":
        return scores.turn_sums(scores.logp_old - scores.logp_ref, n_turns)
    return scores.turn_means(scores.entropy, n_turns)


def _learner(config: RunConfig, methods: build.Methods, model: Any, team: Any) -> Any:
    from agentrl.learning.learner import Learner, OptimizerSettings

    updates = config.run.iterations * config.algorithm.updates_per_iteration * config.algorithm.epochs
    return team.make(
        Learner,
        model=model,
        loss=methods.loss,
        regularizers=methods.regularizers,
        token_weights=methods.token_weights,
        settings=OptimizerSettings(**build.optimizer_fields(config), total=updates),
        **build.memory_fields(config),
        old_logprobs=config.algorithm.old_logprobs,
        with_reference=methods.needs_reference,
    )


def _critic(config: RunConfig, table: CriticTable, model: Any, team: Any) -> Any:
    from agentrl.learning.critic import Critic
    from agentrl.learning.learner import OptimizerSettings

    own = {"lr": table.lr, "warmup": table.warmup, "max_grad_norm": table.max_grad_norm, "schedule": "constant"}
    return team.make(
        Critic,
        policy=model,
        loss=build.critic_loss(table),
        settings=OptimizerSettings(**{**build.optimizer_fields(config), **own}),
        token_budget=config.optimizer.token_budget,
        gradient_checkpointing=config.model.gradient_checkpointing,
    )
