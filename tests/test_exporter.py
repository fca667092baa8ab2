"""``agentrl export``: an environment's own files, whole or not at all, and never over anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from agentrl.cli import main
from agentrl.env import TextEnv
from agentrl.errors import ConfigError, EnvError, GameError
from agentrl.exporter import export
from agentrl.types import Task


class Plain(TextEnv):
    """Five tasks and nothing to export."""

    def tasks(self, split: str) -> list[Task]:
        return [Task(id=f"{split}-{number}", split=split) for number in range(5)]


class Exported(Plain):
    """``broken`` says what its hook does at the third task."""

    def __init__(self, broken: Any = None) -> None:
        self.broken = broken

    def export(self, task: Task) -> Any:
        if task.id.endswith("2") and self.broken is not None:
            if isinstance(self.broken, Exception):
                raise self.broken
            return self.broken
        return {f"{task.split}/{task.id}/a.txt": "a\n", f"{task.split}/{task.id}/b.txt": "ü"}


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    gymnasium.register(id="toy/Plain-v0", entry_point=Plain)
    gymnasium.register(id="toy/Exported-v0", entry_point=Exported)
    yield
    gymnasium.registry.pop("toy/Plain-v0")
    gymnasium.registry.pop("toy/Exported-v0")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_writes_the_first_tasks_of_a_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "toy/Exported-v0", "--out", "deep/games", "--split", "train", "--episodes", "2"]) == 0
    assert capsys.readouterr().out == "wrote 2 tasks to deep/games\n"
    expected = [f"train/train-{number}/{name}.txt" for number in range(2) for name in "ab"]
    assert files(tmp_path / "deep" / "games") == expected
    assert (tmp_path / "deep" / "games" / expected[1]).read_text(encoding="utf-8") == "ü"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["games"]
    assert export("toy/Exported-v0", tmp_path / "all", 0) == export("toy/Exported-v0", tmp_path / "more", 99) == 5


@pytest.mark.parametrize(
    ("broken", "error", "words"),
    [
        (GameError("no such house"), GameError, "no such house"),
        ({}, EnvError, r"export\('valid_seen-2'\) must give texts by path; got dict"),
        (["a"], EnvError, "must give texts by path; got list"),
        ({"../a": "text"}, EnvError, r"must give texts by relative path; got '\.\./a'"),
        ({"a/../../b": "text"}, EnvError, "relative path"),
        ({"/tmp/a": "text"}, EnvError, "relative path"),
        ({"": "text"}, EnvError, "relative path"),
        ({3: "text"}, EnvError, "relative path; got 3"),
        ({"a": b"bytes"}, EnvError, "relative path; got 'a'"),
        ({"valid_seen/valid_seen-1/a.txt": "again"}, EnvError, "for two tasks, the second being 'valid_seen-2'"),
        ({"valid_seen": "a folder"}, ConfigError, "games cannot be written: .*; choose another folder with --out"),
    ],
)
def test_whole_or_not_at_all(tmp_path: Path, broken: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        export("toy/Exported-v0", tmp_path / "games", 5, options={"broken": broken})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_it_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    out = tmp_path / "games"
    {"folder": out.mkdir, "file": out.touch, "link": lambda: out.symlink_to("nowhere")}[there]()
    assert main(["export", "toy/Exported-v0", "--out", "games"]) == 2
    assert capsys.readouterr().err == "agentrl: games exists already; remove it or choose another folder with --out\n"
    assert list(tmp_path.iterdir()) == [out] and not files(out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["toy/Plain-v0"], "toy/Plain-v0 cannot be exported: it has no hook export(task)"),
        (["toy/Exprted-v0"], "Did you mean 'toy/Exported-v0'"),
        (["toy/Exported-v0", "--split", "test"], "no split is called 'test'"),
        (["toy/Exported-v0", "--episodes", "-1"], "at least 0; got -1"),
        (["toy/Exported-v0", "--option", "size"], "write key=value"),
        (["toy/Exported-v0", "--option", "size=3"], "size"),
    ],
)
def test_what_cannot_be_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["export", *arguments, "--out", "games"]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert list(tmp_path.iterdir()) == []
