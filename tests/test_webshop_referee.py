"""The shop against the real one: Lucene's hits, the engine's episodes, the published goals and prices. Needs the shared data."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agentrl.env import make, shared_folder
from agentrl.env_check import check_env, failed, render
from agentrl.envs.webshop import goals
from agentrl.envs.webshop.env import WebShopEnv
from agentrl.envs.webshop.reward import rule_nouns, score
from agentrl.errors import GameError

DATA = Path(shared_folder()) / "data" / "webshop"
ID = "agentrl/WebShop-v0"
# The recorded engine drew the prices of ranges unseeded. Its caps say that each recorded product cost less than its goal's cap; by
# this seed they all do.
PRICES = 0

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real shop at {DATA}")


@cache
def real(name: str) -> Any:
    return json.loads(gzip.decompress((DATA / name).read_bytes()))


def test_searches_find_what_lucene_finds() -> None:
    catalogue = goals.read(str(DATA)).catalogue
    same_first, overlap = 0, 0.0
    queries = real("lucene_golden.json.gz")
    for query, hits in queries:
        wanted = [asin for asin, _ in hits[:10]]
        found = [catalogue.product(place).asin for place, _ in catalogue.index.search(query, 10)]
        same_first += found[0] == wanted[0]
        overlap += len({*found} & {*wanted}) / 10
    assert len(queries) == 415
    assert same_first >= 0.99 * len(queries) and overlap >= 0.99 * len(queries), (same_first, overlap / len(queries))


def test_the_engines_episodes_replay() -> None:
    env = WebShopEnv(data=DATA, price_seed=PRICES)
    n_steps = 0
    for goal, steps, final in real("golden_transcripts_text.json.gz"):
        reward = 0.0
        for action, observation, available in steps:
            if action == "reset":
                text, _ = env.reset(options={"goal": goal})
            else:
                text, reward, _, _, info = env.step(action)
                assert info["valid"], action
            listed = [action.removeprefix("click[").removesuffix("]") for action in env.admissible_actions]
            searchable = env.admissible_actions[:1] == [f"search[{goal['instruction_text']}]"]
            assert text == observation
            assert {"has_search_bar": searchable, "clickables": ["search"] if searchable else listed} == available
            n_steps += 1
        assert reward == final
    assert n_steps == 377


def test_prices_and_goals_are_the_published_ones_in_their_order() -> None:
    shop = goals.read(str(DATA))
    published = real("goals_synthetic.json.gz")
    assert len(published) == len(shop.goals) == 6910
    for goal, given in zip(shop.goals, published, strict=True):
        assert goal.instruction == given["instruction_text"] and goal.asin == given["asin"]
        assert dict(goal.options) == given["goal_options"] and goal.price_upper == given["price_upper"]
        assert goal.attributes == tuple(given["attributes"]) and goal.title == given["name"]
    prices = real("prices_seed233.json.gz")
    assert {p: shop.catalogue.price(shop.catalogue.place(p) or 0) for p in prices} == prices


@pytest.mark.slow
def test_as_many_goals_can_be_reached_as_in_the_engine() -> None:
    shop = goals.read(str(DATA))
    reached = {False: 0, True: 0}
    for goal in shop.goals:
        place = shop.catalogue.place(goal.asin)
        assert place is not None
        product, price = shop.catalogue.product(place), shop.catalogue.price(place)
        for mended in reached:
            reached[mended] += score(product, price, goal.options, goal, rule_nouns, mended).total == 1.0
    assert reached == {False: 6452, True: 6910}


@pytest.mark.parametrize(("protocol", "sizes"), [("webshop", (5407, 1000, 500)), ("verl_agent", (6409, 0, 500))])
def test_splits_of_the_real_goals_never_overlap(protocol: str, sizes: tuple[int, ...]) -> None:
    env = WebShopEnv(data=DATA, protocol=protocol)
    shop = goals.read(str(DATA))
    found = {split: list(env.tasks(split)) for split in ("train", "valid_seen", "valid_unseen")}
    assert tuple(map(len, found.values())) == sizes
    assert [task.options["goal"] for task in found["valid_unseen"]] == list(range(500))
    wanted = [
        {
            (shop.goals[task.options["goal"]].asin, *sorted(shop.goals[task.options["goal"]].options.items()))
            for task in tasks
        }
        for tasks in found.values()
    ]
    assert not wanted[0] & wanted[1] and not wanted[0] & wanted[2] and not wanted[1] & wanted[2]


def test_verl_agents_setting() -> None:
    env = WebShopEnv(data=DATA, protocol="verl_agent", split="valid_unseen", mended=True)
    _, info = env.reset(seed=1)
    assert env.task is not None and env.task.max_turns == 15
    *_, (_, reward, terminated, _, info) = [env.step(action) for action in env.oracle()]
    assert (reward, terminated, info["success"], info["score"]) == (10.0, True, True, 1.0)
    env.reset(options={"goal": 3})
    env.step(f"search[{env.instruction}]")
    env.step(env.admissible_actions[2])
    assert "click[buy now]" in env.admissible_actions
    _, reward, *_, info = env.step("click[buy now]")
    assert reward == (10.0 if info["score"] == 1.0 else 0.0)


def test_a_goal_is_asked_for_by_its_number_or_its_instruction() -> None:
    env = WebShopEnv(data=DATA)
    goal = goals.read(str(DATA)).goals[4321]
    assert goal.instruction in env.reset(options={"goal": 4321})[0]
    by_number = env.task
    env.reset(options={"instruction": goal.instruction})
    assert env.goal == goal and by_number is not None and by_number.id == "webshop-goal-4321"
    text, info = env.reset(options={"goal": 7, "instruction": "Find me a spoon"})
    assert (
        text.startswith("WebShop [SEP] Instruction: [SEP] Find me a spoon [SEP]") and info["goal"] == "Find me a spoon"
    )
    assert env.goal == goals.read(str(DATA)).goals[7]
    with pytest.raises(GameError, match=r"no goal 6910: the files have 6910, numbered from 0"):
        env.reset(options={"goal": 6910})
    with pytest.raises(GameError, match="no goal -1"):
        env.reset(options={"goal": -1})
    for unknown in ("webshop-goal-04321", "webshop-tiny-train-1", "webshop-goal-"):
        with pytest.raises(GameError, match=f"no task '{unknown}'"):
            env.reset(options={"task": unknown})


@pytest.mark.slow
@pytest.mark.parametrize("folder", [DATA, DATA / "tiny"], ids=["small", "tiny"])
def test_the_environment_keeps_the_contract_on_real_products(folder: Path) -> None:
    if not any(folder.glob("items_shuffle*")):
        pytest.skip(f"no products in {folder}")
    checks = check_env(lambda: make(ID, data=str(folder), mended=True))
    assert not failed(checks), render(checks)


def test_the_oracle_finds_real_products() -> None:
    env = WebShopEnv(data=DATA, mended=True, max_turns=20)
    won = 0
    for number in range(60):
        env.reset(options={"goal": number})
        info: dict[str, Any] = {}
        for action in env.oracle():
            info = env.step(action)[-1]
        won += info["success"]
    assert won >= 57
