"""The report in a real browser, opened from disk: every control, both colour schemes, keys, hostile text, no request.

``Watched`` fails a test whose page complained or asked for anything but its own files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_pages import Watched, call, chromium, made, many, member, trained

from agentrl.types import Outcome, Task
from agentrl.viewer import report

pytestmark = pytest.mark.slow

FIRST = "#/episodes?phase=training&iteration=2&sort=oldest"
HOSTILE = "</script><img src=x onerror='window.hacked=1'><script>window.hacked=1</script><b>bold</b>\u2028<!--"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real run, with an alarm. After ``browser``: without one nothing is trained."""
    strict = ("evaluation.every=1", "alarms.window=2", "alarms.valid_actions=1")  # no share of valid actions is enough
    with trained(tmp_path_factory.mktemp("page"), *strict) as folder:
        yield folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members that part at turn 1, and a hostile third."""
    one = member(0, ["go north", "open door", "leave"], success=True)
    two = member(1, ["go north", "sleep"], outcome=Outcome.MAX_TURNS)
    bad = member(2, [HOSTILE, "go"])
    bad.turns[0].observation = bad.turns[0].state_key = bad.error = HOSTILE
    bad.turns[0].info = {HOSTILE: HOSTILE}
    bad.task = replace(bad.task, id=HOSTILE, type=HOSTILE)
    return made(tmp_path_factory.mktemp("pair"), [one, two, bad])


# ── the overview ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_overview_shows_results_curves_times_and_alarms(browser: Any, run: Path, scheme: str):
    with Watched(browser, run, scheme=scheme) as seen:
        page = seen.page
        assert "success, sampled" in page.locator(".cards").inner_text()
        assert page.locator(".hero svg .point").count() == 6  # before, after iterations 1 and 2 (sampled alone), after
        assert page.locator(".hero svg .interval").count() == 6
        assert page.locator(".times svg rect").count() > 6
        alarms = [json.loads(line) for line in (run / "alarms.jsonl").read_text().splitlines()]
        assert seen.texts(".alarm b") == [alarm["name"] for alarm in alarms]
        told = [(each["measured"], f"likely cause {each['cause']}", f"to change {each['setting']}") for each in alarms]
        assert seen.texts(".alarm p") == [line for lines in told for line in lines]
        summary = json.loads((run / "summary.json").read_text())
        assert summary["time"]["binds"] in page.locator(".binds").inner_text()
        legend = page.locator(".times .legend").inner_text()
        assert all(phase in legend for phase in ("generation", "environments", "training", "storage", "waiting"))
        assert "× its bound" in legend and "rollout" not in legend
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        numbers = {name for line in metrics for name, value in line.items() if type(value) in (int, float)}
        shown = page.locator(".curve").evaluate_all("all => all.map(each => each.dataset.metric)")
        assert set(shown) == numbers - {"iteration", "episode/success_rate"}
        dark = "rgb(16, 18, 20)"
        assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == dark) == (scheme == "dark")


def test_phases_add_up_to_an_iteration(browser: Any, run: Path):
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with Watched(browser, run) as seen:
        legend = seen.page.locator(".times .legend").inner_text()
        shares = [float(share) for share in re.findall(r"([\d.]+) %", legend)]
        assert len(metrics) == 3 and sum(shares) == pytest.approx(100, abs=4)  # rounded


def test_curves_tell_their_values_and_lead_to_their_episodes(browser: Any, run: Path):
    with Watched(browser, run) as seen:
        page = seen.page
        value = json.loads((run / "metrics.jsonl").read_text().splitlines()[2])["n_turns"]
        svg = page.locator(".curve[data-metric=n_turns] svg")
        box = svg.bounding_box()
        svg.hover(position={"x": box["width"] - 10, "y": 40})
        assert re.search(rf"iteration 2\s+n_turns\s+{value}\b", page.locator("#tip").inner_text())
        svg.click(position={"x": box["width"] - 10, "y": 40})
        page.wait_for_selector(".tablepage")
        assert page.locator(".status").inner_text().startswith("8 of ")


def test_metrics_can_be_filtered_smoothed_and_drawn_in_logarithms(browser: Any, run: Path):
    with Watched(browser, run) as seen:
        page = seen.page
        page.fill("#metricfilter", "entropy")
        seen.settle()
        assert set(seen.texts(".curve figcaption span")) == {"entropy"}
        path = "document.querySelector('.curve .line:not(.faint)').getAttribute('d')"
        plain = page.evaluate(path)
        page.get_by_role("radio", name="log").click()
        seen.settle()
        assert page.evaluate(path) != plain
        page.get_by_role("radio", name="linear").click()
        seen.settle()
        page.locator("#smooth").fill("3")
        seen.settle()
        assert page.locator(".curve .line.faint").count() == 1
        assert page.evaluate(path) != plain
        page.fill("#metricfilter", "nothing like this")
        assert "No metric contains" in page.locator("main").inner_text()


def test_a_chosen_scheme_outlives_the_page(browser: Any, run: Path):
    with Watched(browser, run, scheme="light") as seen:
        page = seen.page
        back = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(back) == "rgb(248, 248, 246)"
        page.click("#theme")
        page.click("#theme")
        assert page.evaluate(back) == "rgb(16, 18, 20)"
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert page.evaluate(back) == "rgb(16, 18, 20)"
        page.keyboard.press("t")
        assert page.evaluate(back) == "rgb(248, 248, 246)"


def test_the_keys_are_told(browser: Any, run: Path):
    with Watched(browser, run) as seen:
        page = seen.page
        page.keyboard.press("?")
        assert page.locator("#help").is_visible() and "side by side" in page.locator("#help").inner_text()
        page.keyboard.press("Escape")
        assert page.locator("#help").is_hidden()
        page.click("#ask")
        page.get_by_role("button", name="Close").click()
        assert page.locator("#help").is_hidden()
        page.keyboard.press("e")
        page.wait_for_selector(".tablepage")
        page.keyboard.press("o")
        page.wait_for_selector(".cards")
        page.keyboard.press("/")
        page.wait_for_selector("#search:focus")
        page.get_by_role("link", name="Run file").click()
        assert "group_size = 4" in page.locator(".codebox").inner_text()


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_filters_and_sorting_show_what_the_record_says(browser: Any, tmp_path: Path):
    episodes = many(60)
    for number, one in enumerate(episodes):
        one.turns = one.turns * (1 + number % 4)
    made(tmp_path, episodes[:32])
    made(tmp_path, episodes[32:], "iteration_000001")
    panel = [replace(episodes[0], id="eval=before/sampled/task=door-0/place=0/member=0", group="eval=before/sampled")]
    made(tmp_path, panel, "eval_before_sampled")
    with Watched(browser, tmp_path, "#/episodes") as seen:
        page = seen.page

        def count() -> int:
            return int(page.locator(".status span").first.inner_text().split()[0])

        assert count() == 61
        page.select_option("#filter-phase", "training")
        assert count() == 60
        page.select_option("#filter-type", "kind 3")
        assert count() == sum(one.task.type == "kind 3" for one in episodes)
        page.select_option("#filter-result", "yes")
        assert count() == sum(one.task.type == "kind 3" and one.success for one in episodes)
        page.click("#reset")
        assert count() == 61
        page.select_option("#filter-outcome", "max_turns")
        assert count() == sum(one.outcome == Outcome.MAX_TURNS for one in episodes)
        page.select_option("#filter-result", "yes")
        assert count() == 0 and "No episode matches" in page.locator(".rows").inner_text()
        page.click("#reset")
        page.select_option("#filter-iteration", "0")
        assert count() == 32
        page.select_option("#filter-phase", "before/sampled")
        assert count() == 1 and page.locator("#filter-iteration").count() == 0
        page.select_option("#filter-phase", "training")
        assert count() == 60
        for sort, best in (("longest", max), ("shortest", min)):
            page.select_option("#sort", sort)
            turns = [int(text) for text in seen.texts(".rows .c-turns")]
            assert turns == sorted(turns, reverse=best is max) and turns[0] == best(one.n_turns for one in episodes)
        page.select_option("#sort", "worst")
        assert seen.texts(".rows .c-outcome")[0] == "max_turns"
        page.get_by_role("columnheader", name="outcome").get_by_role("button").click()
        assert seen.texts(".rows .c-outcome")[0] == "✓ solved"
        page.click("#reset")
        page.select_option("#filter-failure", "out_of_turns")
        assert 0 < count() < 60


def test_search_looks_in_ids_and_actions_at_once_and_everywhere_when_asked(
    browser: Any, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setattr(report, "CHUNK_BYTES", 1500)
    episodes = many(64)
    episodes[40].turns[1].observation = "A dragon, asleep."
    made(tmp_path, episodes)
    with Watched(browser, tmp_path) as seen:
        page = seen.page
        page.keyboard.press("/")
        page.wait_for_selector("#search:focus")
        page.keyboard.type("LOOK 33")
        assert page.locator(".rows a.row").count() == 1
        page.fill("#search", "member=5")
        assert page.locator(".status span").first.inner_text().startswith("8 of")
        page.fill("#search", "dragon")
        assert page.locator(".rows a.row").count() == 0
        page.click("#searchall")
        page.wait_for_selector("#searched:text('everything')")
        assert "look 40" in page.locator(".rows a.row").inner_text()
        page.fill("#search", "asleep")
        page.keyboard.press("Enter")
        page.wait_for_selector(".rows a.row")
        assert page.locator(".rows a.row").count() == 1
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
        page.wait_for_selector(".turn")
        assert "A dragon, asleep." in page.locator(".turns").inner_text()


def test_ten_thousand_rows_are_few_elements_and_keys_reach_all_of_them(browser: Any, tmp_path: Path):
    made(tmp_path, many(4000))
    with Watched(browser, tmp_path, "#/episodes?sort=oldest") as seen:
        page = seen.page
        assert page.locator(".rows a.row").count() < 80
        for _ in range(3):
            page.keyboard.press("j")
        page.keyboard.press("ArrowUp")
        assert page.locator("a.selected").get_attribute("data-place") == "2"
        page.keyboard.press("End")
        page.wait_for_selector("a.selected[data-place='3999']")
        assert page.locator(".rows a.row").count() < 80
        page.mouse.move(600, 500)
        page.mouse.wheel(0, -60_000)
        seen.until("Number(document.querySelector('.rows a.row').dataset.place) < 3000")
        page.keyboard.press("Home")
        page.keyboard.press("k")
        page.keyboard.press("Enter")
        page.wait_for_selector(".turn")
        assert page.locator("h1").inner_text() == "door-0"
        page.keyboard.press("n")
        page.wait_for_selector(".member[aria-current]:text('1')")
        page.keyboard.press("Escape")
        page.wait_for_selector("a.selected[data-place='1']")


# ── an episode ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_episode_shows_each_turn_with_its_exact_tokens(browser: Any, run: Path):
    from agentrl.store import read_trajectories

    found = next(iter(read_trajectories(run / "trajectories" / "iteration_000002.jsonl.zst")))
    address = "#/episode/" + found.id.replace("+", "%2B")
    with Watched(browser, run, address) as seen:
        page = seen.page
        assert page.locator("h1").inner_text() == found.task.id
        assert seen.texts(".action") == [turn.action.strip() or "(no action)" for turn in found.turns]
        for turn, card in zip(found.turns, page.locator(".turn").all(), strict=True):
            assert turn.observation.split()[0] in card.locator(".observation").inner_text()
        page.get_by_role("radio", name="all", exact=True).click()
        page.locator(".turn").last.scroll_into_view_if_needed()
        seen.until(f"document.querySelectorAll('.tokenline').length === {found.n_turns}")
        ids = page.locator(".tokenline").evaluate_all(
            "all => all.map(l => [...l.children].map(t => Number(t.dataset.id)))"
        )
        assert ids == [[*call.prompt_ids, *call.completion_ids] for call in found.calls()]


def test_tokens_can_be_hidden_and_coloured_by_everything_that_is_known(browser: Any, run: Path):
    with Watched(browser, run, FIRST) as seen:
        page = seen.page
        page.keyboard.press("Enter")
        page.wait_for_selector(".tokenline")
        assert page.locator(".tok.context").count() == 0
        styles = []
        for name in ("role", "advantage", "log-prob", "gap", "version"):
            page.get_by_role("radio", name=name, exact=True).click()
            token = page.locator(".tok.sampled").first
            styles.append(token.get_attribute("style"))
            assert "toned" in token.get_attribute("class")
            assert page.locator(".scale").inner_text()
        assert len({style.split(";")[0] for style in styles}) >= 3
        page.locator(".tok.sampled").first.hover()
        told = page.locator("#tip").inner_text()
        assert all(word in told for word in ("log-prob", "learner", "gap", "advantage", "version", "trained"))
        page.keyboard.press("c")
        assert page.get_by_role("radio", name="role").get_attribute("aria-checked") == "true"
        page.keyboard.press("x")
        page.wait_for_selector(".tok.context")
        page.locator(".tok.context").first.hover()
        assert "context" in page.locator("#tip").inner_text()
        page.keyboard.press("x")
        assert page.locator(".tokenline").count() == 0


def test_why_an_advantage_is_what_it_is(browser: Any, run: Path):
    with Watched(browser, run, FIRST) as seen:
        page = seen.page
        page.keyboard.press("Enter")
        page.wait_for_selector(".turn")
        page.keyboard.press("j")
        page.keyboard.press("w")
        panel = page.locator(".turn[data-turn='1'] .why")
        assert "A = A_E + step_weight * A_S" in panel.inner_text()
        assert panel.locator("table.compare").first.locator("tr").count() == 4
        [name] = re.findall(r"agentrl explain \S+ (\S+) 1", panel.locator(".command").inner_text())
        assert name in page.evaluate("decodeURIComponent(location.hash)")
        page.keyboard.press("w")
        assert panel.is_hidden()
        page.locator(".turn[data-turn='0'] .whybutton").click()
        visits = page.locator(".turn[data-turn='0'] table.compare").nth(1).locator("tr")
        assert visits.count() >= 4  # the members of a group start in the same state
        visits.locator("a").nth(3).click()
        page.wait_for_selector(".turn.current")
        seen.until("/turn=\\d+/.test(location.hash)")


def test_states_link_to_their_other_visits(browser: Any, pair: Path):
    with Watched(browser, pair, "#/episode/iteration=0/task=door/place=0/member=0") as seen:
        page = seen.page
        page.locator(".turn[data-turn='1'] .visits summary").click()
        page.get_by_role("link", name="member 1, turn 1").click()
        page.wait_for_selector(".turn.current[data-turn='1'] .action:text('sleep')")
        assert "turn=1" in page.evaluate("location.hash")


def test_turns_members_and_episodes_by_key_and_by_mouse(browser: Any, pair: Path):
    with Watched(browser, pair, "#/episodes?sort=oldest") as seen:
        page = seen.page
        page.keyboard.press("Enter")
        page.wait_for_selector(".turn.current[data-turn='0']")
        page.keyboard.press("j")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("k")
        page.wait_for_selector(".turn.current[data-turn='1']")
        page.locator(".rail a").nth(2).click()
        page.wait_for_selector(".turn.current[data-turn='2']")
        page.keyboard.press("m")
        page.wait_for_selector(".member[aria-current]:text('1')")
        page.click("#previousepisode")
        page.wait_for_selector(".member[aria-current]:text('0')")
        page.click("#nextepisode")
        page.wait_for_selector(".member[aria-current]:text('1')")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector(".member[aria-current]:text('0')")
        page.go_back()
        page.wait_for_selector(".member[aria-current]:text('1')")


def test_two_members_side_by_side_part_where_they_differ(browser: Any, pair: Path):
    with Watched(browser, pair, "#/episode/iteration=0/task=door/place=0/member=0") as seen:
        page = seen.page
        page.select_option("#compare", label="member 1 · 0")
        page.wait_for_selector(".pairrow")
        assert seen.texts(".difference") == ["first difference: turn 1, the action"]
        assert seen.texts(".pairhead a") == ["member 0", "member 1"]
        assert page.locator(".pairrow .turn").count() == 5 and page.locator(".absent").count() == 1
        tops = page.locator(".turn[data-turn='1']").evaluate_all("all => all.map(t => t.getBoundingClientRect().top)")
        assert tops[0] == tops[1]
        mark = page.locator(".difference").bounding_box()["y"]
        assert page.locator(".turn[data-turn='0']").first.bounding_box()["y"] < mark < tops[0]
        page.keyboard.press("Escape")
        page.wait_for_selector(".rail")
        page.keyboard.press("s")
        page.wait_for_selector(".pairrow")


def test_where_no_gap_or_text_was_recorded_the_page_says_why(browser: Any, pair: Path):
    with Watched(browser, pair, "#/episode/iteration=0/task=door/place=0/member=0") as seen:
        page = seen.page
        page.wait_for_selector(".tokenline")
        assert page.get_by_role("radio", name="gap").count() == 0
        assert "old_logprobs" in page.locator("#nogap").get_attribute("title")
        assert "⟨7⟩" in page.locator(".tokenline").first.inner_text()
        assert "names no model" in page.get_by_text("ids without texts").get_attribute("title")


# ── texts that would act ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("single", [False, True], ids=["chunks", "single file"])
def test_hostile_texts_are_shown_and_run_nothing(browser: Any, tmp_path: Path, single: bool):
    bad = member(0, [HOSTILE, '<tool_call>{"name": "<b>", "arguments": {"a": "<img src=x>"}}</tool_call>'])
    bad.turns[0].observation = bad.turns[0].state_key = bad.error = bad.last_observation = HOSTILE
    bad.turns[0].info = {HOSTILE: HOSTILE, "shot": "https://example.org/a.png"}
    bad.turns[0].calls.append(call([1], [2], messages=[{"role": HOSTILE, "content": HOSTILE}], reply={"text": HOSTILE}))
    bad.task = Task(HOSTILE, type=HOSTILE, options={HOSTILE: HOSTILE})
    bad.id = f"iteration=0/{HOSTILE}"
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"iteration": 0, HOSTILE: 1.5}) + "\n")
    (tmp_path / "config.toml").write_text(f"# {HOSTILE.replace(chr(0x2028), '')}\n")
    made(tmp_path, [bad, member(1, ["go"])], single_file=single, formulas=0)
    assert (tmp_path / "report").exists() != single
    with Watched(browser, tmp_path) as seen:
        page = seen.page
        assert HOSTILE.split("\u2028")[0] in page.locator(".curve figcaption").inner_text()
        page.keyboard.press("e")
        page.wait_for_selector(".tablepage")
        page.fill("#search", HOSTILE)
        assert page.locator(".rows a.row").count() == 1
        page.locator(".rows a.row").click()
        page.wait_for_selector(".tokenline")
        page.get_by_role("radio", name="all", exact=True).click()
        page.locator("summary").evaluate_all("all => all.forEach(each => each.click())")
        assert HOSTILE.split("\u2028")[0] in page.locator(".observation").first.inner_text()
        assert page.locator(".tool b").inner_text() == "<b>"
        page.get_by_role("link", name="Run file").click()
        page.wait_for_selector(".codebox")
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img, main script, main .page b b").count() == 0


def test_a_policy_stands_behind_the_escaping(browser: Any, pair: Path):
    seen = Watched(browser, pair)
    page = seen.page
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
    page.evaluate(
        "document.head.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 2'}))"
    )
    asked = "fetch('https://example.org/').then(() => 'answered', () => 'refused')"
    assert page.evaluate(asked) == "refused"
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in text for text in seen.complaints)
    seen.context.close()
