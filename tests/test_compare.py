"""``agentrl compare``: what is paired, differences, conditions and exit statuses, and what people read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import HOUSEHOLD

from agentrl.cli import main
from agentrl.errors import ConfigError
from agentrl.evaluation.compare import Condition, compare

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def status_of(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def row(task: str, success: bool, sample: int = 0, **changes: Any) -> dict[str, Any]:
    found = {"task": task, "sample": sample, "fault": False, "success": success, "score": float(success)}
    return {**found, "turns": 4, "invalid": 1, "tokens": {"prompt": 10, "completion": 5}, **changes}


@pytest.fixture
def write() -> Write:
    """Writes an evaluation: rows, or one sample for each task a, b, c … of a word of 1 and 0."""

    def written(name: str, rows: Any, **heading: Any) -> str:
        if isinstance(rows, str):
            rows = [row(chr(ord("a") + n), end == "1") for n, end in enumerate(rows)]
        Path(name).write_text(json.dumps({"env": "toy", "policy": name, "episodes": rows, **heading}))
        return name

    return written


def test_a_comparison_by_hand(write: Write) -> None:
    result = compare([write("A", "1100" * 5), write("B", "1011" * 5)])
    assert result["baseline"]["name"] == result["baseline"]["policy"] == "A"
    (other,) = result["others"]
    assert (other["n"], other["n_tasks"], set(other["left_out"].values())) == (20, 20, {0})
    success = other["metrics"]["success_rate"]
    assert (success["baseline"], success["other"], success["value"]) == (0.5, 0.75, 0.25)
    assert success["ci95"][0] < 0.25 < success["ci95"][1]
    assert (other["mcnemar"]["gained"], other["mcnemar"]["lost"]) == (10, 5)
    assert other["mcnemar"]["p"] == pytest.approx(0.3017578125)
    assert other["gained"] == list("cdghklopst") and other["lost"] == list("bfjnr")
    assert other["metrics"]["valid_action_ratio"]["baseline"] == 0.75
    assert other["metrics"]["mean_turns"] == {"baseline": 4, "other": 4, "value": 0, "ci95": [0, 0]}


def test_a_comparison_repeats_and_turns_around(write: Write) -> None:
    paths = [write("A", "110010"), write("B", "101111")]
    assert compare(paths) == compare(paths)
    one, other = (compare(order)["others"][0] for order in (paths, paths[::-1]))
    assert one["metrics"]["success_rate"]["value"] == -other["metrics"]["success_rate"]["value"]
    assert one["gained"] == other["lost"] and one["mcnemar"]["p"] == other["mcnemar"]["p"]


def test_only_common_episodes_without_faults_are_paired(write: Write) -> None:
    mine = [row("a", True), row("b", True), row("c", False), row("only mine", True), row("x", True, sample=1)]
    theirs = [row("c", True), row("a", True), row("b", False, fault=True), row("x", True), row("y", True)]
    (other,) = compare([write("A", mine, seed=0), write("B", theirs, seed=1)])["others"]
    assert (other["n"], other["n_tasks"]) == (2, 2)
    assert other["left_out"] == {"only_in_baseline": 2, "only_in_other": 2, "faults": 1}
    assert other["metrics"]["success_rate"]["value"] == 0.5 and other["gained"] == ["c"]
    assert other["differs"] == {"seed": [0, 1]}


def test_several_samples_are_paired_by_number_and_clustered_by_task(write: Write) -> None:
    def rows(**ends: str) -> list[dict[str, Any]]:
        return [row(task, end == "1", n) for task, samples in ends.items() for n, end in enumerate(samples)]

    (other,) = compare([write("A", rows(a="1100", b="0000")), write("B", rows(a="1000", b="1110"))])["others"]
    assert (other["n"], other["n_tasks"], other["mcnemar"]) == (8, 2, None)
    assert (other["gained"], other["lost"]) == (["b"], [])
    metrics = other["metrics"]
    assert metrics["pass@2"]["baseline"] == pytest.approx((5 / 6) / 2)
    assert metrics["pass^2"]["other"] == pytest.approx((3 / 6) / 2)
    assert metrics["pass@4"]["value"] == 0.5
    assert metrics["success_rate"]["ci95"] == [pytest.approx(-0.25), pytest.approx(0.75)]  # the two tasks


def test_tokens_are_compared_where_all_are_known(write: Write) -> None:
    unknown = [row("a", True, tokens={"prompt": 3, "completion": None})]
    metrics = compare([write("A", "1"), write("B", unknown)])["others"][0]["metrics"]
    assert metrics["mean_prompt_tokens"]["value"] == -7 and metrics["mean_prompt_tokens"]["ci95"] is None
    assert "mean_completion_tokens" not in metrics


# ── conditions and exit statuses ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("success_rate drops by 0.25", 1),
        ("success_rate drops by 0.251", 0),
        ("success_rate rises by 0.01", 0),
        ("mean_turns rises by 2", 1),
        (" score  drops  by .1 ", 1),
    ],
)
def test_a_condition_decides_the_exit_status(condition: str, status: int, write: Write, capsys: Any) -> None:
    write("A", "1110")
    write("B", [row(task, task in "ab", turns=6) for task in "abcd"])
    write("same", "1110")
    assert status_of(["compare", "A", "same", "B", "--fail-if", condition]) == status
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == status
    if status:
        assert captured.err.startswith("agentrl: failed: B: ") and condition.strip() in captured.err


def test_a_drop_by_exactly_the_number_is_one() -> None:
    other = {"name": "B", "n": 20, "metrics": {"success_rate": {"value": 0.75 - 0.8, "baseline": 0.8, "other": 0.75}}}
    assert 0.75 - 0.8 != -0.05 and Condition.parse("success_rate drops by 0.05").met({"others": [other]})


@pytest.mark.parametrize(
    "text", ["", "success_rate", "success_rate falls by 0.1", "success_rate drops by much", "success_rate drops by 0",
             "success_rate drops by -1", "success_rate drops by nan", "drops by 0.1", "x drops by 1 2"],
)  # fmt: skip
def test_a_bad_condition(text: str, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="write METRIC drops"):
        Condition.parse(text)
    assert main(["compare", write("A", "1"), write("B", "1"), "--fail-if", text]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1


def test_what_cannot_be_compared(write: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write("A", "1")
    write("far", [row("z", True)])
    write("twice", [row("a", True), row("a", True)])
    Path("old.json").write_text('{"success_rate": 1}')
    Path("short.json").write_text('{"episodes": [{"task": "a"}]}')
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "journal.jsonl").touch()
    (tmp_path / "empty").mkdir()
    for arguments, words in [
        (["A"], "at least two"),
        (["A", "none"], "none cannot be read"),
        (["A", "old.json"], "cannot be read as an evaluation with its episodes"),
        (["A", "short.json"], "needs task, sample"),
        (["A", "running"], "--resume"),
        (["A", "empty"], "no eval.json"),
        (["A", "far"], "no episode in common"),
        (["A", "twice"], "several episodes of the same task"),
        (["A", "A", "--fail-if", "succes_rate drops by 1"], "Did you mean 'success_rate'"),
    ]:
        assert main(["compare", *arguments]) == 2
        line = capsys.readouterr().err
        assert words in line and line.count("\n") == 1


# ── from end to end ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_folders_and_files_of_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", HOUSEHOLD, "--episodes", "6", "--max-turns", "20"]
    assert main([*arguments, "--policy", "oracle", "--out", "good"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--policy", "random", "--json"]) == 0
    Path("bad.json").write_text(capsys.readouterr().out)
    call = ["compare", "good", "bad.json", "--fail-if", "success_rate drops by 0.1", "--json", "--markdown", "c.md"]
    assert status_of(call) == 1
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert len(result["failed"]) == 1 and result["failed"][0] in captured.err
    assert result["others"][0]["n"] == 6 and result["others"][0]["differs"] == {}
    page = Path("c.md").read_text()
    assert page.startswith("# bad.json against good") and "| success_rate | 1 |" in page and "McNemar" in page


def test_where_they_differ_is_told_by_type_and_kind_of_failure(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(ends: str, failure: str) -> list[dict[str, Any]]:
        kinds = ("heat", "cool")
        return [
            row(f"house-easy-{n}", end == "1", type=kinds[n % 2], failure=None if end == "1" else failure)
            for n, end in enumerate(ends)
        ]

    one, this = write("A", rows("10101100", "loop")), write("B", rows("01010111", "never_found"))
    (other,) = compare([one, this])["others"]
    heat, cool = other["by_type"]["heat"], other["by_type"]["cool"]
    assert (heat["n_tasks"], heat["baseline"], heat["other"], heat["value"]) == (4, 0.75, 0.25, -0.5)
    assert (cool["n_tasks"], cool["baseline"], cool["other"], cool["value"]) == (4, 0.25, 1.0, 0.75)
    assert other["failures"] == {"loop": [4, 0], "never_found": [0, 3]}
    assert main(["compare", one, this, "--markdown", "c.md"]) == 0
    told = capsys.readouterr().out
    assert (
        "solved only here: house-easy-{1, 3, 6, 7}" in told
        and "solved only in the baseline: house-easy-{0, 2, 4}" in told
    )
    assert "success by task type" in told and "| never_found | 0 | 3 | +3 |" in Path("c.md").read_text()
    (alone,) = compare([write("C", "10"), write("D", "01")])["others"]
    assert alone["by_type"] == alone["failures"] == {}


def test_names_are_shown_as_they_are(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "[/red]<script>|"
    assert main(["compare", write("A", [row(evil, True)]), write("B", [row(evil, False)]), "--markdown", "c.md"]) == 0
    assert f"solved only in the baseline: {evil}" in capsys.readouterr().out
    assert "<script>" not in Path("c.md").read_text()
