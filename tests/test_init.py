"""``agentrl init``: what it writes is checked, tested, installed and ready to train; names that cannot be are refused."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agentrl.cli import main
from agentrl.errors import ConfigError
from agentrl.init import FILES, create

CHECKOUT = Path(__file__).resolve().parents[1]


def run(folder: Path, *command: str, path: tuple[Path, ...] = ()) -> str:
    """What a fresh interpreter prints that sees this checkout, and ``path`` before it. Its failure fails the test."""
    seen = os.pathsep.join(map(str, (*path, CHECKOUT)))
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": seen},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "first_env"
    create("first_env", folder)
    return folder


def test_every_file_is_there_and_every_name_filled_in(project: Path) -> None:
    files = [project / file.format(name="first_env") for file in FILES]
    assert sorted(file for file in project.rglob("*") if file.is_file()) == sorted(files)
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "$" not in text and "first_env" in text, file
    meta = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert meta["name"] == "first-env" and meta["entry-points"] == {"agentrl.plugins": {"first_env": "first_env"}}


def test_its_code_is_clean(project: Path) -> None:
    pytest.importorskip("ruff", reason="linting needs the extra 'dev'")
    run(project, "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,W,I,B,UP,SIM,RUF", ".")


@pytest.mark.slow
def test_its_own_tests_pass(project: Path) -> None:
    assert "5 passed" in run(project, "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.slow
def test_it_keeps_the_contract_and_can_be_won(project: Path) -> None:
    assert "29 pass, 4 skip" in run(project, "agentrl", "check", "first_env:first_env/Rooms-v0")
    shown = run(project, "agentrl", "eval", "first_env:first_env/Rooms-v0", "--policy", "oracle", "--json")
    assert '"success_rate": 1.0' in shown


@pytest.mark.slow
def test_it_trains(project: Path) -> None:
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    assert "[algorithm.sampler]" in run(project, "agentrl", "train", "run.toml", "--dry-run")
    assert not (project / "runs").exists()
    small = ["run.iterations=1", "algorithm.sampler.tasks=2", "evaluation.episodes=2", "resources.threads=1"]
    run(project, "agentrl", "train", "run.toml", *small, "--out", "short")
    assert (project / "short" / "summary.json").is_file()


@pytest.mark.slow
def test_installed_it_is_found_without_its_module(project: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    offline = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    run(tmp_path, "pip", "install", *offline, str(project))
    shown = run(tmp_path, "agentrl", "list", path=(target,))
    assert "first_env/Rooms-v0" in shown and "first_env_distance" in shown
    run(tmp_path, "agentrl", "eval", "first_env/Rooms-v0", "--option", "difficulty=hard", path=(target,))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my-env", "'my_env' would do"),
        ("My Env", "'my_env' would do"),
        ("1st", "no name of a package"),
        ("_", "no name of a package"),
        ("class", "no name of a package"),
        ("größe", "'gr__e' would do"),
        ("../up", "'up' would do"),
        ("", "no name of a package"),
        ("json", "module of Python"),
        ("tests", "module of Python"),
        ("numpy", "installed already"),
        ("agentrl", "installed already"),
    ],
)
def test_names_that_cannot_be(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        create(name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    assert main(["init", "first_env", "--out", str(tmp_path / "there")]) == 2
    assert "exists already; give another folder with --out" in capsys.readouterr().err
    assert list((tmp_path / "there").iterdir()) == []


def test_the_command_writes_beside_and_says_what_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "second_env"]) == 0
    assert (tmp_path / "second_env" / "second_env" / "env.py").is_file()
    assert "cd second_env && agentrl check second_env:second_env/Rooms-v0" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["second_env"]
