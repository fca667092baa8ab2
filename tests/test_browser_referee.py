"""agentrl/Browser-v0: Chromium as the referee of the pages in plain Python. Both play the same actions, right, random and wild,
and must give the same text (tree, ids, values, focus, errors), reward, end, validity and scrolling."""

from __future__ import annotations

import base64
from random import Random

import pytest

pytest.importorskip("playwright", reason="a page in Chromium needs the extra 'browser'")

from agentrl.browsers import find_chromium
from agentrl.env import SPLITS, make
from agentrl.env_check import check_env, failed, render
from agentrl.envs.browser.dom import KEYS
from agentrl.envs.browser.env import BrowserEnv
from agentrl.envs.browser.levels import LEVELS
from agentrl.errors import ConfigError
from agentrl.types import Task

try:
    find_chromium()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chromium")]
PLAYERS = ("oracle", "random", "wild")
TEXTS = ("Anna", "a b  c", " x ", "", "it's", "<b>&amp;</b>")


def wild(env: BrowserEnv, random: Random) -> str:
    """Anything that can be said: ids that are none, widgets used as others, keys, texts, no action at all."""
    bid = random.choice([*env.document.by_bid, "0", "99", "zz"])
    key, text = random.choice([*KEYS, "a", "Z", "F5"]), random.choice(TEXTS)
    return random.choice(
        [
            *(f"{name}('{bid}')" for name in ("click", "dblclick", "hover", "clear", "focus", "check", "uncheck")),
            f"fill('{bid}', {text!r})",
            f"select_option('{bid}', 'red')",
            f"press('{bid}', '{key}')",
            f"keyboard_press('{key}')",
            f"keyboard_type({text!r})",
            f"keyboard_insert_text({text!r})",
            *(f"scroll(0, {pixels})" for pixels in (100, 2_000, -50)),
            "noop()",
            f"click('{bid}'",
        ]
    )


def chosen(player: str, env: BrowserEnv, random: Random) -> str:
    plan = env.oracle() if player == "oracle" else []
    if plan:
        return plan[0]
    return wild(env, random) if player == "wild" and random.random() < 0.7 else random.choice(env.admissible_actions)


def disagreement(python: BrowserEnv, chromium: BrowserEnv, task: Task, player: str, n_turns: int) -> str:
    """Plays a task in both; where they first differ, "" where they do not."""
    random = Random(f"{task.id} {player}")
    (text, info), (other_text, other_info) = (env.reset(options={"task": task}) for env in (python, chromium))
    if (text, info) != (other_text, other_info):
        return f"{task.id}: reset gave\n{text}\nand in Chromium\n{other_text}"
    said: list[str] = []
    for _ in range(n_turns):
        said.append(chosen(player, python, random))
        ours, theirs = python.step(said[-1]), chromium.step(said[-1])
        if ours != theirs or python.document.scroll != chromium.document.scroll:
            scrolled = f"scrolled to {python.document.scroll} and {chromium.document.scroll}"
            return f"{task.id}, {player}: {said} gave\n{ours}\nand in Chromium\n{theirs}\n{scrolled}"
        if ours[2]:
            break
    return ""


def compared(level: str, places: range, n_turns: int) -> list[str]:
    """What the engines disagreed in."""
    python, chromium = BrowserEnv(level), BrowserEnv(level, engine="chromium")
    try:
        tasks = [python.tasks(split)[place] for split in SPLITS for place in places]
        found = [disagreement(python, chromium, task, player, n_turns) for task in tasks for player in PLAYERS]
    finally:
        chromium.close()
    return [each for each in found if each]


@pytest.mark.parametrize("level", LEVELS)
def test_both_engines_play_alike(level: str) -> None:
    """Two types of task of each level; the sweep below plays all of them."""
    first = 5 * list(LEVELS).index(level)
    assert compared(level, range(first, first + 2), 8) == []


@pytest.mark.sweep
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("part", range(8))
def test_both_engines_play_alike_on_all_types(level: str, part: int) -> None:
    first = 100 + 22 * part
    assert compared(level, range(first, first + 22), 20) == []


def test_a_screenshot_is_a_small_picture() -> None:
    env = make("agentrl/Browser-v0", engine="chromium", screenshots=30)
    try:
        _, info = env.reset(seed=0)
        kind, _, data = info["screenshot"].partition(",")
        assert kind == "data:image/jpeg;base64" and base64.b64decode(data)[:2] == b"\xff\xd8" and len(data) < 40_000
    finally:
        env.close()


@pytest.mark.sweep
def test_the_contract_holds_in_chromium() -> None:
    checks = check_env(lambda: make("agentrl/Browser-v0", engine="chromium"), n_tasks=4, n_walks=2, max_turns=8)
    assert not failed(checks), render(checks)
