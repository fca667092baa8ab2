"""Alarms: what raises them, that they are raised once, what they advise, and that a real run tells and keeps them."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from toy_runs import assert_same_run, cut, metrics, summary, tiny

from agentrl.config import RunConfig, parse
from agentrl.console import LineProgress, Progress
from agentrl.errors import ConfigError
from agentrl.registry import load_plugins, names
from agentrl.run_tables import AlarmsTable
from agentrl.trainer import train
from agentrl.types import Call, Outcome, Task, Trajectory, Turn
from agentrl.watch import Alarm, Watch, episode_metrics
from agentrl.watch.alarms import RULES
from agentrl.watch.episodes import repeats, zero_variance_share

W = 3
TABLE = AlarmsTable(window=W)
HEALTHY = {
    "episode/success_rate": 0.5,
    "entropy": 1.0,
    "episode/valid_action_ratio": 0.9,
    "episode/repeated_action_ratio": 0.05,
    "frac_reward_zero_std": 0.3,
    "completions/mean_length": 20.0,
    "completions/clipped_ratio": 0.0,
    "sampler_gap/mean": 1e-4,
}
BAD = {  # rule: what a metric becomes
    "entropy_collapse": ("entropy", 0.05),
    "entropy_explosion": ("entropy", 3.5),
    "valid_actions": ("episode/valid_action_ratio", 0.2),
    "repeated_actions": ("episode/repeated_action_ratio", 0.5),
    "zero_variance": ("frac_reward_zero_std", 0.9),
    "length_growth": ("completions/mean_length", 90.0),
    "length_limit": ("completions/clipped_ratio", 0.6),
    "sampler_gap": ("sampler_gap/mean", 0.2),
    "success_flat": ("episode/success_rate", 0.0),
}


def seen(lines: Sequence[dict[str, Any]], table: AlarmsTable = TABLE) -> tuple[Watch, list[Alarm]]:
    watch, told = Watch(table), []
    for number, line in enumerate(lines):
        told += watch.see({"iteration": number, **line})
    return watch, told


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_rule_has_a_threshold_and_every_threshold_a_rule() -> None:
    assert [rule.name for rule in RULES] == [name for name in AlarmsTable.model_fields if name != "window"] == [*BAD]


def test_a_healthy_run_raises_none() -> None:
    assert seen([HEALTHY] * 60)[1] == []


@pytest.mark.parametrize("nothing", [None, float("nan"), "text"])
def test_what_is_no_number_is_passed_over(nothing: Any) -> None:
    missing = dict.fromkeys(HEALTHY, nothing)
    assert seen([missing] * 4 * W)[1] == []
    bad = {**HEALTHY, "entropy": 0.05}
    names = [alarm.name for alarm in seen([*[HEALTHY] * W, *[missing] * W, *[bad] * W])[1]]
    assert names == ["entropy_collapse"]


@pytest.mark.parametrize("name", BAD)
def test_a_rule_is_raised_once_and_by_nothing_else(name: str) -> None:
    metric, value = BAD[name]
    watch, told = seen([HEALTHY] * (2 * W) + [{**HEALTHY, metric: value}] * 30)
    assert [alarm.name for alarm in told] == [name]
    assert told == watch.alarms and told[0].cleared is None
    within = 20 if name == "success_flat" else W
    assert 2 * W <= told[0].iteration < 2 * W + within


@pytest.mark.parametrize("name", BAD)
def test_a_rule_that_is_switched_off_is_silent(name: str) -> None:
    metric, value = BAD[name]
    table = AlarmsTable.model_validate({"window": W, name: False})
    assert seen([HEALTHY] * (2 * W) + [{**HEALTHY, metric: value}] * 30, table)[1] == []


@pytest.mark.parametrize("name", BAD)
def test_an_alarm_that_was_over_can_be_raised_again(name: str) -> None:
    metric, value = BAD[name]
    good, bad = [HEALTHY] * 25, [{**HEALTHY, metric: value}] * 25
    _, told = seen([*good, *bad, *good, *bad])
    assert [alarm.name for alarm in told] == [name, name]
    first, second = told
    assert first.cleared is not None and first.iteration < 50 <= first.cleared < 75 <= second.iteration
    assert second.cleared is None


def test_a_value_that_trembles_at_the_threshold_is_told_once() -> None:
    lines = [{**HEALTHY, "episode/valid_action_ratio": 0.49 if number % 2 else 0.51} for number in range(40)]
    table = AlarmsTable(window=1)
    assert [alarm.iteration for alarm in seen(lines, table)[1]] == [1]


def test_a_threshold_itself_raises() -> None:
    lines = [{**HEALTHY, "frac_reward_zero_std": 1.0}] * W
    assert [alarm.name for alarm in seen(lines, AlarmsTable(window=W, zero_variance=1.0))[1]] == ["zero_variance"]


def test_a_window_that_is_not_full_says_nothing() -> None:
    for name, (metric, value) in BAD.items():
        if name != "success_flat":
            assert seen([{**HEALTHY, metric: value}] * (W - 1))[1] == []
    assert seen([{}] * 10, AlarmsTable(success_flat=False))[1] == []  # iterations without a lesson, or any metric


def test_iterations_without_a_metric_are_passed_over() -> None:
    line, bad = dict(HEALTHY), {**HEALTHY, "sampler_gap/mean": 1.0}
    without = {name: value for name, value in line.items() if name != "sampler_gap/mean"}
    _, told = seen([bad, without, bad, without, bad])
    assert [(alarm.name, alarm.iteration) for alarm in told] == [("sampler_gap", 4)]


def test_a_solved_task_needs_no_entropy() -> None:
    solved = {**HEALTHY, "episode/success_rate": 1.0, "entropy": 0.001}
    assert seen([HEALTHY] * 6 + [solved] * 20)[1] == []
    watch, told = seen([HEALTHY] * 6 + [{**solved, "episode/success_rate": 0.5}] * 6 + [solved] * 20)
    assert [alarm.name for alarm in told] == ["entropy_collapse"]
    assert watch.alarms[0].cleared is not None


@pytest.mark.parametrize(("success", "words"), [(1.0, "easy"), (0.0, "too hard"), (0.5, "play alike")])
def test_why_groups_are_equal_depends_on_success(success: float, words: str) -> None:
    _, told = seen([{**HEALTHY, "frac_reward_zero_std": 1.0, "episode/success_rate": success}] * W)
    assert words in told[0].cause


def test_an_alarm_is_one_line_that_says_what_why_and_which_setting() -> None:
    _, (alarm,) = seen([{**HEALTHY, "episode/valid_action_ratio": 0.31}] * W)
    assert "\n" not in alarm.text
    for words in ("ALARM valid_actions in iteration 3", "31% of the actions were valid", "threshold 50%",
                  "Likely cause: ", "To change: agent.prompt", "alarms.valid_actions = false"):  # fmt: skip
        assert words in alarm.text
    assert json.loads(json.dumps(alarm.to_dict())) == alarm.to_dict()


def test_the_settings_that_are_advised_exist() -> None:
    load_plugins()
    tables = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    n_settings = 0
    for rule in RULES:
        for success in (0.0, 0.5, 1.0):
            _, setting = rule.advice([{**HEALTHY, "episode/success_rate": success}] * W, W)
            for table, key in re.findall(r"\b([a-z]+)\.([a-z_]+)", setting):
                n_settings += 1
                if table == "env":
                    assert key in ("options", "max_turns")
                else:
                    model: Any = tables[table]
                    assert key in model.model_fields, (rule.name, table, key)
            specs = re.findall(r'\{ name = "(\w+)"', setting)
            kinds = ("filter", "reward", "regularizer", "token_weight")
            assert all(any(spec in names(kind) for kind in kinds) for spec in specs)
    assert n_settings > 30


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 40))
def test_history_that_is_read_back_gives_the_same_alarms(values: list[float], at: int) -> None:
    lines = [{**HEALTHY, "iteration": n, "episode/valid_action_ratio": value} for n, value in enumerate(values)]
    whole, resumed = Watch(TABLE, lines), Watch(TABLE, lines[:at])
    for line in lines[at:]:
        resumed.see(line)
    assert whole.to_list() == resumed.to_list()
    ends = [alarm.cleared for alarm in whole.alarms]
    assert None not in ends[:-1]  # one at a time
    assert all(a.iteration < b.iteration for a, b in pairwise(whole.alarms))


# ── thresholds in the run file ───────────────────────────────────────────────────────────────────────────────────────

FILE = {"env": {"id": "agentrl/Household-v0"}}


def test_thresholds_are_settings() -> None:
    found = parse({**FILE, "alarms": {"window": 9, "valid_actions": 0.7, "success_flat": 3, "zero_variance": False}})
    assert found.alarms == AlarmsTable(window=9, valid_actions=0.7, success_flat=3.0, zero_variance=False)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"valid_action": 0.5}, "Did you mean 'valid_actions'"),
        ({"valid_actions": True}, "alarms.valid_actions: .*false to switch the alarm off"),
        ({"valid_actions": 0}, "alarms.valid_actions: .*above 0"),
        ({"entropy_collapse": -1.0}, "alarms.entropy_collapse"),
        ({"window": 0}, "alarms.window"),
        (False, "alarms must be a table"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(table: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse({**FILE, "alarms": table})


# ── metrics that alarms read ─────────────────────────────────────────────────────────────────────────────────────────


def played(*turns: tuple[str, str | None, str], group: str = "a", reward: float = 0.0) -> Trajectory:
    made = [Turn(observation, key, action=action) for observation, key, action in turns]
    if made:
        made[-1].reward = reward
    return Trajectory("t", "e", Task("x"), group, turns=made, outcome=Outcome.TERMINATED)


def test_a_turn_repeats_the_one_before_only_on_the_same_state() -> None:
    assert repeats(played(("o", None, "go"), ("o", None, "go"), ("o", None, "go"))) == 2
    assert repeats(played(("o", None, "go"), ("p", None, "go"))) == 0  # something changed
    assert repeats(played(("o", "1", "go"), ("p", "1", "go"))) == 1  # the state key knows better than the text
    assert repeats(played(("o", "1", "go"), ("o", "2", "go"))) == 0
    assert repeats(played(("o", None, "go"), ("o", None, "look"), ("o", None, "go"))) == 0  # not the turn before
    assert repeats(played()) == 0


def test_the_share_of_groups_without_contrast() -> None:
    def group(name: str, *rewards: float) -> list[Trajectory]:
        return [played(("o", None, "a"), group=name, reward=reward) for reward in rewards]

    assert zero_variance_share([*group("a", 1, 1), *group("b", 0, 1), *group("c", 0.1 + 0.2, 0.3)]) == 2 / 3
    assert zero_variance_share([*group("a", 1), *group("b", 0, 1)]) == 0  # one member is no group
    assert zero_variance_share(group("a", 1)) is None and "frac_reward_zero_std" not in episode_metrics(group("a", 1))


def test_completions_that_were_cut_off_are_counted() -> None:
    one = played(("o", None, "a"), ("p", None, "a"))
    one.turns[0].calls = [Call("agent", [1], [2, 3], finish="length")]
    one.turns[1].calls = [Call("agent", [1], [2], finish="stop")]
    found = episode_metrics([one])
    assert found["completions/clipped_ratio"] == 0.5 and found["completions/mean_length"] == 1.5
    assert episode_metrics([])["completions/clipped_ratio"] == 0


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────

CHANGES = ("alarms.window=1", "alarms.valid_actions=0.999", "alarms.length_limit=0.01", "checkpoint.keep=0")


@pytest.fixture(scope="module")
def alarmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that raises alarms, and what it showed."""
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    folder, file = tmp_path_factory.mktemp("alarmed"), io.StringIO()
    train(tiny(folder, *CHANGES), folder / "run", progress=LineProgress(Console(file=file, width=80)))
    return folder / "run", file.getvalue()


