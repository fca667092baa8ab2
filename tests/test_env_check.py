"""Every check of ``agentrl check`` can fail: for each there is an environment that breaks just that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest

import agentrl.env
from agentrl.env import LazyTasks, TextEnv, TextSpace
from agentrl.env_check import CHECKS, Check, check_env, failed, render
from agentrl.errors import GameError
from agentrl.types import Task

SPLITS = ("train", "valid_seen", "valid_unseen")


class Bare(TextEnv):
    """A hall with a door at its end, and no optional hook."""

    def tasks(self, split: str) -> list[Task]:
        return [
            Task(id=f"{split}-{i}", seed=i, split=split, options={"door": f"{split} {i}", "length": 2 + i % 3})
            for i in range(20)
        ]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = self.choose_task(options)
        self.place, self.won = 0, False
        return f"You are in the hall of door {self.task.options['door']}.", self.info()

    def step(self, action: str) -> tuple[str, Any, Any, Any, dict[str, Any]]:
        length = self.task.options["length"]
        valid = action in self.possible()
        if valid:
            self.place += {"left": -1, "right": 1}.get(action, 0)
            self.won = action == "open" and self.place == length
        text = (
            f"Place {self.place} of {length}, before door {self.task.options['door']}." if valid else "Nothing happens."
        )
        return text, float(self.won), self.won, False, {**self.info(), "is_action_valid": valid}

    def possible(self) -> list[str]:
        here = ["left"] * (self.place > 0) + ["right"] * (self.place < self.task.options["length"])
        return [*here, "look", "open"]

    def info(self) -> dict[str, Any]:
        return {"success": self.won}


class Hall(Bare):
    """With every optional hook."""

    def info(self) -> dict[str, Any]:
        return {"success": self.won, "admissible_actions": self.possible()}

    @property
    def admissible_actions(self) -> Any:
        return self.possible()

    def state_key(self) -> str:
        return f"{self.place} {self.won}"

    def snapshot(self) -> Any:
        return self.task, self.place, self.won

    def restore(self, snapshot: Any) -> None:
        self.task, self.place, self.won = snapshot

    def failure(self) -> Any:
        return "never_found" if self.place < self.task.options["length"] else None

    def oracle(self) -> list[str]:
        return ["right"] * (self.task.options["length"] - self.place) + ["open"]


def statuses(make: Callable[[], Any], **options: Any) -> dict[str, str]:
    checks = check_env(make, **options)
    print(render(checks))  # shown where a test fails
    return {check.name: check.status for check in checks}


def with_status(make: Callable[[], Any], status: str, **options: Any) -> set[str]:
    return {name for name, found in statuses(make, **options).items() if found == status}


# ── what conforms ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", [Hall, lambda: gymnasium.Wrapper(Hall())])
def test_a_conforming_environment_passes(make: Callable[[], Any]) -> None:
    assert with_status(make, "pass") == set(CHECKS)


def test_household_passes() -> None:
    found = statuses(lambda: agentrl.env.make("agentrl/Household-v0", difficulty="tiny"))
    assert set(found.values()) == {"pass"}


def test_missing_hooks_are_skipped_and_say_what_they_would_gain() -> None:
    checks = {check.name: check for check in check_env(Bare)}
    assert not failed(checks.values())
    for name in ("admissible", "state_key", "snapshot", "oracle", "failure"):
        assert checks[name].status == "skip" and "would" in checks[name].detail
    assert checks["snapshot_pickle"].detail == "not run: 'snapshot_elsewhere' was skipped"
    assert checks["ending"].status == "warn"  # random words open no door


# ── what breaks one check each ───────────────────────────────────────────────────────────────────────────────────────

BROKEN: list[tuple[str, type]] = []


def breaks(check: str) -> Callable[[type], type]:
    def register(cls: type) -> type:
        BROKEN.append((check, cls))
        return cls

    return register


@breaks("builds")
class NoEnv:
    pass


@breaks("builds")
class OneForAll(Hall):
    def __new__(cls) -> Any:
        cls.only = getattr(cls, "only", None) or super().__new__(cls)  # type: ignore[misc]
        return cls.only


@breaks("api")
class RewardAsText(Hall):
    def step(self, action: str) -> Any:
        text, reward, *rest = super().step(action)
        return text, str(reward), *rest


@breaks("api")
class FourTuple(Hall):
    def step(self, action: str) -> Any:
        return super().step(action)[:4]


@breaks("api")
class NotANumber(Hall):
    def step(self, action: str) -> Any:
        text, _, *rest = super().step(action)
        return text, float("nan"), *rest


@breaks("api")
class EndAsNumber(Hall):
    def step(self, action: str) -> Any:
        text, reward, won, truncated, info = super().step(action)
        return text, reward, int(won), truncated, info


@breaks("api")
class OnlyText(Hall):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0]


@breaks("spaces")
class NarrowSpace(Hall):
    action_space = gymnasium.spaces.Text(5, charset="abc")


@breaks("gymnasium")
class Unseeded(Hall):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(options=options)


@breaks("random_play")
class LateFault(Hall):
    def reset(self, **kwargs: Any) -> Any:
        self.turns = 0
        return super().reset(**kwargs)

    def step(self, action: str) -> Any:
        self.turns += 1
        if self.turns > 30:
            raise RuntimeError("the engine has gone")
        return super().step(action)


@breaks("random_play")
class NoTurns(Hall):
    def tasks(self, split: str) -> list[Task]:
        return [Task(task.id, task.seed, "", split, task.options, max_turns=0) for task in super().tasks(split)]


@breaks("resets")
class StaysEnded(Hall):
    ended = False

    def step(self, action: str) -> Any:
        if self.ended:
            raise RuntimeError("the episode is over")
        out = super().step(action)
        self.ended = out[2]
        return out


@breaks("ending")
class SuccessAsNumber(Hall):
    def info(self) -> dict[str, Any]:
        return {**super().info(), "success": int(self.won)}


@breaks("ending")
class NoSuccess(Hall):
    def info(self) -> dict[str, Any]:
        return {"admissible_actions": self.possible()}


@breaks("info_json")
class SetInInfo(Hall):
    def info(self) -> dict[str, Any]:
        return {**super().info(), "seen": {self.place}}


@breaks("info_json")
class TupleInInfo(Hall):
    def info(self) -> dict[str, Any]:
        return {**super().info(), "seen": (self.place,)}


@breaks("info_json")
class ChangedInfo(Hall):
    def reset(self, **kwargs: Any) -> Any:
        self.seen: list[int] = []
        return super().reset(**kwargs)

    def info(self) -> dict[str, Any]:
        self.seen.append(self.place)
        return {**super().info(), "seen": self.seen}


@breaks("bad_actions")
class RaisesOnLongTexts(Hall):
    def step(self, action: str) -> Any:
        if len(action) > 1_000:
            raise ValueError("too long")
        return super().step(action)


@breaks("bad_actions")
class WonByNothing(Hall):
    def step(self, action: str) -> Any:
        out = super().step(action)
        return (out[0], 1.0, True, False, {**out[4], "success": True}) if action == "" else out


@breaks("tasks")
class NoTasks(Hall):
    tasks = TextEnv.tasks  # type: ignore[assignment]

    def choose_task(self, options: Any) -> Task:
        return Bare.tasks(self, "train")[0]


@breaks("tasks")
class RepeatedId(Hall):
    def tasks(self, split: str) -> list[Task]:
        return [*super().tasks(split), super().tasks(split)[3]]


@breaks("tasks")
class NoSequence(Hall):
    def tasks(self, split: str) -> Any:
        return iter(super().tasks(split))

    def choose_task(self, options: Any) -> Task:
        return next(self.tasks("train"))


@breaks("tasks_stable")
class OtherOrder(Hall):
    made = 0

    def __init__(self) -> None:
        OtherOrder.made += 1
        self.turned = OtherOrder.made % 2

    def tasks(self, split: str) -> list[Task]:
        return super().tasks(split)[:: -1 if self.turned else 1]


@breaks("tasks_json")
class SetInOptions(Hall):
    def tasks(self, split: str) -> list[Task]:
        tasks = super().tasks(split)
        return [Task(task.id, split=split, options={**task.options, "colours": {"red"}}) for task in tasks]


@breaks("split_ids")
class AllTrain(Hall):
    def tasks(self, split: str) -> list[Task]:
        return [Task(task.id, split="train", options=task.options) for task in super().tasks(split)]


@breaks("split_ids")
class SharedId(Hall):
    def tasks(self, split: str) -> list[Task]:
        tasks = super().tasks(split)
        return (
            tasks
            if split == "train"
            else [*tasks, Task("train-0", split=split, options=super().tasks("train")[0].options)]
        )


@breaks("tasks_differ")
class OneTask(Hall):
    def choose_task(self, options: Any) -> Task:
        super().choose_task(options)
        return super().tasks("train")[0]


@breaks("split_contents")
class SharedContent(Hall):
    def tasks(self, split: str) -> list[Task]:
        tasks = super().tasks(split)
        return [Task(task.id, split=split, options={**task.options, "door": i}) for i, task in enumerate(tasks)]


@breaks("task_by_id")
class OffByOne(Hall):
    def find_task(self, task_id: str) -> Task:
        split, number = super().find_task(task_id).id.split("-")
        return self.tasks(split)[int(number) - 1]


@breaks("unknown_task")
class AnyTask(Hall):
    def find_task(self, task_id: str) -> Task:
        return {task.id: task for split in SPLITS for task in self.tasks(split)}.get(task_id) or self.tasks("train")[0]


@breaks("unknown_task")
class KeyErrors(Hall):
    def find_task(self, task_id: str) -> Task:
        return {task.id: task for split in SPLITS for task in self.tasks(split)}[task_id]


@breaks("group")
class CountsResets(Hall):
    n = 0

    def reset(self, **kwargs: Any) -> Any:
        text, info = super().reset(**kwargs)
        self.n += 1
        return f"{text} Visit {self.n}.", info


@breaks("determinism")
class InstanceNumber(Hall):
    made = 0

    def __init__(self) -> None:
        InstanceNumber.made += 1
        self.number = InstanceNumber.made

    def info(self) -> dict[str, Any]:
        return {**super().info(), "worker": self.number}


@breaks("interleaved")
class SharedPlace(Hall):
    where = [0]  # noqa: RUF012

    @property
    def place(self) -> int:
        return self.where[0]

    @place.setter
    def place(self, value: int) -> None:
        self.where[0] = value

    def possible(self) -> list[str]:
        return ["left", "right", "look", "open"]


@breaks("observation_size")
class SaysNothing(Hall):
    def reset(self, **kwargs: Any) -> Any:
        return "\n", super().reset(**kwargs)[1]


@breaks("latency")
class WearsOut(Hall):
    steps = 0

    def step(self, action: str) -> Any:
        self.steps += 1
        if self.steps > 900:
            raise OSError("too many open files")
        return super().step(action)


@breaks("close")
class ClosesOnce(Hall):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


@breaks("close")
class ClosesAll(Hall):
    open = True

    def __init__(self) -> None:
        ClosesAll.open = True

    def step(self, action: str) -> Any:
        if not ClosesAll.open:
            raise ConnectionError("the server was shut down")
        return super().step(action)

    def close(self) -> None:
        ClosesAll.open = False


@breaks("hooks")
class HiddenHook(Hall):
    @property
    def admissible_actions(self) -> Any:
        return self.no_such_field


@breaks("hooks")
class KeyAsProperty(Hall):
    @property
    def state_key(self) -> Any:
        return f"{self.place}"


@breaks("hooks")
class NoWayBack(Hall):
    restore = None  # type: ignore[assignment]


@breaks("hooks_pure")
class SnapshotMoves(Hall):
    def snapshot(self) -> Any:
        saved = super().snapshot()
        self.place = 0
        return saved


@breaks("admissible")
class ListedTwice(Hall):
    def possible(self) -> list[str]:
        return [*super().possible(), "look"]


@breaks("admissible")
class InfoDisagrees(Hall):
    @property
    def admissible_actions(self) -> Any:
        return super().admissible_actions[::-1]


@breaks("admissible")
class NothingPossible(Hall):
    def info(self) -> dict[str, Any]:
        return {"success": self.won, "admissible_actions": self.admissible_actions}

    @property
    def admissible_actions(self) -> Any:
        return self.possible() if self.place < 2 else []


@breaks("admissible_accepted")
class ListedButRefused(Hall):
    def step(self, action: str) -> Any:
        out = super().step(action)
        return (*out[:4], {**out[4], "is_action_valid": action != "look"})


@breaks("state_key")
class OneKey(Hall):
    def state_key(self) -> str:
        return "here"


@breaks("state_key")
class NumberAsKey(Hall):
    def state_key(self) -> Any:
        return self.place


@breaks("snapshot")
class ForgetsThePlace(Hall):
    def restore(self, snapshot: Any) -> None:
        super().restore(snapshot)
        self.place = 0


@breaks("snapshot_elsewhere")
class KeepsItsSnapshots(Hall):
    def snapshot(self) -> Any:
        self.saved = [*getattr(self, "saved", []), super().snapshot()]
        return len(self.saved) - 1

    def restore(self, snapshot: Any) -> None:
        super().restore(self.saved[snapshot])


@breaks("snapshot_pickle")
class SnapshotIsCode(Hall):
    def snapshot(self) -> Any:
        saved = super().snapshot()
        return lambda: saved

    def restore(self, snapshot: Any) -> None:
        super().restore(snapshot())


@breaks("failure")
class OwnWords(Hall):
    """Names a failure in words of its own."""

    def failure(self) -> Any:
        return "it got lost"


@breaks("oracle")
class StopsTooEarly(Hall):
    def oracle(self) -> list[str]:
        return ["right"] * (self.task.options["length"] - self.place) + ["look"]


@breaks("oracle")
class WinsForNothing(Hall):
    def step(self, action: str) -> Any:
        text, _, *rest = super().step(action)
        return text, 0.0, *rest


@breaks("oracle")
class TooFewTurns(Hall):
    def tasks(self, split: str) -> list[Task]:
        return [Task(task.id, task.seed, "", split, task.options, max_turns=2) for task in super().tasks(split)]


@pytest.mark.parametrize(("check", "broken"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_just_that_check_fails(check: str, broken: type) -> None:
    assert with_status(broken, "fail") == {check}


def test_every_check_can_fail() -> None:
    assert {check for check, _ in BROKEN} == set(CHECKS)


# ── warnings, faults and the output ──────────────────────────────────────────────────────────────────────────────────


class Slippery(Hall):
    """The seed decides whether a step succeeds."""

    def step(self, action: str) -> Any:
        return super().step("look" if self.np_random.random() < 0.3 else action)


class Twins(Hall):
    def tasks(self, split: str) -> list[Task]:
        first, second, *rest = super().tasks(split)
        return [first, Task(second.id, split=split, options=first.options), *rest]


class Endless(Hall):
    oracle = None  # type: ignore[assignment]

    def possible(self) -> list[str]:
        return super().possible()[:-1]


class OldApi(Hall):
    def seed(self) -> None: ...


@pytest.mark.parametrize(
    ("env", "check"),
    [(Slippery, "state_key"), (Twins, "tasks_differ"), (Endless, "ending"), (OldApi, "gymnasium")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_may_be_meant_is_a_warning(env: type, check: str) -> None:
    found = statuses(env)
    assert found[check] == "warn"
    assert {name for name, status in found.items() if status == "warn"} == {check}


def test_long_observations_and_long_plans_are_warned_about() -> None:
    assert with_status(Hall, "warn", max_characters=20) == {"observation_size"}
    assert with_status(Hall, "warn", max_turns=3) == {"oracle"}


def test_an_environment_registered_as_nondeterministic_is_not_compared() -> None:
    def make() -> gymnasium.Env[Any, Any]:
        env = InstanceNumber()
        env.spec = gymnasium.envs.registration.EnvSpec(
            "toys/Hall-v0", entry_point=InstanceNumber, nondeterministic=True
        )
        return env

    found = statuses(make)
    assert found["determinism"] == "skip" and "fail" not in found.values()


class Slowly(LazyTasks):
    """A million tasks, each of which takes a while."""

    made = 0

    def __init__(self, split: str) -> None:
        self.split = split

    def __len__(self) -> int:
        return 1_000_000

    def make(self, place: int) -> Task:
        Slowly.made += 1
        return Task(
            f"{self.split}-{place}", place, split=self.split, options={"door": f"{self.split} {place}", "length": 2}
        )


def test_tasks_that_take_time_to_make_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Hall):
        def tasks(self, split: str) -> Any:
            return Slowly(split)

        def find_task(self, task_id: str) -> Task:
            split, _, place = task_id.rpartition("-")
            if split not in SPLITS:
                raise GameError(f"no task '{task_id}'")
            return Slowly(split).make(int(place))

    monkeypatch.setattr("agentrl.env_check.contract.LIST_SECONDS", 0.0)
    checks = check_env(Slow)
    assert not failed(checks), render(checks)
    [tasks] = [check for check in checks if check.name == "tasks"]
    assert "train 1,000,000 (200 compared)" in tasks.detail
    assert Slowly.made < 3 * 2_000  # two checks look at 200 of three splits, the others at a few


def test_one_split_is_enough() -> None:
    class TrainOnly(Hall):
        def tasks(self, split: str) -> list[Task]:
            return super().tasks(split) if split == "train" else []

    assert with_status(TrainOnly, "skip") == {"split_contents"}


def test_what_raises_unexpectedly_is_a_fail_with_its_name_and_place() -> None:
    def make() -> Any:
        raise OSError("no such\nserver")

    first, *others = check_env(make)
    assert first.status == "fail" and first.detail.startswith("OSError: no such\nserver (test_env_check.py:")
    assert {check.status for check in others} == {"skip"} and others[0].detail == "not run: 'builds' failed"


def test_times_are_told() -> None:
    class Slow(Hall):
        def step(self, action: str) -> Any:
            time.sleep(0.001)
            return super().step(action)

    detail = next(
        check.detail for check in check_env(Slow, n_tasks=2, n_walks=1, max_turns=4) if check.name == "latency"
    )
    assert 1_000 <= int(detail.split("step ")[1].split(" µs")[0].replace(",", "")) < 100_000


def test_instances_are_closed() -> None:
    alive: list[Any] = []

    class Counted(Hall):
        def __init__(self) -> None:
            alive.append(self)

        def close(self) -> None:
            if self in alive:
                alive.remove(self)

    assert not failed(check_env(Counted)) and not alive


def test_rendered() -> None:
    checks = [Check("one", "pass", "fine", 0.5, "It is."), Check("two", "fail", "first\nsecond", 0.0)]
    assert render(checks).splitlines() == [
        "pass  one: It is. (0.50 s)",
        "      fine",
        "FAIL  two: ? (0.00 s)",
        "      first",
        "      second",
        "",
        "1 pass, 1 fail",
    ]
    assert failed(checks) and not failed(checks[:1])


def test_every_check_has_one_line() -> None:
    assert all(check.what.endswith(".") and "\n" not in check.what for check in check_env(Hall))
    assert isinstance(Hall.action_space, TextSpace)
