"""MiniWoB's pages as an environment: tasks and splits, episodes, faults, hooks, oracles."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import pickle
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from toy_browser import needs_chromium

import agentrl
from agentrl.env import make
from agentrl.env_check import check_env, failed, render
from agentrl.envs.miniwob.oracles import SOLVERS
from agentrl.envs.miniwob.tasks import FAMILY, LEVELS, SEEDS, TEST, TRAIN, names_of, task, task_by_id, tasks_of
from agentrl.errors import ConfigError, EnvFault, GameError, MissingExtra
from agentrl.types import Outcome

# One task of each kind of action, whose oracles `make test` plays; the others are the sweep's.
SAMPLE = """
    click-button click-checkboxes click-collapsible-2 click-color click-dialog-2 click-menu click-shades click-shape click-tab-2
    choose-date-easy choose-list copy-paste-2 drag-box drag-sort-numbers email-inbox enter-date enter-password enter-text
    find-midpoint form-sequence-2 grid-coordinate guess-number login-user-popup multi-orderings navigate-tree phone-book
    read-table search-engine social-media use-autocomplete
"""


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    found = made(level="full")
    yield found
    found.close()


def made(**options: Any) -> Any:
    """The environment, or a skip where its pages or a browser are missing."""
    needs_chromium()
    if importlib.util.find_spec("miniwob") is None:
        pytest.skip("miniwob is not installed: pip install 'agentrl-toolkit[miniwob]'")
    return make("agentrl/MiniWoB-v0", **options).unwrapped


def won(env: Any, name: str, seed: int) -> bool:
    """Whether the oracle's plan wins, and nothing that it does is an error."""
    _, info = env.reset(options={"task": task(name, seed)})
    reward = 0.0
    for action in env._oracle():
        _, reward, ended, _, info = env.step(action)
        if ended:
            return bool(info["success"] and reward > 0)
    return False


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tasks_are_browsergyms() -> None:
    assert (len(TRAIN), len(TEST), len(FAMILY)) == (62, 63, 125) and not set(TRAIN) & set(TEST)
    left_out = {"button-delay", "chase-circle", "hover-shape", "moving-items", "simon-says"}
    found = importlib.util.find_spec("miniwob")
    if found is None or not found.submodule_search_locations:
        pytest.skip("miniwob is not installed: pip install 'agentrl-toolkit[miniwob]'")
    pages = Path(found.submodule_search_locations[0]) / "html" / "miniwob"
    assert {page.stem for page in pages.glob("*.html")} == set(FAMILY) | left_out


def test_splits_share_no_task_and_levels_grow() -> None:
    for level in LEVELS:
        names = {split: names_of(level, split) for split in SEEDS}
        assert names["train"] == names["valid_seen"] and set(names["train"]) <= set(TRAIN)
        assert names["valid_unseen"] and set(names["valid_unseen"]) <= set(TEST)
        ids = [one.id for split in SEEDS for one in tasks_of(names[split], split)[:200]]
        assert len(set(ids)) == len(ids)
    for lower, higher in pairwise(LEVELS):
        for split in ("train", "valid_unseen"):
            assert set(names_of(lower, split)) < set(names_of(higher, split))
    assert len(SOLVERS) >= 25 and set(SOLVERS) <= set(FAMILY)
    assert {FAMILY[name] for name in names_of("medium", "train")} >= {"click", "choose", "type", "drag", "form"}


def test_a_task_is_found_by_its_id() -> None:
    for split in SEEDS:
        for one in (*tasks_of(names_of("full", split), split)[:3], tasks_of(names_of("full", split), split)[-1]):
            assert task_by_id(one.id) == one and one.split == split
    for wrong in ("miniwob-click-test-50", "miniwob-click-test-01", "miniwob-button-delay-1", "click-test-1", ""):
        with pytest.raises(GameError, match="no task"):
            task_by_id(wrong)


def test_tasks_are_kept_by_name_and_by_family() -> None:
    assert names_of("tiny", "train", ["email-inbox", "enter-text"]) == ("enter-text",)
    assert names_of("easy", "train", ["choose"]) == ("click-checkboxes", "click-checkboxes-transfer", "click-option")
    with pytest.raises(ConfigError, match="Did you mean 'click-test'"):
        names_of("tiny", "train", ["clik-test"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"level": "tinny"}, "Did you mean 'tiny'"),
        ({"split": "test"}, "wanted split among train"),
        ({"reward": "row"}, "Did you mean 'raw'"),
        ({"events": "fake"}, "wanted events among js, trusted"),
        ({"task_names": "click-test"}, r'write \["click-test"\]'),
        ({"actions": ["clik"]}, "Did you mean 'click'"),
        ({"actions": []}, "wanted one action or set of actions at least"),
        ({"step_ms": -500}, "wanted step_ms from 0 to 10000"),
        ({"timeout_s": 0.0}, "timeout_s above 0"),
        ({"timeout_s": float("nan")}, "timeout_s above 0"),
    ],
)
def test_what_does_not_fit_is_told(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made(**options)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"agentrl-toolkit\[miniwob\]"):
        make("agentrl/MiniWoB-v0")


# ── episodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

pages = pytest.mark.slow


@pages
def test_an_episode(env: Any) -> None:
    text, info = env.reset(options={"task": "miniwob-login-user-1"})
    lines = text.split("\n")
    assert lines[0] == ("RootWebArea 'Login User Task', focused, url='http://miniwob.test/miniwob/login-user.html'")
    assert "\t\t[2] textbox '' value=''" in lines and lines[-1] == f"Goal: {info['goal']}"
    name, password = info["goal"].split('"')[1::2]
    text, reward, ended, truncated, info = env.step(f"fill('2', '{name}')")
    assert f"[2] textbox '' value='{name}', focused" in text and (reward, ended, truncated) == (0.0, False, False)
    env.step(f"fill('4', '{password}')")
    text, reward, ended, _, info = env.step("click('5')")
    assert (reward, ended, info["success"], info["raw_reward"]) == (1.0, True, True, 1.0)
    assert env.step("click('5')")[:4] == ("The episode is over.", 0.0, True, False)


@pages
def test_a_wrong_click_ends_with_the_pages_reward(env: Any) -> None:
    env.reset(options={"task": "miniwob-login-user-1"})
    _, reward, ended, _, info = env.step("click('5')")
    assert (reward, ended, info["success"], env.failure()) == (-1.0, True, False, "wrong_action")
    binary = made(level="full", reward="binary")
    binary.reset(options={"task": "miniwob-login-user-1"})
    _, reward, _, _, info = binary.step("click('5')")
    assert (reward, info["raw_reward"]) == (0.0, -1.0)
    binary.close()


@pages
@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("click('99')", 'there is no element "99"'),
        ("click(2)", "wanted bid as an id in quotes"),
        ("I would click the button.", "there is no action 'I'"),
        ("goto('http://example.org')", "there is no action 'goto'"),
        ("", "got nothing"),
    ],
)
def test_a_bad_action_is_an_observation(env: Any, action: str, error: str) -> None:
    first, _ = env.reset(options={"task": "miniwob-click-test-2-1"})
    text, reward, ended, _, info = env.step(action)
    assert error in info["error"] and not info["valid"] and (reward, ended) == (0.0, False)
    *before, goal = first.split("\n")
    assert text.split("\n") == [*before, f"Error from previous action: {info['error']}", goal]
    text, *_ = env.step("noop()")
    assert text == first


@pages
def test_the_page_keeps_its_pictures_and_places_to_itself_unless_asked(env: Any) -> None:
    env.reset(options={"task": "miniwob-click-test-1"})
    assert "screenshot" not in env.step("noop()")[4]
    other = made(level="full", screenshots=True, centers=True, list_actions=True)
    text, info = other.reset(options={"task": "miniwob-click-test-1"})
    assert info["screenshot"].startswith("data:image/jpeg;base64,/9j/") and 'center="(' in text
    assert info["admissible_actions"] == other.admissible_actions == ["click('1')"]
    other.close()


@pages
def test_admissible_actions_can_be_taken(env: Any) -> None:
    _, info = env.reset(options={"task": "miniwob-login-user-1"})
    name, password = info["goal"].split('"')[1::2]
    listed = env.admissible_actions
    assert {f"fill('2', '{name}')", f"fill('4', '{password}')", "click('5')"} <= set(listed)
    env.reset(options={"task": "miniwob-choose-list-0"})
    for action in env.admissible_actions[:4]:
        assert env.step(action)[4]["valid"]


@pages
def test_an_episode_does_not_depend_on_what_was_played_before_or_on_time(env: Any) -> None:
    names = ["use-autocomplete", "choose-date", "click-collapsible", "search-engine", "use-slider", "click-menu"]
    other = made(level="full")
    try:
        for name in names:
            found = []
            for which, played in ((env, True), (other, False)):
                if played:
                    _random_play(which, name, 3, 1)
                found.append(_random_play(which, name, 2, 0))
            assert found[0] == found[1], name
    finally:
        other.close()


