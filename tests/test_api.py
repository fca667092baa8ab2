"""The Python side: ``agentrl.train``, ``agentrl.evaluate``, ``agentrl.rollout``."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from toy_runs import TINY
from toys import Corridor

import agentrl
from agentrl.agents import OracleAgent
from agentrl.config import parse
from agentrl.errors import ConfigError

HOUSE = {"difficulty": "tiny"}
TABLES = tomllib.loads(TINY)


def test_rollout_returns_readable_trajectories():
    first, second = agentrl.rollout("agentrl/Household-v0", "oracle", n=2, options=HOUSE)
    assert first.success and second.success and first.task.id != second.task.id
    assert first.turns[0].action in str(first)


def test_environment_and_agent_may_be_objects():
    (trajectory,) = agentrl.rollout(Corridor, OracleAgent(), n=1, split="train")
    assert trajectory.success and trajectory.env == "Corridor"


def test_evaluate_takes_what_the_command_takes():
    result = agentrl.evaluate("agentrl/Household-v0", "expert", n=3, options=HOUSE, seed=1)
    assert (result["n"], result["policy"], result["seed"]) == (3, "expert", 1)


@pytest.mark.parametrize("form", ["tables", "config", "file"])
def test_train_takes_a_run_file_in_every_form(form: str, tmp_path: Path):
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    config = {"tables": TABLES, "config": parse({**TABLES, "run": {"iterations": 1}}), "file": file}[form]
    overrides = () if form == "config" else ("run.iterations=1",)
    summary = agentrl.train(config, *overrides, out=tmp_path / "run")
    assert summary["status"] == "completed" and summary["iterations"] == 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["iterations"] == 1


def test_overrides_leave_the_given_tables_alone(tmp_path: Path):
    agentrl.train(TABLES, "run.iterations=0", "evaluation.episodes=0", out=tmp_path / "run")
    assert TABLES["run"]["iterations"] == 3
    with pytest.raises(ConfigError, match="model_copy"):
        agentrl.train(parse(TABLES), "run.iterations=0")


def test_unknown_names_say_what_there_is():
    with pytest.raises(AttributeError, match="train"):
        agentrl.trian  # noqa: B018


def test_import_agentrl_is_quick_and_reaches_its_modules(tmp_path: Path):
    code = (
        "import agentrl, sys\n"
        "assert not {'torch', 'gymnasium', 'agentrl.env'} & set(sys.modules)\n"
        "text, info = agentrl.env.make('agentrl/Arithmetic-v0', level='tiny').reset(seed=0)\n"
        "assert 'torch' not in sys.modules and text\n"
        "try:\n    agentrl.trian\n"
        "except AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "module 'agentrl' has nothing called 'trian'; it offers env, evaluate, rollout, train\n"