def test_a_run_tells_its_alarms_and_writes_them_down(alarmed: tuple[Path, str]) -> None:
    folder, shown = alarmed
    lines = [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]
    assert lines == summary(folder)["alarms"] == Watch(tiny(folder, *CHANGES).alarms, metrics(folder)).to_list()
    assert {line["name"] for line in lines} >= {"valid_actions", "length_limit"}
    assert shown.count("ALARM valid_actions in iteration 1: ") == 1  # a note of one line, once
    assert "alarms that stand at the end: valid_actions" in shown
    assert "alarm" not in metrics(folder)[0]


def test_a_resume_keeps_the_history(alarmed: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = alarmed
    made = Path(shutil.copytree(folder, tmp_path / "run", symlinks=True))
    cut(made, 2)
    (made / "alarms.jsonl").write_text("torn")
    file = io.StringIO()
    train(tiny(tmp_path, *CHANGES), made, resume=True, progress=LineProgress(Console(file=file)))
    assert_same_run(folder, made)
    assert (made / "alarms.jsonl").read_text() == (folder / "alarms.jsonl").read_text()
    assert "ALARM valid_actions" not in file.getvalue()  # it was told before


def test_thresholds_may_change_between_the_parts_of_a_run(alarmed: tuple[Path, str], tmp_path: Path) -> None:
    made = Path(shutil.copytree(alarmed[0], tmp_path / "run", symlinks=True))
    off = [f"alarms.{rule.name}=false" for rule in RULES]
    train(tiny(tmp_path, *CHANGES, *off), made, resume=True, progress=Progress())
    assert summary(made)["alarms"] == [] and (made / "alarms.jsonl").read_text() == ""


def test_what_rules_read_is_what_a_run_measures(alarmed: tuple[Path, str]) -> None:
    line = metrics(alarmed[0])[0]
    assert set(HEALTHY) <= set(line)