def _random_play(env: Any, name: str, seed: int, choice: int) -> list[Any]:
    random, seen = Random(choice), [env.reset(options={"task": task(name, seed)})[0], env.state_key()]
    for _ in range(6):
        reply = env.step(random.choice(env.admissible_actions))
        seen += [*reply[:4], env.state_key()]
        if reply[2]:
            break
    return seen


@pages
def test_the_state_key_tells_states_apart_and_finds_equal_ones(env: Any) -> None:
    env.reset(options={"task": "miniwob-click-checkboxes-1"})
    keys = [env.state_key()]
    for action in ("click('1')", "click('1')", "click('1')", "noop()", "click('2')"):
        env.step(action)
        keys.append(env.state_key())
    assert keys[1] == keys[3] == keys[4] and len({*keys[:3], keys[5]}) == 4


@pages
def test_a_snapshot_goes_on_elsewhere(env: Any) -> None:
    env.reset(options={"task": "miniwob-login-user-1"})
    env.step("fill('2', 'x')")
    kept = pickle.loads(pickle.dumps(env.snapshot()))
    there = env.step("press('2', 'y')")[0]
    other = made(level="full")
    other.restore(kept)
    assert other.step("press('2', 'y')")[0] == there and "value='xy'" in there
    other.close()


@pages
def test_a_crashed_page_costs_one_retry_and_the_episode_goes_on(env: Any) -> None:
    from test_browser_chromium import _crash

    env.reset(options={"task": "miniwob-login-user-1"})
    env.step("fill('2', 'x')")
    before = env._page.n_retries
    with pytest.raises(EnvFault):
        env._page.run(_crash(env._page))
    text, *_ = env.step("fill('4', 'y')")
    assert "[2] textbox '' value='x'" in text and env._page.n_retries == before + 1


@pages
def test_actions_of_both_kinds_of_event_agree() -> None:
    found = []
    for events in ("js", "trusted"):
        env = made(level="full", events=events)
        seen = []
        for name in ("login-user", "click-checkboxes", "choose-list", "click-tab-2", "email-inbox-forward"):
            env.reset(options={"task": task(name, 1)})
            for action in env._oracle():
                seen.append(env.step(action)[:3])
        found.append(seen)
        env.close()
    assert found[0] == found[1]


@pages
def test_rollouts_play_several_pages_at_once() -> None:
    made().close()
    found = agentrl.rollout(
        "agentrl/MiniWoB-v0", "oracle", 6, options={"level": "easy", "task_names": ["enter-text", "click-option"]}
    )
    assert [one.outcome for one in found] == [Outcome.TERMINATED] * 6 and all(one.success for one in found)
    json.dumps([turn.info for one in found for turn in one.turns])


@pages
def test_it_serves_inside_a_running_event_loop(env: Any) -> None:
    async def play() -> Any:
        first, _ = env.reset(options={"task": "miniwob-click-test-1"})
        again, _ = await env.ask("reset", options={"task": "miniwob-click-test-1"})
        plan = await env.ask("oracle")
        return first == again, plan, (await env.ask("step", plan[0]))[4]["success"]

    assert asyncio.run(play()) == (True, ["click('1')"], True)


# ── oracles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pages
@pytest.mark.parametrize("name", SAMPLE.split())
def test_an_oracle_wins(env: Any, name: str) -> None:
    assert won(env, name, 0) and won(env, name, 7)


@pages
def test_the_oracle_goes_on_from_where_the_episode_is(env: Any) -> None:
    env.reset(options={"task": "miniwob-click-checkboxes-1"})
    for action in (env._oracle()[0], "click('1')"):
        env.step(action)
    for action in env._oracle():
        *_, info = env.step(action)
    assert info["success"]


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_an_oracle_wins_20_of_20(env: Any, name: str) -> None:
    assert sum(won(env, name, seed) for seed in range(20)) == 20


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(FAMILY))
def test_every_page_starts_the_same_whatever_was_played(env: Any, name: str) -> None:
    other = made(level="full")
    for choice in range(3):
        _random_play(env, name, 3, choice)
        assert _random_play(env, name, 2, choice) == _random_play(other, name, 2, choice)
    other.close()


@pytest.mark.sweep  # sixty pages are opened
def test_it_keeps_the_contract() -> None:
    made().close()
    checks = check_env(lambda: make("agentrl/MiniWoB-v0"), n_tasks=6, n_walks=3, max_turns=6)
    assert not failed(checks), render(checks)
