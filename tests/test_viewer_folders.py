"""The report of folders made by hand, in a real browser: what is told apart, files that are gone, runs with nothing in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_pages import Watched, chromium, made, many, member

from agentrl.run_tables import AlarmsTable
from agentrl.viewer import write_report
from agentrl.watch import Watch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_an_alarm_that_is_over_says_since_when(browser: Any, tmp_path: Path):
    watch = Watch(AlarmsTable(window=1), [{"iteration": n, "entropy": v} for n, v in enumerate((1.0, 0.05, 0.9))])
    [alarm] = watch.to_list()
    assert alarm["cleared"] == 2
    alarm["setting"] = "<b>bold</b>"
    odd = [{}, {"name": 5, "iteration": "x", "measured": None}]
    (tmp_path / "alarms.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (alarm, *odd)))
    with Watched(browser, made(tmp_path, [member(0, ["look"])])) as seen:
        assert seen.texts(".alarm .since")[0] == "iteration 1 · over since iteration 2"
        assert "to change <b>bold</b>" in seen.texts(".alarm p") and seen.page.locator(".alarm").count() == 3
        seen.page.locator(".alarm.over a").first.click()
        seen.page.wait_for_selector(".tablepage")


def test_ticks_that_are_near_one_another_are_told_apart(browser: Any, tmp_path: Path):
    values = [{"iteration": n, "ratio": 1 + n * 1e-5} for n in range(4)]
    made(tmp_path, [member(0, ["look"])])
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in values))
    write_report(tmp_path)
    with Watched(browser, tmp_path) as seen:
        labels = seen.page.locator(".curve .label.end").all_text_contents()
        assert len(labels) > 2 and len(set(labels)) == len(labels)


def test_several_environments_are_told_apart(browser: Any, tmp_path: Path):
    one, two = member(0, ["look"]), member(1, ["look"])
    for name, each in (("tiny", one), ("heat", two)):
        each.task = replace(each.task, env=name)
    tables = "".join(f'[[env]]\nid = "agentrl/Household-v0"\nname = "{name}"\n' for name in ("tiny", "heat"))
    (tmp_path / "config.toml").write_text(tables)
    (tmp_path / "summary.json").write_text('{"iterations": 0, "n_parameters": 1000}')
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0}\n{"iteration": 1}\n')
    with Watched(browser, made(tmp_path, [one, two])) as seen:
        page = seen.page
        assert seen.texts(".about span")[:2] == ["agentrl/Household-v0 tiny", "agentrl/Household-v0 heat"]
        card = page.locator(".card", has_text="iterations")
        assert card.locator(".cardvalue").inner_text() == "2"
        assert card.locator(".cardnote").inner_text() == "1 k parameters"
        page.keyboard.press("e")
        page.select_option("#filter-env", "heat")
        assert page.locator(".rows a.row").count() == 1


def test_the_end_of_a_long_task_id_is_in_view(browser: Any, tmp_path: Path):
    one = member(0, ["look"])
    one.task = replace(one.task, id=f"house-{'of-many-rooms-' * 6}7")
    with Watched(browser, made(tmp_path, [one]), "#/episodes") as seen:
        name = seen.page.locator(".rows .taskname")
        assert name.text_content() == one.task.id
        outer, tail = name.bounding_box(), name.locator(".tail").bounding_box()
        assert tail["x"] > outer["x"] and tail["x"] + tail["width"] <= outer["x"] + outer["width"] + 1
        start = name.locator(".start").evaluate("each => [each.scrollWidth, each.clientWidth]")
        assert start[0] > start[1]  # the middle is what is left out


def test_only_what_was_trained_on_is_called_trained(browser: Any, tmp_path: Path):
    trained_on, left_out = member(0, ["look"]), member(1, ["look"])
    left_out.turns[0].advantage = None
    evaluated = replace(left_out, id="eval=before/sampled/task=door/place=0/member=0")
    made(tmp_path, [trained_on, left_out])
    made(tmp_path, [evaluated], "eval_before_sampled")
    for one, expected in ((trained_on, "trained"), (left_out, "untrained"), (evaluated, "untrained")):
        with Watched(browser, tmp_path, f"#/episode/{one.id}") as seen:
            seen.page.wait_for_selector(".tok.sampled")
            token = seen.page.locator(".tok.sampled").first
            assert f"var(--{expected})" in (token.get_attribute("style") or "")
            token.hover()
            said = seen.page.locator("#tip").inner_text()
            assert ("not trained" in said) == (expected == "untrained")


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_links_to_nothing_and_files_that_are_gone_are_said(browser: Any, tmp_path: Path):
    made(tmp_path, many(8))
    (tmp_path / "report" / "chunk_00000.js").unlink()
    for place, said in (("#/episode/nothing", "no episode"), ("#/nowhere", "no such page")):
        with Watched(browser, tmp_path, place) as seen:
            assert said in seen.page.locator(".empty").inner_text()
    seen = Watched(browser, tmp_path, "#/episodes")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("[role=alert]")
    assert "Keep the folder" in seen.page.locator("[role=alert]").inner_text()
    seen.context.close()


def test_a_report_that_was_written_again_asks_to_be_reloaded(browser: Any, tmp_path: Path):
    made(tmp_path, many(8))
    with Watched(browser, tmp_path, "#/episodes") as seen:
        write_report(tmp_path)
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector("[role=alert]")
        assert "Reload the page" in seen.page.locator("[role=alert]").inner_text()


def test_screenshots_of_the_run_folder_are_shown(browser: Any, tmp_path: Path):
    one = member(0, ["click"])
    one.turns[0].info = {"screenshot": "shots/a b.png"}
    (tmp_path / "shots").mkdir()
    with Watched(browser, made(tmp_path, [member(1, ["look"])])) as seen:
        seen.page.screenshot(path=tmp_path / "shots" / "a b.png")
    for single in (False, True):
        with Watched(browser, made(tmp_path, [one], single_file=single), f"#/episode/{one.id}") as seen:
            seen.until("document.querySelector('.screens img')?.naturalWidth === 1300")


def test_a_run_without_anything_yet_has_a_page(browser: Any, tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "entropy": 0.5}\n')
    write_report(tmp_path)
    with Watched(browser, tmp_path) as seen:
        assert seen.page.locator(".curve").count() == 1
        seen.page.keyboard.press("e")
        seen.page.wait_for_selector("text=This run has recorded no episodes yet.")
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "summary.json").write_text('{"status": "failed", "error": "the disk is full"}')
    write_report(tmp_path)
    with Watched(browser, tmp_path) as seen:
        assert seen.texts(".alarm.error p") == ["the disk is full"]
