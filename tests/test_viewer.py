"""The report of a run: what it embeds, what it escapes, what it says when something is missing; and the command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_pages import call, index_of, made, many, member
from toy_runs import tiny

from agentrl.browsers import find_chromium
from agentrl.cli import main
from agentrl.console import Progress
from agentrl.errors import CheckpointError, ConfigError
from agentrl.evaluator import evaluate
from agentrl.learning.samples import make_samples, record_logprobs
from agentrl.store import lock, read_trajectories, unlock
from agentrl.trainer import train
from agentrl.types import Outcome, Turn
from agentrl.viewer import report, write_report
from agentrl.viewer.chunks import tool_calls
from agentrl.viewer.screenshots import Screenshots
from agentrl.viewer.scripts import as_script, short
from agentrl.viewer.sources import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    train(tiny(folder, "algorithm.old_logprobs=learner", "run.iterations=2"), folder / "run", progress=Progress())
    return folder / "run"


def chunks(folder: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted((folder / "report").glob("chunk_*.js")):
        text = file.read_text(encoding="ascii")
        assert text.startswith("agentrl.loaded(") and text.endswith(")\n")
        found.append(json.loads(text[text.index(",", text.index(",") + 1) + 1 : -2]))
    return found


# ── what is in it ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_run_ends_with_its_report(run: Path):
    index = index_of((run / "report.html").read_text())
    files = sorted((run / "trajectories").glob("*.zst"))
    recorded = {trajectory.id: trajectory for file in files for trajectory in read_trajectories(file)}
    columns, names = index["episodes"]["columns"], index["episodes"]["names"]
    assert sorted(columns["id"]) == sorted(recorded)
    for row, name in enumerate(columns["id"]):
        found = recorded[name]
        assert columns["turns"][row] == found.n_turns
        assert columns["reward"][row] == pytest.approx(found.reward, rel=1e-5)
        assert names["outcome"][columns["outcome"][row]] == str(found.outcome)
        assert bool(columns["success"][row]) == found.success
    assert index["metrics"]["iteration"] == [0, 1]
    assert index["metrics"]["columns"]["n_trajectories"] == [8, 8]
    assert {each["phase"] for each in index["evaluations"]} >= {"before/sampled", "after/greedy"}
    assert index["learner"] and index["formulas"] == {"1": ""}


@pytest.mark.slow
def test_chunks_hold_every_token_once_shared_prefixes_folded(run: Path):
    index = index_of((run / "report.html").read_text())
    columns, parts = index["episodes"]["columns"], chunks(run)
    row = next(row for row, phase in enumerate(columns["iteration"]) if phase == 1)
    packed = parts[columns["chunk"][row]]["episodes"][columns["place"][row]]
    file = run / "trajectories" / "iteration_000001.jsonl.zst"
    found = next(each for each in read_trajectories(file) if each.id == columns["id"][row])
    before: list[int] = []
    for turn, shown in zip(found.turns, packed["turns"], strict=True):
        [one], [sampled] = turn.calls, shown["c"]
        assert before[: sampled["n"]] + sampled["p"] == list(one.prompt_ids)
        assert sampled["c"] == list(one.completion_ids)
        assert one.learner_logprobs is not None
        assert sampled["g"] == pytest.approx(one.learner_logprobs, rel=1e-4)
        assert sampled["l"] == pytest.approx(one.logprobs, rel=1e-4)
        before = [*one.prompt_ids, *one.completion_ids]


@pytest.mark.slow
def test_the_learners_logprobs_of_a_policy_that_it_shares_are_the_samplers(run: Path):
    file = run / "trajectories" / "iteration_000000.jsonl.zst"
    pairs = [
        (sampler, learner)
        for trajectory in read_trajectories(file)
        for one in trajectory.calls()
        for sampler, learner in zip(one.logprobs or (), one.learner_logprobs or (), strict=True)
    ]
    assert len(pairs) > 50
    np.testing.assert_allclose(*np.array(pairs).T, atol=1e-4)


def test_logprobs_go_to_the_calls_that_sampled_the_tokens():
    members = [member(0, ["a", "b"]), member(1, ["c"])]
    members[0].turns[0].calls.append(replace(call([9], [4, 5, 6]), role="critic"))
    samples = make_samples(members)
    total = sum(sample.n_trained for sample in samples)
    record_logprobs(samples, -np.arange(total, dtype=float))
    place = 0
    for sample in samples:
        for one in sample.calls:
            expected = [-float(value) for value in range(place, place + len(one.completion_ids))]
            assert one.learner_logprobs == expected
            place += len(expected)
    assert place == total == 9


@pytest.mark.slow
def test_formulas_of_the_last_iteration_come_to_the_recorded_advantages(run: Path):
    columns, parts = index_of((run / "report.html").read_text())["episodes"]["columns"], chunks(run)
    told = 0
    for row, iteration in enumerate(columns["iteration"]):
        for turn in parts[columns["chunk"][row]]["episodes"][columns["place"][row]]["turns"]:
            assert ("w" in turn) == (iteration == 1 and turn["A"] is not None)
            if "w" in turn:
                told += 1
                assert turn["w"][-1]["after"] == pytest.approx(turn["A"], rel=1e-5, abs=1e-9)
                assert turn["w"][0]["term"]["symbol"] == "A"
    assert told


def test_a_group_is_never_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "CHUNK_BYTES", 2000)
    index = index_of((made(tmp_path, many(64)) / "report.html").read_text())
    columns = index["episodes"]["columns"]
    assert len(index["chunks"]) > 3
    for group in set(columns["group"]):
        parts = {chunk for chunk, own in zip(columns["chunk"], columns["group"], strict=True) if own == group}
        assert len(parts) == 1


def test_writing_again_leaves_no_file_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "CHUNK_BYTES", 500)
    made(tmp_path, many(32))
    before = {path.name for path in (tmp_path / "report").iterdir()}
    made(tmp_path, many(8))
    after = {path.name for path in (tmp_path / "report").iterdir()}
    assert after < before and "tokens.js" in after
    write_report(tmp_path, single_file=True)
    assert not (tmp_path / "report").exists()


def test_phases_come_in_the_order_of_their_happening(tmp_path: Path):
    names = (
        "iteration_000010",
        "eval_after_sampled",
        "iteration_000002",
        "eval_iteration_5_sampled",
        "eval_before_greedy",
    )
    for place, name in enumerate(names):
        group = f"phase={place}/task=door/place=0"
        made(tmp_path, [member(0, ["look"], group=group)], name)
    (tmp_path / "trajectories" / ".iteration_000003.jsonl.zst").write_bytes(b"half")
    phases = [(source.phase, source.iteration) for source in open_run(tmp_path).sources]
    between = [("training", 2), ("iteration_5/sampled", None), ("training", 10)]
    assert phases == [("before/greedy", None), *between, ("after/sampled", None)]


@pytest.mark.slow
def test_an_evaluation_has_a_report_too(tmp_path: Path):
    options: dict[str, Any] = {"options": {"difficulty": "tiny"}, "max_turns": 5}
    evaluate("agentrl/Household-v0", "random", 3, samples=2, out=tmp_path / "found", **options)
    evaluate("agentrl/Household-v0", "random", 3, out=tmp_path / "without", report=False, **options)
    index = index_of((tmp_path / "found" / "report.html").read_text())
    assert index["run"]["kind"] == "evaluation" and index["episodes"]["n"] == 6
    [result] = index["evaluations"]
    assert result["n"] == 6 and sum(result["failures"].values()) == 6 and result["by_type"]
    assert not (tmp_path / "without" / "report.html").exists()


# ── what cannot act ──────────────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = "</script><script>alert(1)</script><!--<script>\u2028\u2029]]>&lt;\x00\ud800{{ 7 * 7 }}"


def test_hostile_text_never_ends_its_script(tmp_path: Path):
    bad = member(0, [HOSTILE, "go"])
    bad.turns[0].observation = HOSTILE
    bad.turns[0].info = {HOSTILE: HOSTILE}
    bad.task = replace(bad.task, id=HOSTILE, type=HOSTILE, options={HOSTILE: HOSTILE})
    bad.error = bad.last_observation = HOSTILE
    made(tmp_path, [bad])
    whole = (tmp_path / "report" / "chunk_00000.js").read_text()
    assert not set("<>&\u2028\u2029") & set(whole)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<script") == page.count("</script>") == 2 + len(report.SCRIPTS) - 1  # the index, and the scripts
    assert index_of(page)["episodes"]["names"]["task"] == [HOSTILE]
    assert "alert(1)" not in page.replace(as_script(HOSTILE)[1:-1], "")
    single = made(tmp_path / "single", [bad], single_file=True) / "report.html"
    assert single.read_text().count("</script>") == page.count("</script>") + 2  # tokens and one chunk


@given(
    st.text()
    | st.recursive(
        st.none() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=6,
    )
)
def test_what_stands_in_a_script_is_json_without_markup(value: Any):
    text = as_script(value)
    assert text.isascii() and not set("<>&") & set(text)
    assert as_script(json.loads(text)) == text


@given(st.floats())
def test_short_numbers_are_near_or_none(value: float):
    found = short(value)
    assert (found is None) == (not math.isfinite(value))
    assert found is None or found == pytest.approx(value, rel=1e-5, abs=0)


# ── what is missing ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_tokenizer_the_ids_are_shown_and_it_is_said(tmp_path: Path):
    (tmp_path / "trajectories").mkdir()
    written = write_report(made(tmp_path, [member(0, ["look"])]))
    assert written.notes and "names no model" in written.notes[0]
    assert "names no model" in index_of(written.page.read_text())["tokens"]["problem"]


def test_what_cannot_be_looked_at_is_one_clear_error(tmp_path: Path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no trajectories and no metrics"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "request.json").write_text("{}")
    (tmp_path / "trajectories").mkdir()
    (tmp_path / "trajectories" / "eval.jsonl.zst").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="no trajectories that can be read"):
        write_report(tmp_path)


def test_a_run_that_was_killed_is_not_called_running(tmp_path: Path):
    made(tmp_path, [member(0, ["look"])])
    (tmp_path / "summary.json").write_text('{"status": "running"}')

    def status() -> str:
        return index_of(write_report(tmp_path).page.read_text())["run"]["summary"]["status"]

    assert status() == "interrupted"
    lock(tmp_path)
    assert status() == "running"
    unlock(tmp_path)
    assert status() == "interrupted"
    holding = "import sys, pathlib, agentrl.store as s; s.lock(pathlib.Path(sys.argv[1])); print(flush=True); input()"
    arguments = [sys.executable, "-c", holding, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "\n"
        assert status() == "running"
        other.communicate("\n")
    assert status() == "interrupted"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.jsonl", b"5\n{}\n"),
        ("metrics.jsonl", b'{"iteration": 0, "\xff": 1}\n'),
        ("metrics.jsonl", b'{"iteration": 0,\n{}\n'),
        ("summary.json", b'{"status": '),
        ("config.toml", b"env = [["),
        ("alarms.jsonl", b"{\n{}\n"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, file: str, text: bytes):
    made(tmp_path, [member(0, ["look"])])
    (tmp_path / file).write_bytes(text)
    with pytest.raises(CheckpointError, match=rf"{file}.* cannot be read"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "metrics.jsonl",
            '{"iteration": 0, "entropy": NaN, "loss": Infinity, "none": null, "text": "a"}\n{"iteration": 1, "binds": "x"}\n',
        ),
        ("metrics.jsonl", '{"iteration": 0, "entropy": 0.5}\n{"iteration": 1, "ent'),
        ("summary.json", "[1]"),
        ("summary.json", '{"eval": [1]}'),
        ("summary.json", '{"eval": {"before": null, "after": {"sampled": {"success_rate": null, "n": 3}}}}'),
        ("summary.json", '{"success_rate": 0.5}'),
        ("config.toml", 'env = "x"\nmodel = "y"\nalgorithm = 3\n'),
        ("alarms.jsonl", '{}\n5\n{"name": "a\\ud800"}\n'),
    ],
)
def test_odd_values_in_a_file_are_left_out(tmp_path: Path, file: str, text: str):
    made(tmp_path, [member(0, ["look"])])
    (tmp_path / file).write_text(text)
    assert index_of(write_report(tmp_path).page.read_text())["episodes"]["n"] == 1


def test_a_single_file_that_would_be_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "MOST_BYTES", 2000)
    with pytest.raises(ConfigError, match="leave --single-file out"):
        made(tmp_path, many(32), single_file=True)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_report_that_fails_is_said_and_the_run_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notes: list[str] = []

    class Listening(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(report, "_write", full)
    settings = tiny(tmp_path, "run.iterations=1")
    summary = train(settings, tmp_path / "run", progress=Listening())
    assert summary["status"] == "completed"
    assert [note for note in notes if "report.html could not be written (OSError: no space left)" in note]
    monkeypatch.undo()
    train(tiny(tmp_path, "run.iterations=1", "run.report=false"), tmp_path / "silent", progress=Progress())
    assert not (tmp_path / "silent" / "report.html").exists()


# ── pictures and tools ───────────────────────────────────────────────────────────────────────────────────────────────

PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_pictures_are_data_or_files_of_the_run_and_nothing_else(tmp_path: Path):
    run = tmp_path / "run"
    (run / "shots").mkdir(parents=True)
    (run / "shots" / "a b.png").write_bytes(b"png")
    (tmp_path / "secret.png").write_bytes(b"png")
    (run / "out.png").symlink_to(tmp_path / "secret.png")
    shown = Screenshots(run)
    assert shown.address(PNG) == PNG
    assert shown.address("shots/a b.png") == "shots/a%20b.png"
    refused = (
        "../secret.png", "out.png", str(tmp_path / "secret.png"), "https://example.org/a.png", "file:///etc/a.png",
        "shots/none.png", "javascript:alert(1).png", "data:image/svg+xml;base64,AAAA", "data:text/html,<b>", "x\0.png",
    )  # fmt: skip
    assert [shown.address(text) for text in refused] == [""] * len(refused)
    assert Screenshots(run, inside=True).address("shots/a b.png") == "data:image/png;base64,cG5n"
    turn = Turn("o", info={"screenshot": "shots/a b.png", "n": 1, "other": PNG}, calls=[call([1], [2])])
    turn.calls[0].messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}]
    assert shown.of(turn) == ["shots/a%20b.png", PNG]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ('I add. <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', [("add", {"a": 1})]),
        ('{"name": "say", "arguments": {"text": "hi"}}', [("say", {"text": "hi"})]),
        ('[add(a=1), say(text="hi")]', [("add", {"a": 1}), ("say", {"text": "hi"})]),
        ("go to shelf 1", []),
        ('<tool_call>{"name": ', []),
    ],
)
def test_tool_calls_are_read_from_actions(action: str, expected: list[Any]):
    assert [(found["name"], found["arguments"]) for found in tool_calls(Turn("o", action=action))] == expected


def test_tool_calls_of_an_endpoint_are_its_replys():
    turn = Turn("o", action="text", calls=[call([1], [2])])
    turn.calls[0].reply = {
        "text": "",
        "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": '{"a": 1}'}}],
    }
    assert tool_calls(turn) == [{"name": "add", "arguments": '{"a": 1}'}]


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["view", *words]) == 0
    return capsys.readouterr().out


def test_the_worst_the_best_and_a_named_one_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lost = member(0, ["look", "look", "look"], outcome=Outcome.MAX_TURNS)
    won = member(1, ["open \x1b[2Jdoor"], success=True)
    won.turns[0].reward = 1.0
    fault = member(2, ["look"], outcome=Outcome.ENV_FAULT, error="gone")
    folder = str(made(tmp_path / "run", [won, lost, fault]))
    worst = printed(capsys, folder, "--worst", "1")
    assert "member=0" in worst and "member=1" not in worst and "max_turns" in worst and "room 2" in worst
    best = printed(capsys, folder, "--best", "1")
    assert "member=1" in best and "reward +1" in best and "advantage -0.500" in best and "\x1b[2J" not in best
    assert "gone" in printed(capsys, folder, "--id", "member=2")
    assert "member=2" not in printed(capsys, folder, "--worst", "9")
    text = printed(capsys, folder, "--text")
    assert "iteration 0" in text and "0.500" in text
    for wrong in (
        ("--worst", "0"),
        ("--worst", "1", "--best", "1"),
        ("--id", "nothing"),
        ("--id", ""),
        ("--formulas", "-1"),
    ):
        assert main(["view", folder, *wrong]) == 2
        assert capsys.readouterr().err.startswith("agentrl: ")


def test_the_page_is_written_and_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    folder = made(tmp_path / "run", [member(0, ["look"])])
    (folder / "report.html").unlink()
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    assert "1 episodes" in printed(capsys, str(folder))
    assert opened == [(folder / "report.html").as_uri()]
    printed(capsys, str(folder), "--no-open", "--single-file")
    assert len(opened) == 1
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert "open it in a browser" in printed(capsys, str(folder)) and len(opened) == 1


# ── browsers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_browsers_are_looked_for_by_name_then_playwrights_then_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AGENTRL_CHROMIUM", raising=False)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("agentrl.browsers._APPLICATIONS", ())
    with pytest.raises(ConfigError, match="playwright install chromium"):
        find_chromium()
    system = program(tmp_path / "bin" / "chromium")
    assert find_chromium() == system
    shell = program(
        tmp_path / "cache" / "chromium_headless_shell-1300" / "chrome-headless-shell-linux64" / "chrome-headless-shell"
    )
    assert find_chromium() == shell
    old = program(tmp_path / "cache" / "chromium-999" / "chrome-linux" / "chrome")
    assert find_chromium() == old
    new = program(tmp_path / "cache" / "chromium-1200" / "chrome-linux64" / "chrome")
    assert find_chromium() == new
    monkeypatch.setenv("AGENTRL_CHROMIUM", str(system))
    assert find_chromium() == system
    monkeypatch.setenv("AGENTRL_CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="which is no program"):
        find_chromium()
