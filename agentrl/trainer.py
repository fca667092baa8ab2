"""The loop.

    tasks ─► sampler ─► rollouts ─► scores ─► filters ─► rewards ─► credit ─► samples ─► updates ─► (evaluation, checkpoint)

``Trainer`` knows no algorithm, environment or engine by name: the run file names them, ``build`` makes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl import build, playing, seating, stages
from agentrl.agents import ChatAgent
from agentrl.collecting import Collector
from agentrl.config import RunConfig, config_difference, load
from agentrl.console import Progress
from agentrl.errors import CheckpointError
from agentrl.evaluation import Evaluation, paired_difference
from agentrl.lessons import Lessons
from agentrl.restarting import restarted
from agentrl.rollouts import EnvPool, Limits, Rollouts
from agentrl.scenes import Scenes
from agentrl.store import RunFolder, free_folder, lock
from agentrl.types import RolloutRequest, Task, Trajectory
from agentrl.viewer import report_or_reason
from agentrl.watch import Best, Meter, Tracker, Watch, best_of, episode_metrics
from agentrl.watch.tracking import numbers


def train(
    config: RunConfig,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    started: float | None = None,
) -> dict[str, Any]:
    """Trains as the run file says and returns what ``summary.json`` holds.

    ``resume`` continues the folder ``out`` (default: ``runs/NAME``) from its last checkpoint to the same numbers as an
    undisturbed run, and so does a run that loses one of several learners, ``resources.restarts`` times. ``started`` is
    ``time.time()`` of the process's start, so that ``seconds`` counts all of it.
    """
    progress, started = progress or Progress.for_terminal(), started or time.time()
    path = Path(out) if out else Path("runs") / config.run.name if resume else None
    begun, before = (
        resume,
        (0.0, 0),
    )  # whether the folder holds the run; what the first attempt knew of earlier processes

    def attempt(n_lost: int) -> dict[str, Any]:
        nonlocal path, begun, before
        trainer = Trainer(config, progress, started)
        try:
            path = path or free_folder(config.run.name)
            (trainer.reopen if begun else trainer.open)(path)
            before = before if n_lost and begun else (trainer.seconds_before, trainer.restarts)
            begun, trainer.seconds_before, trainer.restarts = True, before[0], before[1] + n_lost
        except BaseException:
            trainer.close()
            raise
        return trainer.run()

    return restarted(attempt, config.resources.restarts, progress.note)


class Trainer:
    """One run. The constructor makes and checks every part and writes nothing."""

    folder: RunFolder

    def __init__(self, config: RunConfig, progress: Progress, started: float) -> None:
        self.config = config
        self.progress = progress
        self.started = started
        self.seconds_before = 0.0  # of earlier processes of this run
        self.restarts = 0  # after a learner was lost
        self.iteration = 0
        self.tracker = Tracker(config.run.trackio)
        self.scenes = Scenes.of(config)
        self.tasks = self.scenes.tasks
        self.methods = build.methods(
            config.algorithm, state_keys=self.scenes.state_keys, critic=config.critic is not None
        )
        stages.check_scores(self.methods, [scene.tasks[0] for scene in self.scenes.all])
        self.models = build.models(config, self.scenes.pools)
        seats = self.scenes.seats(config, self.models.renderer, build.context_limit(self.models.model))
        seating.check_trains(config, [seat.agent for seat in seats.values()])
        told = [seat.agent.describe() for seat in seats.values() if isinstance(seat.agent, ChatAgent)]
        self.template = "; ".join(dict.fromkeys(filter(None, told)))  # what the chat template was found to do
        self.lessons = Lessons.of(config, self.methods, self.models.model)
        self.learner = self.lessons.learner
        self.states = stages.initial_states(self.methods, config.run.seed)
        self.proposals = stages.Proposals(self.methods.sampler, self.tasks)
        self.methods.sampler.propose(self.states.get("sampler"), 0, self.tasks)  # what it cannot do is an error now
        with ExitStack() as opened:  # what has started processes ends them where the rest cannot be made
            opened.callback(self.lessons.close)
            self.policy = playing.policy_of(config, self.models.model, progress.note)
            opened.callback(self.policy.close)
            self.rollouts = build.rollouts(config, seats, self.policy)
            self.collector = Collector(config, self.methods, self.rollouts, self.proposals, progress.episode)
            self.panels = panels(config, self.scenes, self.rollouts)
            opened.pop_all()
        self.results: dict[str, dict[str, Any]] = {}
        self.slowest = 0.0  # seconds of the longest iteration in this process
        self.evaluation_s = 0.0
        self.watch = Watch(config.alarms)
        self.meter = Meter(config, self.models.model, (self.policy, self.learner, self.lessons.critic))

    # ── the run folder ───────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, path: Path) -> None:
        """Starts a new run folder."""
        self.folder = RunFolder.create(path, self.config.model_dump(mode="python"))

    def reopen(self, path: Path) -> None:
        """Continues a run folder from its last checkpoint; one that was stopped before its first starts again. Raises
        CheckpointError for a folder without a run, or one of another run file (its length, panels and resources may differ)."""
        from agentrl.learning import checkpoint

        latest = path / "checkpoints" / "latest"
        if not (path / "config.toml").is_file():
            raise CheckpointError(f"there is no run to continue in {path}; start it without --resume")
        if changed := config_difference(load(path / "config.toml"), self.config):
            remedy = "give its overrides again, or start anew without --resume"
            raise CheckpointError(f"{path} was started with another run file: {changed}; {remedy}")
        lock(path)
        checkpoint.recover(path / "checkpoints")
        if not latest.exists():
            if latest.is_symlink() or checkpoint.steps(path / "checkpoints"):
                raise CheckpointError(f"{latest} points to no checkpoint; {checkpoint.remedy(latest)}")
            self.folder = RunFolder.reopen(path, 0)
            return
        training, state = checkpoint.load_state(latest)
        if missing := {"iteration", "seed", "states", "results", "seconds"} - set(state):
            raise CheckpointError(f"{latest} cannot be resumed from: its state has no {', '.join(sorted(missing))}")
        checkpoint.load_weights(self.models.model, latest)
        self.lessons.load_state_dict(training)
        self.policy.update(self.models.model, self.learner.n_updates)
        self.iteration = state["iteration"]
        self.states = state["states"]
        self.proposals.step = state.get("proposals", self.iteration)
        self.results = state["results"]
        self.seconds_before, self.restarts = state["seconds"], state.get("restarts", 0)
        self.folder = RunFolder.reopen(path, self.iteration)
        self.watch = Watch(self.config.alarms, self.folder.metrics())
        self.folder.write_alarms(self.watch.to_list())
        if self.config.evaluation.every:
            checkpoint.point_best(self.folder.checkpoints, None if (best := self.best()) is None else best.step)

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> dict[str, Any]:
        """Everything from the first evaluation to the last. An interrupt or error leaves its status in the summary."""
        config = self.config
        self.folder.write_summary(self.summary("running"))
        try:
            with self.progress.run(self.folder.path, config, self.iteration, self.seconds()):
                resumed = "before" in self.results
                told = self.tracker.begin(self.folder.path.name, config.model_dump(mode="json"), resumed=resumed)
                for note in filter(None, (self.template, told)):
                    self.progress.note(note)
                if "before" not in self.results:
                    self.evaluate("before")
                    self.save()
                while self.iteration < config.run.iterations and not self.out_of_time():
                    metrics = self.iterate()
                    self.folder.add_metrics(metrics)
                    self.tracker.log(self.iteration, metrics)
                    self.progress.iteration(metrics)
                    self.tell_alarms(metrics)
                    self.iteration += 1
                    self.after_iteration()
                if self.iteration < config.run.iterations:
                    n, limit = config.run.iterations, config.run.time_limit_s
                    self.progress.note(
                        f"run.time_limit_s = {limit:g} ends the run after {self.iteration} of {n} iterations"
                    )
                self.save()
                self.evaluate("after")
                self.keep_best()
                self.compare()
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(OSError):  # a full disk may be the very error
                self.folder.write_summary({**self.summary(status), "error": f"{type(error).__name__}: {error}"})
            raise
        finally:
            self.close()
        summary = self.summary("completed")
        self.folder.write_summary(summary)
        if config.run.report and (problem := report_or_reason(self.folder.path)):
            self.progress.note(problem)
        self.progress.finished(summary, self.folder.path)
        return summary

    def close(self) -> None:
        """Ends every process and connection of the run."""
        self.collector.close()
        for rollouts in (self.rollouts, *(rollouts for rollouts, _ in self.panels.values())):
            rollouts.close()
        self.policy.close()
        self.tracker.end()
        self.lessons.close()

    def iterate(self) -> dict[str, Any]:
        """One iteration; returns its metrics."""
        self.meter.begin()
        timed, started = self.meter.timed, time.perf_counter()
        record = f"iteration_{self.iteration:06d}"
        with timed("rollout"), self.folder.keeping(record):
            found = self.collector.collect(self.iteration, self.states, self.policy.version)
        with timed("sync"):
            if not self.config.rollout.staleness:  # else episodes go on
                self.policy.sleep()
        trajectories, groups = found.rolled, found.kept
        self.meter.seconds |= found.phases
        metrics = episode_metrics(trajectories)
        with timed("credit"):
            members = [member for group in groups for member in group.members]
            metrics["filtered_groups"] = 1 - len(groups) / max(1, len({t.group for t in trajectories}))
            lesson = self.lessons.credit(self.states, members) if members else None
        with timed("training"):
            if lesson is not None:
                metrics |= lesson.metrics | self.lessons.update(lesson, self.states, self.iteration)
            probe = {**metrics, **self.lessons.probe(trajectories)}
        with timed("sync"):
            n_bytes = self.learner.gather() + self.policy.update(self.models.model, self.learner.n_updates)
        if n_bytes:
            metrics["sync/bytes"] = n_bytes
        metrics |= getattr(self.policy, "metrics", dict)()
        if self.restarts:
            metrics["restarts"] = self.restarts
        remembered = stages.states_of_credit(self.states)
        self.states = stages.observe(self.methods, self.states, trajectories, probe)
        with timed("storage"):
            if remembered:
                self.folder.add_states(self.iteration, remembered)
            self.folder.add_trajectories(record, [*trajectories, *found.faulted])
        seconds = time.perf_counter() - started
        self.slowest = max(self.slowest if self.iteration else 0.0, seconds)
        return {
            "iteration": self.iteration,
            **metrics,
            **found.counts,
            **self.meter.measure(seconds, [*trajectories, *found.faulted]),
            "perf/tokens_per_second": round(metrics["n_sampled_tokens"] / max(self.meter.seconds["rollout"], 1e-9), 1),
        }

    def after_iteration(self) -> None:
        """What is due every so many iterations."""
        config = self.config
        every, due = config.evaluation.every, self.iteration % config.checkpoint.every == 0
        if self.iteration >= config.run.iterations:
            return
        if every and self.iteration % every == 0:
            self.evaluate(f"iteration_{self.iteration}", only=("sampled",))
            due = due or ((best := self.best()) is not None and best.step == self.iteration)
        if due:
            self.save()

    def best(self) -> Best | None:
        """The best checkpoint, the present weights among them; None where the run plays no panel on the way."""
        from agentrl.learning import checkpoint

        if not self.config.evaluation.every:
            return None
        return best_of(self.results, self.iteration, {*checkpoint.steps(self.folder.checkpoints), self.iteration})

    def keep_best(self) -> None:
        """Points ``best`` to the best checkpoint, once the last of them was evaluated."""
        from agentrl.learning import checkpoint

        if (best := self.best()) is not None:
            checkpoint.point_best(self.folder.checkpoints, best.step)
            checkpoint.prune(self.folder.checkpoints, self.iteration, self.config.checkpoint.keep)

    def tell_alarms(self, metrics: Mapping[str, Any]) -> None:
        """Notes the alarms that an iteration raises, and writes all of them down where one was raised or cleared."""
        before = self.watch.to_list()
        for alarm in self.watch.see(metrics):
            self.progress.note(alarm.text)
        if (alarms := self.watch.to_list()) != before:
            self.folder.write_alarms(alarms)

    def seconds(self) -> float:
        """Since the run's first process began, without the pauses between processes."""
        return self.seconds_before + time.time() - self.started

    def out_of_time(self) -> bool:
        """Whether one more iteration and the last evaluation would not fit ``run.time_limit_s``."""
        limit = self.config.run.time_limit_s
        return limit is not None and self.seconds() + 1.2 * (self.slowest + self.evaluation_s) > limit

    # ── evaluation ───────────────────────────────────────────────────────────────────────────────────────────────────

    def evaluate(self, name: str, only: Sequence[str] = ()) -> None:
        """Plays the panels and keeps their results under ``name``."""
        found: dict[str, Any] = {}
        began = time.perf_counter()
        for panel, (rollouts, tasks) in self.panels.items():
            if only and panel not in only:
                continue
            self.progress.panel(f"{name}/{panel}", len(tasks))
            with self.folder.keeping(f"eval_{name}_{panel}"):
                result = run_panel(rollouts, tasks, f"{name}/{panel}", self.progress.episode)
            successes = [None if t.outcome.is_fault else bool(t.success) for t in result.trajectories]
            found[panel] = {**result.to_dict(), "successes": successes}
            self.folder.add_trajectories(f"eval_{name}_{panel}", result.trajectories)
            self.progress.evaluated(f"{name}/{panel}", found[panel])
            self.tracker.log(self.iteration, numbers(found[panel], f"eval/{panel}/"))
        self.evaluation_s = max(self.evaluation_s, time.perf_counter() - began)
        self.results[name] = found
        self.folder.write_summary(self.summary("running"))

    def compare(self) -> None:
        """The difference between the first and the last evaluation, task by task."""
        before, after = self.results["before"], self.results["after"]
        self.results["difference"] = {}
        for panel in before:
            pairs = zip(before[panel]["successes"], after[panel]["successes"], strict=True)
            scored = [(first, last) for first, last in pairs if first is not None and last is not None]
            value, interval = paired_difference([first for first, _ in scored], [last for _, last in scored])
            self.results["difference"][panel] = {"value": value, "ci95": list(interval)}

    def summary(self, status: str) -> dict[str, Any]:
        """What ``summary.json`` holds: the sampled panel's numbers first, the others beside it."""
        shown: dict[str, Any] = {}
        for name, panels in self.results.items():
            plain = {p: {k: v for k, v in r.items() if k != "successes"} for p, r in panels.items()}
            shown[name] = {**plain.pop("sampled", {}), **plain}
        return {
            "status": status,
            "seconds": round(self.seconds(), 1),
            "iterations": self.iteration,
            "eval": shown,
            "seed": self.config.run.seed,
            "n_updates": self.learner.n_updates,
            "restarts": self.restarts,
            "n_parameters": sum(parameter.numel() for parameter in self.models.model.parameters()),
            "n_trained_parameters": self.learner.n_trained,
            "threads": build.threads(self.config),
            "chat_template": self.template,
            "alarms": self.watch.to_list(),
            "time": self.watch.account.to_dict(),
            "best": None if (best := self.best()) is None else best.to_dict(),
        }

    def save(self) -> None:
        """A checkpoint that a resume continues from."""
        from agentrl.learning import checkpoint

        state = {
            "iteration": self.iteration,
            "seed": self.config.run.seed,
            "states": self.states,
            "proposals": self.collector.place(),
            "results": self.results,
            "seconds": self.seconds(),
            "restarts": self.restarts,
        }
        best = self.best()
        checkpoint.save(
            self.folder.checkpoints,
            self.iteration,
            model=self.models.model,
            tokenizer=self.models.tokenizer,
            training=self.lessons.state_dict(),
            state=state,
            keep=self.config.checkpoint.keep,
            best=None if best is None else best.step,
        )


