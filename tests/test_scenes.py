"""Runs with several environments: shares, names, who plays where, and what is reported."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_runs import TINY, metrics, trajectories

import agentrl
from agentrl.config import parse
from agentrl.errors import ConfigError
from agentrl.scenes import Mixture
from agentrl.types import Task


def split(name: str, n: int) -> tuple[str, list[Task]]:
    return name, [Task(id=f"{name}-{number}") for number in range(n)]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    data=st.data(),
)
def test_any_stretch_of_a_mixture_holds_each_share(sizes: list[int], data: st.DataObject):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(sizes), max_size=len(sizes)))
    mixture = Mixture([split(str(place), size) for place, size in enumerate(sizes)], weights)
    start = data.draw(st.integers(0, len(mixture) - 1))
    part = mixture[start : start + 100]
    found = Counter(task.env for task in part)
    for place, weight in enumerate(weights):
        # no stretch is more than two tasks away from its share, but for shares being thousandths
        assert abs(found[str(place)] - len(part) * weight / sum(weights)) <= 2 + len(part) / 1000


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3))
def test_a_mixture_leaves_no_task_out(sizes: list[int]):
    splits = [split(str(place), size) for place, size in enumerate(sizes)]
    mixture = Mixture(splits, [1.0] * len(sizes))
    assert {(task.env, task.id) for task in mixture} == {(name, task.id) for name, tasks in splits for task in tasks}


def test_a_mixture_is_a_sequence():
    mixture = Mixture([split("a", 2), split("b", 4)], [2, 1])
    assert [task.id for task in mixture][:6] == ["a-0", "b-0", "a-1", "a-0", "b-1", "a-1"]
    assert mixture[-1] == mixture[len(mixture) - 1]
    with pytest.raises(IndexError, match=r"task \d+ of \d+ in a mixture of "):
        mixture[len(mixture)]


def two_envs(**second: Any) -> dict[str, Any]:
    table = tomllib.loads(TINY)
    del table["algorithm"]["scores"]
    table["env"] = [table["env"], {**table["env"], "name": "easy", "options": {"difficulty": "easy"}, **second}]
    return table


def test_a_run_plays_both_environments_and_reports_each(tmp_path: Path):
    prompt = "{history}You hold {held}\n{observation}\n{goal}"
    table = two_envs(agent={"prompt": prompt}, max_turns=2)
    summary = agentrl.train(table, "run.iterations=2", "algorithm.sampler.tasks=4", out=tmp_path / "run")
    assert set(summary["eval"]["after"]["by_env"]) == {"Household-v0", "easy"}
    assert summary["eval"]["after"]["n"] == 8
    played = trajectories(tmp_path / "run")["iteration_000000.jsonl.zst"]
    assert {record["task"]["env"] for record in played} == {"Household-v0", "easy"} and len(played) == 16
    assert {record["task"]["env"] for record in played if len(record["turns"]) > 2} == {"Household-v0"}
    assert {"episode/success_rate/easy", "episode/success_rate/Household-v0"} <= set(metrics(tmp_path / "run")[0])
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert [table["options"]["difficulty"] for table in written["env"]] == ["tiny", "easy"]
    with pytest.raises(ConfigError, match="one environment"):
        _ = parse(table).only_env


def test_a_checkpoint_of_both_plays_each_alone(tmp_path: Path):
    agentrl.train(two_envs(), "run.iterations=0", "evaluation.episodes=0", out=tmp_path / "run")
    result = agentrl.evaluate("agentrl/Household-v0", f"checkpoint:{tmp_path / 'run'}", n=2)
    assert result["n"] == 2


def test_demonstrations_come_from_both(tmp_path: Path):
    from agentrl.supervised import make_demos, read_demos

    table = two_envs()
    config = parse({**table, "demos": {"episodes": 6}})
    make_demos(config, tmp_path / "demos")
    assert Counter(trajectory.task.env for trajectory in read_demos(tmp_path / "demos")) == {
        "Household-v0": 3,
        "easy": 3,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "two environments are called 'Household-v0'"),
        ({"agent": {"promt": ""}}, r"unknown key 'env.1.agent.promt'.*prompt"),
        ({"agent": {"context": 0}}, r"env.1.agent.context"),
        ({"weight": 0.0}, r"env.1.weight"),
        ({"max_turn": 3}, r"unknown key 'env.1.max_turn'.*max_turns"),
    ],
)
def test_mistakes_are_named_by_their_place(change: dict[str, Any], message: str):
    table = two_envs(**change)
    table["env"][1] = {key: value for key, value in table["env"][1].items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        parse(table)


def test_overrides_reach_into_the_array(tmp_path: Path):
    from agentrl.overrides import overridden

    changed = overridden(two_envs(), ["env.1.max_turns=9"])
    assert changed["env"][1]["max_turns"] == 9
    for wrong in ("env.2.max_turns=9", "env.easy.max_turns=9", "env.1=3"):
        with pytest.raises(ConfigError, match=r"wanted a place from 0 to 1|must be a table"):
            parse(overridden(two_envs(), [wrong]))
    assert json.loads(json.dumps(changed)) == changed
