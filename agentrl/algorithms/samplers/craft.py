"""From short tasks to long ones, in stages."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.samplers.uniform import shuffled
from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError
from agentrl.registry import register
from agentrl.seeding import stable_hash
from agentrl.types import RolloutRequest, Task

Share = Annotated[float, Field(ge=0, lt=1)]


@register("sampler", "craft")
@dataclass(frozen=True, kw_only=True)
class CraftSampler(Method):
    """CRAFT-GUI's staged curriculum: stage s trains on the tasks whose difficulty d lies in (L_{s-1}, L_s], with a share of
    those of earlier stages. RECONSTRUCTED from the paper's abstract, which names a curriculum over trajectories of varying
    difficulty and no numbers; what is a choice is marked so.

    ``by`` says what d is: the name of one of a task's ``options`` that holds a number, such as the length of its reference
    trajectory (the paper's meaning, "steps"), or "max_turns". ``bounds`` are L_1 < L_2 < …, the last stage being open above (a
    summary of the paper has 1 to 3, 4 to 8 and more steps: [3, 8]); without them the tasks, sorted by d and then by type, are cut
    into ``stages`` parts of equal size (3, a choice). Where d is a word (an option's, or with ``by`` = "type" or "env" the task's
    type or environment), ``bands`` lists the words of each stage. Tasks of the types in ``last`` join in the last stage, whatever
    their d: in the paper those of understanding.

    A stage ends when, over ``window`` iterations in it, more than ``threshold`` of the episodes on its own tasks succeeded (0.7 and
    5, a choice; 1: never), or after ``iterations`` iterations (0: never). The last one lasts. ``earlier`` is the share of an
    iteration's tasks that is drawn from the stages before (0.25, a choice); "pooled": all tasks of the stages so far are one pool.

    Within a stage no task comes twice before all have come. The state holds the stage, how long it has lasted and how its
    latest iterations went; it stands in checkpoints. The tasks of the split are gone through once at the start (100,000 generated
    ones: a second).

    Source: CRAFT-GUI (arXiv 2508.11360), abstract.
    """

    stage = "sampler"
    formula = "stage s: tasks with L_{s-1} < d <= L_s and a share of earlier ones; next where success > threshold"
    source = "CRAFT-GUI (arXiv 2508.11360), reconstructed from its abstract"

    tasks: Annotated[int, Field(ge=1)] = 12
    group_size: Annotated[int, Field(ge=1)] = 8
    by: str = "steps"
    bounds: tuple[float, ...] = ()
    stages: Annotated[int, Field(ge=1)] = 3
    bands: tuple[tuple[str, ...], ...] = ()
    last: tuple[str, ...] = ()
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    window: Annotated[int, Field(ge=1)] = 5
    iterations: Annotated[int, Field(ge=0)] = 0
    earlier: Share | Literal["pooled"] = 0.25

    def __post_init__(self) -> None:
        if self.bounds and self.bands:
            raise ConfigError("the sampler 'craft' takes bounds of numbers or bands of words: give one of the two")
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ConfigError(f"the sampler 'craft' wants bounds that rise; got {list(self.bounds)}")
        words = [word for band in self.bands for word in band]
        if len(set(words)) < len(words) or not all(self.bands):
            raise ConfigError(f"the sampler 'craft' wants each word in one band, and none empty; got {self.bands}")

    def init(self, seed: int) -> dict[str, Any]:
        """The state: the run's root seed; the stage, from 0; the iterations seen in it; the latest of them as [successes,
        episodes] of the stage's own tasks."""
        return {"seed": seed, "stage": 0, "lasted": 0, "window": []}

    def propose(self, state: Mapping[str, Any], step: int, tasks: Sequence[Task]) -> list[RolloutRequest]:
        """``self.tasks`` different tasks of the stage and of earlier ones. Raises ConfigError for tasks that no stage takes, for a
        stage without tasks, and where the first has too few."""
        found = self._stages_of(tasks)
        stage = min(state["stage"], len(found.members) - 1)
        if self.earlier == "pooled":
            pool = [place for members in found.members[: stage + 1] for place in members]
            return self._requests(tasks, _pass(pool, self.tasks, step, state["seed"], "pooled", stage))
        own = found.members[stage]
        before = [place for members in found.members[:stage] for place in members]
        n_own = min(self.tasks - min(round(self.earlier * self.tasks), len(before)), len(own))
        chosen = _pass(own, n_own, step, state["seed"], "own", stage)
        return self._requests(tasks, chosen + _pass(before, self.tasks - n_own, step, state["seed"], "earlier", stage))

    def observe(self, state: Mapping[str, Any], table: TurnTable, probe: Any) -> dict[str, Any]:
        """The state after an iteration: the next stage, where this one is over. Episodes on tasks of other stages are not counted.
        Raises ConfigError where nothing was proposed before."""
        if not self._cut:
            raise ConfigError("the sampler 'craft' observes what it proposed, and it has proposed nothing yet")
        found, stage = self._cut[0][1], state["stage"]
        ids = table.labels("task")
        first = np.unique(table["trajectory"], return_index=True)[1]
        codes, won = table["task"][first], table["success"][first]
        own = np.array([found.stage_of.get(ids[code]) == stage for code in codes], dtype=bool)
        latest = [*state["window"], [int(won[own].sum()), int(own.sum())]][-self.window :]
        lasted = state["lasted"] + 1
        succeeded, played = (sum(column) for column in zip(*latest, strict=True))
        over = len(latest) == self.window and played > 0 and succeeded / played > self.threshold
        if (over or lasted == self.iterations) and stage + 1 < len(found.members):
            return {**state, "stage": stage + 1, "lasted": 0, "window": []}
        return {**state, "lasted": lasted, "window": latest}

    def _requests(self, tasks: Sequence[Task], places: Sequence[int]) -> list[RolloutRequest]:
        return [RolloutRequest(tasks[place], self.group_size) for place in places]

    # ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _stages_of(self, tasks: Sequence[Task]) -> _Stages:
        """The stages of a split, found once."""
        if not self._cut or self._cut[0][0] is not tasks:
            self._cut[:] = [(tasks, self._found(tasks))]
        return self._cut[0][1]

    @functools.cached_property
    def _cut(self) -> list[tuple[Sequence[Task], _Stages]]:
        """The split that was last proposed from, with its stages: a function of the tasks, so it needs no checkpoint."""
        return []

    def _found(self, tasks: Sequence[Task]) -> _Stages:
        late = [place for place, task in enumerate(tasks) if task.type in self.last]
        rest = [place for place, task in enumerate(tasks) if task.type not in self.last]
        members = list(self._split([(place, tasks[place]) for place in rest]))
        members[-1] += late
        for number, places in enumerate(members, start=1):
            if not places:
                raise ConfigError(
                    f"stage {number} of the sampler 'craft' has no tasks: change its bounds, bands or stages"
                )
        if len(members[0]) < self.tasks:
            n = len(members[0])
            raise ConfigError(
                f"the sampler 'craft' wants {self.tasks} different tasks an iteration, its first stage has {n}: set sampler.tasks "
                f"to at most {n}, or widen that stage"
            )
        stage_of = {tasks[place].id: number for number, places in enumerate(members) for place in places}
        return _Stages(members, stage_of)

    def _split(self, tasks: Sequence[tuple[int, Task]]) -> Iterator[list[int]]:
        """The places of each stage's tasks."""
        if self.bands:
            known = {word: number for number, band in enumerate(self.bands) for word in band}
            stages = [known.get(self._word(task), -1) for _, task in tasks]
            if -1 in stages:
                task = tasks[stages.index(-1)][1]
                raise ConfigError(
                    f"no band of the sampler 'craft' has '{self._word(task)}', which is the {self.by} of task '{task.id}'"
                )
            n_stages = len(self.bands)
        elif self.bounds:
            stages = [bisect.bisect_left(self.bounds, self._number(task)) for _, task in tasks]
            n_stages = len(self.bounds) + 1
        else:
            order = sorted(range(len(tasks)), key=lambda at: (self._number(tasks[at][1]), tasks[at][1].type, at))
            n_stages = self.stages
            stages = [0] * len(tasks)
            for rank, at in enumerate(order):
                stages[at] = rank * n_stages // len(tasks)
        for number in range(n_stages):
            yield [place for (place, _), stage in zip(tasks, stages, strict=True) if stage == number]

    def _word(self, task: Task) -> str:
        return str(self._given(task))

    def _number(self, task: Task) -> float:
        given = self._given(task)
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            raise ConfigError(
                f"the sampler 'craft' wants a number as the {self.by} of task '{task.id}', got {given!r}: name another of its "
                f"options ({', '.join(task.options) or 'it has none'}) or 'max_turns' in by, or list words in bands"
            )
        return given

    def _given(self, task: Task) -> Any:
        if self.by in ("type", "env", "max_turns"):
            return getattr(task, self.by)
        return task.options.get(self.by)


@dataclass(frozen=True, slots=True)
class _Stages:
    """The places of each stage's tasks, and the stage of each task's id."""

    members: list[list[int]]
    stage_of: dict[str, int]


def _pass(places: Sequence[int], n: int, step: int, seed: int, what: str, stage: int) -> list[int]:
    """``n`` different of these places: the next of a shuffle that depends on seed and stage alone."""
    if not n:
        return []
    epoch, place = divmod(step, max(1, len(places) // n))
    key = stable_hash(seed, "craft", what, stage)
    return [places[shuffled(place * n + at, len(places), key, epoch)] for at in range(n)]