def run_panel(
    rollouts: Rollouts,
    tasks: Sequence[Task],
    name: str,
    on_done: Callable[[Trajectory], None] | None = None,
    on_turn: Callable[[], None] | None = None,
    samples: int = 1,
    known: Mapping[str, Trajectory] | None = None,
) -> Evaluation:
    """Plays ``samples`` episodes on each task; ``known`` are those that ended earlier, as in ``Rollouts.run``."""
    started = time.perf_counter()
    groups = rollouts.run([RolloutRequest(task, samples) for task in tasks], ("eval", name), on_done, on_turn, known)
    return Evaluation([member for group in groups for member in group], time.perf_counter() - started, samples)


def panels(config: RunConfig, scenes: Scenes, rollouts: Rollouts) -> dict[str, tuple[Rollouts, Sequence[Task]]]:
    """The evaluation's panels: ``sampled`` and ``greedy`` on the split, ``games`` on real games, which the first environment
    plays."""
    table = config.evaluation
    found: dict[str, tuple[Rollouts, Sequence[Task]]] = {}
    if tasks := panel_tasks(config, scenes):
        found["sampled"] = (_changed(rollouts, table.temperature, table.max_turns), tasks)
        if table.greedy:
            found["greedy"] = (_changed(rollouts, 0.0, table.max_turns), tasks)
    if table.games is not None:
        pool, tasks = games_of(config, table.games)
        found["games"] = (
            replace(
                _changed(rollouts, table.temperature, table.games_max_turns), pool=pool, seats={}, home=build.GAMES
            ),
            tasks,
        )
    return found


