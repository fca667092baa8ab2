"""Metrics in trackio: what is sent there, that nothing else is touched, and the real package where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy_runs import metrics, run_file, summary, tiny

from agentrl.cli import main
from agentrl.config import config_difference, parse
from agentrl.console import Progress
from agentrl.errors import ConfigError, MissingExtra
from agentrl.trainer import train
from agentrl.watch.tracking import Tracker, numbers

FAST = ("run.iterations=2", "evaluation.greedy=false", "run.trackio=toys")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a trackio that only notes its calls was given."""
    calls: list[tuple[Any, ...]] = []

    def init(**settings: Any) -> Any:
        print("noise that would break a live view")
        calls.append(("init", settings))
        return SimpleNamespace(
            log=lambda found, step: calls.append(("log", step, found)), finish=lambda: calls.append(("finish",))
        )

    monkeypatch.setitem(
        sys.modules, "trackio", SimpleNamespace(init=init, __spec__=importlib.util.spec_from_loader("trackio", None))
    )  # type: ignore[arg-type]
    return calls


def test_only_finite_numbers_are_metrics() -> None:
    given = {"a": 1, "b": 0.5, "c": float("nan"), "d": True, "e": "text", "f": None, "g": [1.0]}
    assert numbers(given) == {"a": 1, "b": 0.5}


def test_without_a_project_nothing_happens(sent: list[tuple[Any, ...]], tmp_path: Path) -> None:
    tracker = Tracker(None)
    assert tracker.begin("run", {}, resumed=False) == ""
    tracker.log(0, {"loss": 1.0})
    tracker.end()
    assert sent == []


@pytest.mark.parametrize("project", ["", "../up", 3])
def test_a_project_has_a_name(project: Any) -> None:
    with pytest.raises(ConfigError, match=r"run\.trackio"):
        parse({"env": {"id": "agentrl/Household-v0"}, "run": {"trackio": project}})


def test_a_project_may_come_and_go_between_the_parts_of_a_run(tmp_path: Path) -> None:
    assert config_difference(tiny(tmp_path), tiny(tmp_path, "run.trackio=toys")) == ""


def test_a_run_sends_its_metrics_and_keeps_its_own(
    sent: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    train(tiny(tmp_path, *FAST), tmp_path / "mine", progress=Progress())
    (_, settings), *logs, last = sent
    assert settings["project"] == "toys" and settings["name"] == "mine" and settings["resume"] == "never"
    assert settings["config"]["run"]["seed"] == 0 and json.dumps(settings["config"])
    assert not settings["embed"] and not settings["auto_log_cpu"] and not settings["auto_log_gpu"]
    assert last == ("finish",)
    lines = metrics(tmp_path / "mine")
    assert [found for _, _, found in logs if "entropy" in found] == [numbers(line) for line in lines]
    panels = [(step, found) for _, step, found in logs if "eval/sampled/success_rate" in found]
    assert [step for step, _ in panels] == [0, 2]
    assert panels[1][1]["eval/sampled/mean_turns"] == summary(tmp_path / "mine")["eval"]["after"]["mean_turns"]
    assert "noise" not in capsys.readouterr().out
    train(tiny(tmp_path, *FAST, "run.iterations=3"), tmp_path / "mine", progress=Progress(), resume=True)
    assert [call[1]["resume"] for call in sent if call[0] == "init"] == ["never", "allow"]
    assert [step for kind, step, found in (call for call in sent if call[0] == "log") if "entropy" in found] == [
        0,
        1,
        2,
    ]


def test_a_run_that_fails_still_writes_what_it_sent(sent: list[tuple[Any, ...]], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    with pytest.raises(ZeroDivisionError):
        train(
            tiny(tmp_path, *FAST, 'algorithm.filters=[{name="toy_runs:Broken"}]'), tmp_path / "run", progress=Progress()
        )
    assert sent[-1] == ("finish",)


def test_a_run_without_the_package_ends_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "trackio" else find(name, *more)
    )
    with pytest.raises(MissingExtra, match="toys"):
        Tracker("toys")
    assert main(["train", str(run_file(tmp_path)), "run.trackio=toys", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert "agentrl-toolkit[track]" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


OFFLINE = """
import socket, sys

def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise OSError(f"the network was asked for: {address}")
    return connect(self, address)

connect, socket.socket.connect = socket.socket.connect, refuse
from agentrl.cli import main
status = main(sys.argv[1:])
import trackio
from trackio.sqlite_storage import SQLiteStorage
(run,) = trackio.Api().runs("toys")
print("LOGS", __import__("json").dumps(SQLiteStorage.get_logs("toys", run.name)))
sys.exit(status)
"""


@pytest.mark.slow
def test_the_real_package_keeps_the_metrics_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed (extra 'track')")
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRACKIO_")}
    paths = os.pathsep.join(filter(None, [os.getcwd(), str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**kept, "TRACKIO_DIR": str(tmp_path / "tracked"), "PYTHONPATH": paths}
    command = [sys.executable, "-c", OFFLINE, "train", str(run_file(tmp_path)), *FAST, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "metrics also go to trackio: trackio show --project 'toys'" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOGS ")]
    logs = json.loads(line.removeprefix("LOGS "))
    found = [log for log in logs if "entropy" in log]
    assert [log["step"] for log in found] == [0, 1]
    for log, own in zip(found, metrics(tmp_path / "run"), strict=True):
        assert {name: log[name] for name in numbers(own)} == numbers(own)
    assert [log["step"] for log in logs if "eval/sampled/success_rate" in log] == [0, 2]
