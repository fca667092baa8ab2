"""The shop environment: its contract, its pages, who plays it, what goes wrong."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentrl
from agentrl.env import make
from agentrl.env_check import check_env, failed, render
from agentrl.envs.webshop import generate
from agentrl.envs.webshop.categories import HELD_OUT
from agentrl.envs.webshop.env import WebShopEnv
from agentrl.envs.webshop.expert import Expert
from agentrl.envs.webshop.site import Site, State, parsed
from agentrl.errors import ConfigError, GameError
from agentrl.types import Task

ID = "agentrl/WebShop-v0"
LEVELS = tuple(generate.LEVELS)


def started(**options: Any) -> WebShopEnv:
    env = WebShopEnv(**options)
    env.reset(options={"goal": 0})
    return env


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_the_environment_keeps_the_contract(level: str) -> None:
    checks = check_env(lambda: make(ID, difficulty=level))
    assert not failed(checks), render(checks)
    assert [check.name for check in checks if check.status not in ("pass", "skip")] == []


@pytest.mark.slow
def test_it_keeps_the_contract_with_marked_pages() -> None:
    checks = check_env(lambda: make(ID, observation="text_rich", show_attributes=True, reward="success"))
    assert not failed(checks), render(checks)


@pytest.mark.parametrize("level", LEVELS)
def test_the_oracle_wins_everywhere(level: str) -> None:
    for split in ("train", "valid_seen", "valid_unseen"):
        played = agentrl.rollout(ID, "oracle", n=8, split=split, options={"difficulty": level})
        assert [t.task.id for t in played if not t.success] == []


@pytest.mark.parametrize(("level", "least"), [("tiny", 29), ("easy", 28), ("medium", 22), ("full", 18)])
def test_the_expert_mostly_wins_by_reading(level: str, least: int) -> None:
    for mode in ("text", "text_rich"):
        played = agentrl.rollout(ID, "expert", n=30, options={"difficulty": level, "observation": mode})
        assert sum(t.success for t in played) >= least


def test_an_expert_that_only_strays_rarely_wins() -> None:
    played = agentrl.rollout(ID, "expert:noise=1", n=60, options={"difficulty": "tiny"})
    assert sum(t.success for t in played) < 6
    with pytest.raises(GameError, match=r"wanted noise in \[0, 1\], got 2"):
        Expert(noise=2)


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_episode() -> None:
    env = started(difficulty="tiny")
    wish = env.goal
    text, reward, terminated, truncated, info = env.step(f"search[{wish.attributes[0]} {wish.query}]")
    assert text.startswith(f"Instruction: [SEP] {wish.instruction} [SEP] Back to Search [SEP] Page 1 (Total results: ")
    assert (reward, terminated, truncated, info["valid"], info["success"]) == (0.0, False, False, True, False)
    assert info["page"] == text.removeprefix(f"Instruction: [SEP] {wish.instruction} [SEP] ")
    assert info["query"] == f"{wish.attributes[0]} {wish.query}" and info["visited"] == "" == info["clicked"]
    env.reset(options={"goal": 0})
    *way, buy = env.oracle()
    for action in way:
        text, *_, info = env.step(action)
    (value,) = wish.options.values()
    assert info["clicked"] == value and info["visited"] == wish.asin and " [SEP] Buy Now" in text
    text, reward, terminated, _, info = env.step(buy)
    assert text.startswith("Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in")
    assert f'asin [SEP] {wish.asin} [SEP] options [SEP] {{"color": "{value}"}} [SEP] attrs' in text
    assert (reward, terminated, info["success"], info["score"], info["cheap"]) == (1.0, True, True, 1.0, True)
    assert env.step("click[buy now]")[1:4] == (0.0, True, False)


def test_marked_pages_show_what_was_clicked_and_visited() -> None:
    env = started(difficulty="tiny", observation="text_rich")
    wish, (value,) = env.goal, env.goal.options.values()
    assert (
        env.reset(options={"goal": 0})[0] == f"WebShop\nInstruction: \n{wish.instruction}\n[button] Search [button_]\n"
    )
    text = env.step(f"search[{wish.attributes[0]} {wish.query} {value}]")[0]
    assert f"\n\n[button] {wish.asin} [button_]\n{wish.title}\n$" in text
    text = env.step(f"click[{wish.asin}]")[0]  # whatever its case
    assert (
        f"\ncolor\n  [button] {wish.options['color']} [button_]\n" in text
        or f"\n  [button] {value} [button_]\n" in text
    )
    text = env.step(f"click[{value}]")[0]
    assert text.startswith(
        f"You have clicked {value}.\nInstruction:\n{wish.instruction}\n[button] Back to Search [button_]\n"
    )
    assert f"\n  [clicked button] {value} [clicked button_]\n" in text and text.endswith("[button] Buy Now [button_]\n")
    text = env.step("click[< prev]")[0]
    assert f"\n[clicked button] {wish.asin} [clicked button_]\n" in text
    text = env.step("click[back to search]")[0]
    assert text == env.reset(options={"goal": 0})[0]


def test_the_pages_of_a_product_and_the_way_back() -> None:
    env = started(difficulty="easy", show_attributes=True)
    shown = {}
    env.step(f"search[{env.instruction}]")
    env.step(f"click[{env.goal.asin}]")
    value = next(iter(env.goal.options.values()))
    env.step(f"click[{value}]")
    for name in ("description", "features", "reviews", "attributes"):
        shown[name] = env.step(f"click[{name}]")[-1]["page"]
        assert env.admissible_actions == ["click[back to search]", "click[< prev]"]
        info = env.step("click[< prev]")[-1]
        assert info["clicked"] == value and "click[buy now]" in info["admissible_actions"]
    assert shown["reviews"] == "Back to Search [SEP] < Prev" and " makes each " in shown["description"]
    assert all(f"It is {attribute}." in shown["features"] for attribute in env.goal.attributes)
    assert all(f"[SEP] {attribute} [SEP]" in shown["attributes"] for attribute in env.goal.attributes)
    info = env.step("click[< prev]")[-1]
    assert info["clicked"] == "" and "click[next >]" in info["admissible_actions"]
    first = info["page"]
    second = env.step("click[next >]")[-1]["page"]
    assert (
        second.startswith("Back to Search [SEP] Page 2 (Total results: ")
        and "[SEP] < Prev [SEP] Next > [SEP]" in second
    )
    assert env.step("click[< prev]")[-1]["page"] == first


def test_pages_go_on_behind_the_last_result() -> None:
    env = started(difficulty="tiny")
    env.step(f"search[{env.instruction}]")
    *_, text = [env.step("click[next >]")[0] for _ in range(9)]
    assert text.endswith("[SEP] < Prev [SEP] Next >") and "Page 10 " in text


def test_special_queries() -> None:
    env = started(difficulty="easy")
    catalogue = env._site.catalogue
    for query, right in (
        (f"<q> {env.goal.query}", lambda product: product.query == env.goal.query),
        (f"<c> {env.goal.category}", lambda product: product.category == env.goal.category),
        (f"<a> {env.goal.attributes[0]}", lambda product: env.goal.attributes[0] in product.attributes),
    ):
        env.step(f"search[{query}]")
        hits = env._state.hits
        assert len(hits) > 1 and all(right(catalogue.product(place)) for place in hits), query
    env.step("search[<r>]")
    found = env._state.hits
    assert len(set(found)) == len(found) == 50
    env.step("search[<r>]")
    assert env._state.hits == found


@pytest.mark.parametrize(
    "action",
    [
        "",
        "look",
        "search",
        "search[]",
        "click[]",
        "click[search]",
        "click[buy now]",
        "click[nothing]",
        "buy[x]",
        "[x]",
        "\x00",
    ],
)
def test_what_is_no_action_does_nothing(action: str) -> None:
    env = started(difficulty="tiny")
    before = env.state_key()
    text, reward, terminated, _, info = env.step(action)
    assert (reward, terminated, info["valid"], env.state_key()) == (0.0, False, False, before)
    assert text == env.reset(options={"goal": 0})[0]
    assert action not in info["admissible_actions"]


@given(st.text("ab[]\n S", max_size=12))
def test_actions_are_cut_as_upstream_cuts_them(action: str) -> None:
    match = re.match(r"(.+)\[(.+)\]", action.strip())
    assert parsed(action) == (tuple(part.lower() for part in match.groups()) if match else ("", ""))


def test_two_options_with_one_value_are_the_later_ones_as_on_the_site() -> None:
    product = generate.shop("tiny", "train", 0)[0].product(0)
    from dataclasses import replace

    from agentrl.envs.webshop.catalogue import catalogue_of

    site = Site(catalogue_of([replace(product, options={"top": ("red", "blue"), "sole": ("red",)})]))
    state = State(page="item", place=0)
    assert list(site.clickables(state))[-2:] == ["red", "blue"]
    assert site.click(state, site.clickables(state)["red"]).options == {"sole": "red"}


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("level", LEVELS)
def test_splits_share_no_instruction_and_unseen_kinds_stay_unseen(level: str) -> None:
    wanted: dict[str, set[str]] = {}
    for split in generate.SPLIT_SIZES:
        found = [generate.shop_of(task)[1] for task in generate.tasks(level, split)[:60]]
        wanted[split] = {goal.instruction for goal in found}
        assert {goal.query in HELD_OUT for goal in found} == {split == "valid_unseen"}
    assert not wanted["train"] & wanted["valid_seen"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_goal_stands_among_look_alikes_that_do_not_meet_it(level: str) -> None:
    from agentrl.envs.webshop.reward import rule_nouns, score

    catalogue, goals = generate.shop(level, "train", 0)
    rules = generate.LEVELS[level]
    assert len(catalogue) >= rules.products and len(goals) == rules.goals
    for goal in goals[:20]:
        found = [(catalogue.product(place), catalogue.price(place)) for place in range(len(catalogue))]
        kin = [(product, price) for product, price in found if product.query == goal.query]
        met = [
            product.asin for product, price in kin if score(product, price, goal.options, goal, rule_nouns).total == 1.0
        ]
        honest = [p for p, _ in kin if all(value in p.options.get(name, ()) for name, value in goal.options.items())]
        assert goal.asin in met and len(kin) > rules.look_alikes
        assert {product.asin for product in honest} - {*met} or len(honest) < len(kin)


def test_ids_and_numbers_that_nobody_knows() -> None:
    env = WebShopEnv(difficulty="tiny", split="valid_seen")
    for wanted, message in (
        ({"task": "webshop-tiny-train-100000"}, "train has 100000 tasks, numbered from 0"),
        ({"task": "webshop-huge-train-1"}, "generated ones are called like"),
        ({"goal": 1000}, "no goal 1000: valid_seen has 1000, numbered from 0"),
        ({"goal": -1}, "no goal -1"),
        ({"goal": "first"}, "wanted the goal as a number or in WebShop's form; got 'first'"),
        ({"instruction": ""}, "wanted the instruction as a text; got ''"),
        ({"goal": 1, "task": "webshop-tiny-train-1"}, "wanted a task or a goal; got both"),
        ({"gaol": 1}, r"reset has no option 'gaol'. Did you mean 'goal'\?"),
        ({"task": Task(id="mine")}, "task 'mine' is no generated one"),
    ):
        with pytest.raises(GameError, match=message) as caught:
            env.reset(options=wanted)
        assert "\n" not in str(caught.value)
    for asked in (lambda env: env.step("search[x]"), lambda env: env.oracle(), lambda env: env.failure()):
        with pytest.raises(GameError, match="call reset first"):
            asked(WebShopEnv())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "tinny"}, "Did you mean 'tiny'"),
        ({"split": "test"}, "wanted a split among"),
        ({"observation": "html"}, "wanted an observation among text, text_rich; got 'html'"),
        ({"reward": "all"}, "wanted a reward among"),
        ({"protocol": "verl"}, "wanted a protocol among"),
        ({"page_size": 0}, "wanted page_size as a number from 1; got 0"),
        ({"difficulty": 3}, "no level is called '3'. Known: easy, full, medium, tiny"),
        ({"difficulty": "tinny", "data": "."}, "Did you mean 'tiny'"),
        ({"human": True}, "human is for the publisher's files; name their folder as data"),
        ({"price_seed": 5}, "price_seed is for the publisher's files"),
        ({"reward_scale": "10"}, "wanted reward_scale as a number; got '10'"),
        ({"reward_scale": float("nan")}, "wanted reward_scale as a number; got nan"),
    ],
)
def test_bad_options_are_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, GameError), match=message):
        WebShopEnv(**options)


def test_turns_rewards_and_instructions_can_be_set() -> None:
    env = started(difficulty="tiny", reward="success", reward_scale=10, max_turns=5, page_size=2)
    assert env.task is not None and env.task.max_turns == 5 == env.tasks("train")[3].max_turns
    text, info = env.reset(options={"goal": 2, "instruction": "Buy what you like"})
    assert (
        text == "WebShop [SEP] Instruction: [SEP] Buy what you like [SEP] Search"
        and info["goal"] == "Buy what you like"
    )
    env.step("search[throw pillows area rugs dresses shirts creams speakers]")
    clicks = [
        action
        for action in env.admissible_actions
        if action.startswith("click[b") and action != "click[back to search]"
    ]
    assert len(clicks) == 2
    env.step(clicks[0])
    _, reward, *_, info = env.step("click[buy now]")
    assert info["score"] < 1 and reward == 0.0


@pytest.mark.parametrize("instruction", ["rugs [new] x]", "two\nlines", "[a]", "red " * 5000])
def test_any_instruction_can_be_searched_for(instruction: str) -> None:
    env = started(difficulty="tiny")
    _, info = env.reset(options={"goal": 1, "instruction": instruction})
    assert info["goal"] == instruction
    (listed,) = info["admissible_actions"]
    assert env.step(listed)[4]["valid"]
    env.reset(options={"goal": 1, "instruction": instruction})
    for action in env.oracle():
        *_, over, _, info = env.step(action)
        assert info["valid"]
    assert over and info["success"]


# ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_state_key_is_the_page_the_product_and_the_options_but_not_the_way() -> None:
    env = started(difficulty="tiny")
    query, asin = f"search[{env.instruction}]", f"click[{env.goal.asin}]"
    (value,) = env.goal.options.values()
    keys = []
    for way in ((query, asin), (query, "click[next >]", "click[< prev]", asin, "click[features]", "click[< prev]")):
        env.reset(options={"goal": 0})
        for action in way:
            env.step(action)
        keys.append(env.state_key())
    env.step(f"click[{value}]")
    assert keys[0] == keys[1] != env.state_key()


def test_a_snapshot_goes_on_elsewhere() -> None:
    env, other = started(difficulty="tiny"), WebShopEnv(difficulty="tiny")
    env.step(f"search[{env.instruction}]")
    env.step(env.oracle()[0])
    other.restore(pickle.loads(pickle.dumps(env.snapshot())))
    assert other.state_key() == env.state_key() and other.oracle() == env.oracle() and other.failure() == env.failure()
    assert [other.step(action)[:3] for action in other.oracle()] == [env.step(action)[:3] for action in env.oracle()]


def test_failures_are_named() -> None:
    env = started(difficulty="tiny")
    assert env.failure() == "never_found"
    env.step(f"search[{env.instruction}]")
    assert env.failure() is None
    other = next(action for action in env.admissible_actions[3:] if env.goal.asin.lower() not in action)
    env.step(other)
    env.step("click[buy now]")
    assert env.failure() == "wrong_action"


@pytest.mark.parametrize("options", [{}, {"observation": "text_rich"}, {"difficulty": "easy"}])
def test_the_vocabulary_holds_every_word_of_the_pages(options: dict[str, Any]) -> None:
    from agentrl.chat.wordlevel import words

    env = WebShopEnv(**options)
    known = {*words(env.vocabulary())}
    for split in ("train", "valid_unseen"):
        env.split = split
        for number in range(12):
            text, info = env.reset(options={"goal": number})
            expert = env.expert(noise=0.3, seed=number)
            over = False
            for _ in range(8):
                action = expert.act(text, info["admissible_actions"], info["goal"])
                said = [
                    text,
                    action,
                    *(value for value in info.values() if isinstance(value, str) and value != info["task_id"]),
                ]
                # an asin of a large shop is no word; how it is cut into letters and numbers is the model's affair
                missing = {word for word in words(said) if word not in known and not _of_asins(word, env)}
                assert missing == set() and not over
                text, _, over, _, info = env.step(action)
                if over:
                    break


def _of_asins(word: str, env: WebShopEnv) -> bool:
    catalogue = env._site.catalogue
    asins = [catalogue.product(place).asin for place in range(len(catalogue))]
    return env.difficulty != "tiny" and any(word.strip().upper() in asin for asin in asins)