def panel_tasks(config: RunConfig, scenes: Scenes) -> list[Task]:
    """The tasks of the panel on the split; of several environments each brings as many. Raises ConfigError where there are too
    few."""
    table = config.evaluation
    if not table.episodes:
        return []
    firsts = [scene.first_tasks(table.split, table.episodes, "evaluation.episodes") for scene in scenes.all]
    return [task for first in firsts for task in first]


def games_of(config: RunConfig, folder: str) -> tuple[EnvPool, list[Task]]:
    """The real games in a folder, each started once, and where they are played. Raises ConfigError and GameError for a folder or
    game that cannot be read."""
    pool = build.env_pool(config.env[0], games=folder)
    tasks = list({task.id: task for split in build.SPLITS for task in build.tasks_or_none(pool, split)}.values())
    build.check_tasks(pool, tasks)
    return pool, tasks


def _changed(rollouts: Rollouts, temperature: float, max_turns: int | None) -> Rollouts:
    """The same rollouts at another temperature, and with another bound of the episodes where there is one."""

    def bounded(limits: Limits) -> Limits:
        return limits if max_turns is None else replace(limits, max_turns=max_turns)

    return replace(
        rollouts,
        sampling=replace(rollouts.sampling, temperature=temperature),
        limits=bounded(rollouts.limits),
        seats={name: replace(seat, limits=bounded(seat.limits)) for name, seat in rollouts.seats.items()},
    )
