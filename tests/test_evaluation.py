"""Results of a panel and their intervals; and the examples in docstrings."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toys import Corridor

from agentrl import evaluate
from agentrl.agents import Decision, Episode, View
from agentrl.console import PanelProgress, Progress
from agentrl.evaluation import Evaluation, paired_difference, wilson
from agentrl.types import Outcome, Task, Trajectory, Turn


def trajectory(kind: str, success: bool, outcome: Outcome = Outcome.TERMINATED, valid: tuple[bool, ...] = (True,)):
    turns = [Turn("o", valid=flag, reward=float(success)) for flag in valid]
    return Trajectory("t", "toy", Task("a", type=kind), turns=turns, success=success, outcome=outcome)


def test_faults_are_counted_and_are_no_part_of_a_rate() -> None:
    panel = [
        trajectory("look", True),
        trajectory("look", False, Outcome.MAX_TURNS, (True, False, False)),
        trajectory("", True),
        trajectory("look", True, Outcome.ENV_FAULT),
    ]
    found = Evaluation(panel, 1.23456).to_dict()
    assert (found["n"], found["faults"], found["seconds"]) == (3, 1, 1.235)
    assert found["success_rate"] == found["score"] == pytest.approx(2 / 3)
    assert (found["mean_turns"], found["valid_action_ratio"]) == (pytest.approx(5 / 3), 3 / 5)
    assert found["ci95"] == list(wilson(2, 3))
    assert found["outcomes"] == {"env_fault": 1, "max_turns": 1, "terminated": 2}
    assert {kind: rates["n"] for kind, rates in found["by_type"].items()} == {"look": 2, "all": 1}


def test_an_empty_panel_has_rates_too() -> None:
    found = Evaluation([trajectory("", True, Outcome.POLICY_FAULT)], 0.0).to_dict()
    assert (found["success_rate"], found["n"], found["ci95"], found["by_type"]) == (0.0, 0, [0.0, 1.0], {})


@pytest.mark.parametrize("terminal", [False, True])
def test_the_progress_of_a_panel(terminal: bool) -> None:
    file = StringIO()
    progress = PanelProgress(Console(file=file, width=200, force_terminal=terminal), every=0)
    assert "at most" not in progress.line()
    with progress.run(Path(), None, 0):
        progress.panel("valid_seen", 3, 5)
        for _ in range(4):
            progress.turn()
        progress.episode(trajectory("", True, valid=(True, True)))
        assert "evaluating: 4 turns, 1/3 episodes, 1 successes, 0:00, at most 0:00 left" in progress.line()
    assert len(file.getvalue().splitlines()) >= (1 if terminal else 5)
    progress.max_turns = 0  # not known
    assert "at most" not in progress.line()


def test_the_progress_of_a_panel_is_rarely_told() -> None:
    file = StringIO()
    progress = PanelProgress(Console(file=file), every=1000)
    progress.panel("valid_seen", 1, 5)
    progress.turn()
    assert not file.getvalue()


def test_an_evaluation_tells_of_turns_and_episodes() -> None:
    class Heard(Progress):
        def __init__(self) -> None:
            self.panels: list[tuple[str, int, int]] = []
            self.n_turns = self.n_ended_turns = 0

        def panel(self, name: str, n: int, max_turns: int = 0) -> None:
            self.panels.append((name, n, max_turns))

        def turn(self) -> None:
            self.n_turns += 1

        def episode(self, trajectory: Any) -> None:
            self.n_ended_turns += len(trajectory.turns)

    heard = Heard()
    found = evaluate("agentrl/Household-v0", "random", 3, max_turns=7, progress=heard)
    assert heard.panels == [("valid_seen", 3, 7)]
    assert heard.n_turns == heard.n_ended_turns == round(3 * found["mean_turns"])
    assert sum(found["outcomes"].values()) == 3


@pytest.mark.parametrize(
    ("own", "asked", "told", "most", "played"),
    [
        ((3, 3), None, 3, 3, 3.0),
        ((3, 5), None, None, 5, 4.0),  # they differ
        ((None, None), None, 50, 50, 50.0),
        ((3, 5), 4, 4, 4, 4.0),
    ],
)
def test_an_episode_has_the_turns_of_its_task_unless_others_are_asked_for(
    own: tuple[int | None, int | None], asked: int | None, told: int | None, most: int, played: float
) -> None:
    class Bounded(Corridor):
        """Its tasks say how long they may take."""

        def tasks(self, split: str) -> list[Task]:
            return [dataclasses.replace(task, max_turns=own[n % 2]) for n, task in enumerate(super().tasks(split))]

    class Still:
        """An agent that stays where it is."""

        def start(self, episode: Episode) -> Still:
            return self

        async def act(self, view: View) -> Decision:
            return Decision("go left")

    class Heard(Progress):
        def panel(self, name: str, n: int, max_turns: int = 0) -> None:
            assert max_turns == most

    found = evaluate(Bounded, Still(), 2, max_turns=asked, progress=Heard())
    assert (found["max_turns"], found["mean_turns"]) == (told, played)


def test_wilson_stays_within_the_unit_interval_and_shrinks() -> None:
    assert wilson(0, 5)[0] == 0.0 and wilson(5, 5)[1] == 1.0
    widths = [high - low for low, high in (wilson(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


def test_paired_difference_by_hand() -> None:
    """12 gained, 2 lost of 40: centre 10/42, half width z·sqrt(15 - 100/42)/42."""
    before = [False] * 12 + [True] * 2 + [True] * 26
    after = [True] * 12 + [False] * 2 + [True] * 26
    value, (low, high) = paired_difference(before, after)
    assert value == 0.25
    assert (low, high) == pytest.approx((0.0723229, 0.4038676), abs=1e-6)
    assert paired_difference(after, before)[1] == pytest.approx((-high, -low))
    assert paired_difference([], []) == (0.0, (-1.0, 1.0))
    with pytest.raises(ValueError, match="of one length, got 1 and 0"):
        paired_difference([True], [])


@pytest.mark.parametrize(
    "name",
    [
        *("types", "seeding", "chat.parser", "agents.memory", "policies.scripted"),
        *("evaluation.statistics", "learning.samples", "algorithms.table"),
    ],
)
def test_the_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(f"agentrl.{name}")
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0
