"""agentrl/Browser-v0 in plain Python: its contract, its tasks, what widgets do, and who plays it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentrl
from agentrl.chat.wordlevel import PATTERN, words
from agentrl.env import SPLITS, make
from agentrl.env_check import check_env, failed, render
from agentrl.envs.browser import tasks as drawn
from agentrl.envs.browser.actions import BadAction, parse
from agentrl.envs.browser.dom import Document
from agentrl.envs.browser.elements import (
    Element,
    button,
    checkbox,
    combobox,
    dialog,
    form,
    heading,
    link,
    panel,
    radio,
    text,
    textbox,
)
from agentrl.envs.browser.env import OVER, BrowserEnv
from agentrl.envs.browser.levels import LEVELS
from agentrl.envs.browser.page import Page, Wish
from agentrl.envs.browser.pages import FAMILIES, HELD_OUT, TYPES
from agentrl.envs.browser.tree import tree_text
from agentrl.envs.browser.words import ROWS
from agentrl.errors import ConfigError, GameError
from agentrl.types import Task

ID = "agentrl/Browser-v0"
any_task = st.builds(
    drawn.task,
    st.sampled_from(sorted(LEVELS)),
    st.just("valid_unseen"),
    st.sampled_from(sorted(TYPES)),
    st.integers(0, 199),
)


class Desk(Page):
    """A page with one of each widget, which notes the events that it gets."""

    title = "Desk"

    def start(self) -> dict[str, Any]:
        return {"heard": [], "dialog": False, "rows": 0}

    def view(self) -> Sequence[Element]:
        shown = [
            heading("Desk"),
            form(
                textbox("Name", "name", "Ann"),
                checkbox("News", "news", "news"),
                radio("by post", "r0", "way"),
                radio("by hand", "r1", "way"),
                button("Send", "send", submit=True, disabled=self.ticked("news")),
                button("Later", "later"),
            ),
            combobox("Colour", "colour", ("red", "blue")),
            panel("Hidden", "hidden", textbox("Secret", "secret"), hidden=True),
            link("Ask", "ask"),
            *(text(f"line {number}") for number in range(self.state["rows"])),
        ]
        return (
            [*shown, dialog("Sure?", "sure", button("No", "no"), button("Yes", "yes"), cancel="no")]
            if self.state["dialog"]
            else shown
        )

    @property
    def more(self) -> str:
        return "more"

    def handle(self, event: str) -> None:
        self.state["heard"].append(event)
        if event in ("ask", "no"):
            self.state["dialog"] = event == "ask"
        if event == "more":
            self.state["rows"] += 10

    def wish(self) -> Wish | None:
        return None

    def sought(self) -> str:
        return "name"


def desk(*actions: str) -> Document:
    document = Document(Desk({}))
    for action in actions:
        document.act(parse(action))
    return document


def heard(*actions: str) -> list[str]:
    return desk(*actions).page.state["heard"]


# ── widgets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tree_of_a_page() -> None:
    document = desk("fill('3', 'Bo')", "check('4')")
    assert tree_text(document.tree(), title="Desk", url="x", focused=document.focused_bid).split("\n") == [
        "RootWebArea 'Desk', url='x'",
        "\t[1] heading 'Desk', level='1'",
        "\t[2] form ''",
        "\t\t[3] textbox 'Name' value='Bo'",
        "\t\t[4] checkbox 'News', checked='true', focused",
        "\t\t[5] radio 'by post', checked='false'",
        "\t\t[6] radio 'by hand', checked='false'",
        "\t\t[7] button 'Send', disabled",
        "\t\t[8] button 'Later'",
        "\t[9] combobox 'Colour' value='red'",
        "\t\t[10] option 'red', selected='true'",
        "\t\t[11] option 'blue', selected='false'",
        "\t[12] link 'Ask'",
    ]


def test_enter_in_a_field_presses_the_button_that_sends_its_form_unless_it_is_disabled() -> None:
    assert heard("press('3', 'Enter')") == ["send"]
    assert heard("click('4')", "press('3', 'Enter')") == ["news"]
    assert heard("press('8', 'Enter')", "press('12', 'Enter')") == ["later", "ask"]


def test_space_ticks_presses_and_is_typed() -> None:
    document = desk("press('4', 'Space')", "press('8', 'Space')", "press('3', 'Space')", "keyboard_type('x y')")
    assert document.page.state["heard"] == ["news", "later"]
    assert document.page.values == {"news": True, "name": "Ann x y"}


def test_tab_goes_over_what_can_be_in_focus_and_selects_a_field() -> None:
    document, seen = desk("focus('3')"), ["name"]
    while True:
        try:
            document.act(parse("keyboard_press('Tab')"))
        except BadAction as error:
            assert "leads out" in str(error)
            break
        seen.append(document.focus)
    assert seen == ["name", "news", "r0", "send", "later", "colour", "ask"]
    for _ in range(6):
        document.act(parse("keyboard_press('Shift+Tab')"))
    document.act(parse("keyboard_press('Z')"))
    assert (document.focus, document.page.values["name"]) == ("name", "Z")


def test_of_a_group_of_radio_buttons_one_is_chosen_and_tab_stops_there() -> None:
    document = desk("click('5')", "click('6')", "focus('4')", "keyboard_press('Tab')")
    assert document.page.values == {"way": "r1"} and document.focus == "r1"
    document.act(parse("keyboard_press('ArrowDown')"))
    assert document.page.values == {"way": "r0"} and document.focus == "r0"


def test_keys_in_a_field_and_a_list() -> None:
    document = desk(
        "press('3', 'Backspace')", "keyboard_type('a')", "press('9', 'ArrowDown')", "press('9', 'ArrowDown')"
    )
    assert document.page.values == {"name": "Ana", "colour": "blue"}
    document.act(parse("press('3', 'Control+a')"))
    document.act(parse("keyboard_insert_text('Eve')"))
    assert document.page.values["name"] == "Eve"


def test_a_dialog_covers_the_page_takes_the_focus_and_is_closed_by_escape() -> None:
    document = desk("click('12')")
    assert [element.key for element in document.by_bid.values()] == ["sure", "no", "yes"] and document.focus == "no"
    with pytest.raises(BadAction, match="no element"):
        document.act(parse("click('12')"))
    document.act(parse("keyboard_press('Escape')"))
    assert document.page.state == {"heard": ["ask", "no"], "dialog": False, "rows": 0} and document.focus == ""


def test_scrolling_down_against_the_end_of_a_page_is_told() -> None:
    document = desk("scroll(0, -50)")
    assert document.page.state["rows"] == 0 == document.bottom
    document.act(parse("scroll(0, 50)"))
    document.act(parse("scroll(0, 10)"))
    assert document.scroll == 10 and document.page.state["rows"] == 10
    document.act(parse("scroll(0, 5000)"))
    assert document.page.state["rows"] == 20 and 0 < document.scroll < document.bottom
    document.act(parse("click('3')"))
    assert document.scroll < 40  # what is used is in sight


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        ("click('99')", 'there is no element "99"'),
        ("click('2')", "holds others"),
        ("click('10')", 'chosen by select_option("9", "red")'),
        ("fill('4', 'x')", "takes no text; it is a checkbox"),
        ("fill('3', 'a\\nb')", "one line"),
        (f"fill('3', '{'x' * 2001}')", "at most 2000 characters"),
        (f"keyboard_type('{'x' * 201}')", "at most 200 characters"),
        ("check('3')", "no box to tick; it is a textbox"),
        ("uncheck('5')", "cannot be taken back"),
        ("select_option('9', 'green')", 'has no option "green"; it has "red", "blue"'),
        ("select_option('3', 'red')", "no list to choose from; it is a textbox"),
        ("select_option('9', ['red', 'blue'])", "takes one option; got 2"),
        ("press('3', 'F5')", "no key 'F5'"),
        ("press('9', 'Enter')", "select_option"),
        ("press('1', 'Enter')", "takes no keys; it is a heading"),
        ("keyboard_press('Tab')", "leads out"),
        ("keyboard_type('x')", "no field has the focus"),
        ("click('8', button='right')", "left button"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(action: str, problem: str) -> None:
    document = Document(Desk({}))
    before = document.snapshot()
    with pytest.raises(BadAction, match=re.escape(problem)):
        document.act(parse(action))
    assert document.snapshot() == before
    document.page.values["news"] = True
    document.refresh()
    with pytest.raises(BadAction, match='"7" is disabled'):
        document.act(parse("click('7')"))


# ── the environment ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_the_environment_keeps_the_contract(level: str) -> None:
    checks = check_env(lambda: make(ID, difficulty=level, list_actions=True))
    assert not failed(checks), render(checks)
    assert [check.name for check in checks if check.status != "pass"] == []


@settings(max_examples=60, deadline=None)
@given(any_task, st.integers(0, 3))
def test_the_oracle_solves_every_task_also_after_a_detour(task: Task, n_astray: int) -> None:
    env = BrowserEnv()
    env.reset(options={"task": task})
    random = Random(task.seed)
    for _ in range(n_astray):
        if env.document.page.result is None:
            env.step(random.choice(env.admissible_actions))
    if env.document.page.result is not None:
        assert env.oracle() == []
        return
    plan = env.oracle()
    assert n_astray or 0 < len(plan) <= (task.max_turns or 0)
    replies = [env.step(action) for action in plan]
    assert all(info["valid"] for *_, info in replies)
    assert [reward for _, reward, *_ in replies] == [0.0] * (len(plan) - 1) + [1.0] * bool(plan)
    assert env.step("noop()")[:4] == (OVER, 0.0, True, False) or not plan


def test_what_cannot_be_taken_back_ends_the_episode_and_a_wrong_end_is_a_wrong_action() -> None:
    env = BrowserEnv(reward_scale=10)
    env.reset(options={"task": "tiny/train/form_write/0"})
    text, reward, terminated, _, info = env.step(env.oracle()[-1])  # sends before anything is written
    assert (reward, terminated, info["success"], info["score"]) == (0.0, True, False, 0.0) and text.startswith("Root")
    assert env.failure() == "wrong_action" and env.admissible_actions == []
    env.reset(options={"task": "tiny/train/form_write/0"})
    assert [env.step(action)[1] for action in env.oracle()][-1] == 10.0


def test_a_bad_action_is_an_observation() -> None:
    env = BrowserEnv()
    before, _ = env.reset(seed=0)
    for action, told in (
        ("click('1'", "wanted ','"),
        ("goto('x')", "there is no action"),
        ("click('99')", "no element"),
    ):
        text, reward, terminated, _, info = env.step(action)
        page, error = text.rsplit("\n", 1)
        assert (page, reward, terminated, info["valid"]) == (before, 0.0, False, False)
        assert error.startswith("Error from previous action: ") and told in info["last_action_error"]
    assert env.step("noop()")[0] == before


def test_the_state_key_is_exact_and_the_anchor_has_no_ids() -> None:
    env = BrowserEnv()
    env.reset(options={"task": "tiny/train/form_write/0"})
    empty, field = env.state_key(), next(e for e in env.document.by_bid.values() if e.role == "textbox")
    env.step(f"fill('{field.bid}', 'x')")
    written = env.state_key()
    assert written != empty and f"[{field.bid}]" not in env.anchor and "textbox" in env.anchor
    snapshot = env.snapshot()
    env.step(f"fill('{field.bid}', 'y')")
    assert env.state_key() != written
    env.restore(snapshot)
    assert env.state_key() == written


def test_splits_differ_by_content_and_unseen_families_are_unseen() -> None:
    for level in LEVELS:
        found = {split: drawn.Tasks(level, split)[:160] for split in SPLITS}
        contents = {split: {json.dumps(task.options) for task in tasks} for split, tasks in found.items()}
        assert not contents["train"] & contents["valid_seen"]
        families = {split: {task.options["family"] for task in tasks} for split, tasks in found.items()}
        assert families["train"] == families["valid_seen"] == set(FAMILIES) - set(HELD_OUT)
        assert families["valid_unseen"] == set(FAMILIES)
        shown = {
            split: set(re.findall(r"[A-Za-z]+", json.dumps([task.options for task in found[split]])))
            for split in SPLITS
        }
        for row in ("name", "topic", "thing"):  # whose words are in no other row
            seen, unseen = set(ROWS[row][: len(ROWS[row]) // 2]), set(ROWS[row][len(ROWS[row]) // 2 :])
            assert not shown["train"] & unseen and not shown["valid_unseen"] & seen


def test_families_and_types_can_be_chosen() -> None:
    env = BrowserEnv(families=["mail"], task_types=["mail_delete", "form_write"])
    assert {task.type for task in env.tasks("train")[:20]} == {"mail_delete"}
    assert len(BrowserEnv(families=["shop"], split="valid_unseen").tasks("train")) == 0
    with pytest.raises(GameError, match="no task in the split 'train'"):
        BrowserEnv(families=["shop"]).reset()
    for options, told in (
        ({"difficulty": "tinny"}, "Did you mean 'tiny'"),
        ({"families": ["mial"]}, "Did you mean 'mail'"),
        ({"families": "mail"}, 'write \\["mail"\\]'),
        ({"task_types": ["form_writ"]}, "Did you mean 'form_write'"),
        ({"engine": "firefox"}, "python, chromium"),
        ({"screenshots": 50}, 'engine = "chromium"'),
    ):
        with pytest.raises(ConfigError, match=told):
            make(ID, **options)


def test_a_task_of_ones_own() -> None:
    fields = [{"kind": "text", "key": "a", "name": "Age", "value": ""}]
    page = {"fields": fields, "wanted": {"a": "7"}, "agree": False, "confirm": False}
    own = Task(id="mine", options={"family": "form", "goal": "Write 7 into Age.", "page": page})
    env = BrowserEnv()
    assert env.reset(options={"task": own})[1]["goal"] == "Write 7 into Age."
    assert env.oracle() == ["fill('3', '7')", "click('4')"]
    for options in ({}, {"family": "forms", "goal": "", "page": page}):
        with pytest.raises(GameError, match="mine"):
            env.reset(options={"task": Task(id="mine", options=options)})


@pytest.mark.parametrize("level", LEVELS)
def test_the_vocabulary_has_every_word_that_a_careless_player_meets(level: str) -> None:
    env = BrowserEnv(level)
    known = set(words(env.vocabulary()))
    for split in SPLITS:
        for task in env.tasks(split)[:22]:
            text, info = env.reset(options={"task": task})
            player, said, over = env.expert(noise=0.6, seed=task.seed), [info["goal"], f"\n{info['goal']}"], False
            for _ in range(task.max_turns or 0):
                said += [text, player.act(text, [], info["goal"])]
                text, _, over, _, info = env.step(said[-1])
                assert info["valid"]
                if over:
                    break
            assert set(words([*said, text])) <= known


def test_tiny_pages_fit_a_small_model() -> None:
    env, sizes = BrowserEnv("tiny"), []
    for task in env.tasks("train")[:160]:
        text, _ = env.reset(options={"task": task})
        sizes.append(len(re.findall(PATTERN, text)))
    assert sorted(sizes)[80] <= 180 and max(sizes) <= 300


def test_a_careless_player_is_between_random_and_right() -> None:
    won = [agentrl.evaluate(ID, f"expert:noise={noise}", n=64, seed=0)["success_rate"] for noise in (0.0, 0.4, 1.0)]
    assert won[0] == 1.0 > won[1] > won[2]
    assert agentrl.evaluate(ID, "random", n=32, seed=0, options={"list_actions": True})["success_rate"] < 0.5
