"""agentrl/Arithmetic-v0: the right number wins, splits share no expression, and the player that slips says only known words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentrl
from agentrl.chat.wordlevel import words
from agentrl.env import SPLITS
from agentrl.env_check import check_env, failed, render
from agentrl.envs.arithmetic.env import ArithmeticEnv
from agentrl.envs.arithmetic.problems import HELD_OUT, LEVELS, PEOPLE, THINGS, Tasks, task
from agentrl.errors import ConfigError, GameError
from agentrl.tools.calculator import calculator
from agentrl.types import Task

ID = "agentrl/Arithmetic-v0"
ENV = ArithmeticEnv(format="python")
problems = st.builds(
    task, st.sampled_from(sorted(LEVELS)), st.sampled_from(SPLITS), st.integers(min_value=0, max_value=1_900)
)


@pytest.mark.slow
def test_the_environment_keeps_the_contract() -> None:
    checks = check_env(lambda: agentrl.env.make(ID), n_tasks=8, n_walks=4)
    assert not failed(checks), render(checks)
    assert {check.name for check in checks if check.status == "skip"} == {
        "admissible",
        "admissible_accepted",
        "failure",
    }


@given(problems)
def test_the_oracle_wins_and_another_number_does_not(wanted: Task) -> None:
    value = wanted.reference["value"]
    assert value == calculator(wanted.reference["expression"])
    for answer, won in (
        (str(value), True),
        (f"{value}.0", True),
        (f"{value}.", True),
        (str(value + 1), False),
        ("", None),
    ):
        ENV.reset(options={"task": wanted})
        call, last = ENV.oracle()
        text, reward, over, _, info = ENV.step(call)
        assert str(value) in text and (reward, over, info["n_tool_calls"]) == (0.0, False, 1)
        assert ENV.oracle() == [last] == [str(value)]
        _, reward, over, _, info = ENV.step(answer)
        assert (reward, over, info["success"]) == (float(bool(won)), won is not None, bool(won))


@given(problems)
def test_a_problem_holds_the_numbers_of_its_expression_in_order(wanted: Task) -> None:
    written = [word.strip() for word in words([wanted.options["prompt"]]) if word.strip().isdecimal()]
    used = [word.strip() for word in words([wanted.reference["expression"]]) if word.strip().isdecimal()]
    assert set(used) <= set(written)
    level = LEVELS[wanted.id.split("/")[0]]
    assert 0 < wanted.reference["value"] <= level.value
    if not level.asides:
        assert set(used) == set(written)


@pytest.mark.parametrize("level", LEVELS)
def test_no_split_shares_an_expression_with_train_and_unseen_names_are_unseen(level: str) -> None:
    found = {split: Tasks(level, split)[:100] for split in SPLITS}
    expressions = {split: {task.reference["expression"] for task in tasks} for split, tasks in found.items()}
    assert not expressions["train"] & (expressions["valid_seen"] | expressions["valid_unseen"])
    for split, tasks in found.items():
        for names in (PEOPLE, THINGS):
            held = [
                any(name in task.options["prompt"].rstrip(".").split() for name in names[-HELD_OUT:]) for task in tasks
            ]
            assert all(held) if split == "valid_unseen" else not any(held)


def test_the_state_is_what_was_computed() -> None:
    wanted = task("tiny", "train", 1)
    keys = []
    for expressions in (("1 + 1", "2 + 2"), ("2 + 2", "1 + 1"), ("1 + 1",), ()):
        ENV.reset(options={"task": wanted})
        for expression in expressions:
            ENV.step(f"[calculator(expression='{expression}')]")
        keys.append(ENV.state_key())
    assert keys[0] == keys[1] and len(set(keys)) == 3
    snapshot = ENV.snapshot()
    ENV.step("1")
    assert ENV.state_key() != keys[3] and ENV.oracle() == []
    ENV.restore(snapshot)
    assert ENV.state_key() == keys[3]


@pytest.mark.parametrize("level", LEVELS)
def test_the_vocabulary_has_every_word_that_a_careless_player_says(level: str) -> None:
    env = ArithmeticEnv(level=level, format="python", describe="none")
    known = set(words(env.vocabulary()))
    for split in SPLITS:
        for wanted in env.tasks(split)[:100]:
            text, _ = env.reset(options={"task": wanted})
            player, heard, over = env.expert(noise=0.5, seed=wanted.seed), [text], False
            while not over:
                heard.append(player.act(text, [], ""))
                text, _, over, _, _ = env.step(heard[-1])
                heard.append(text)
            assert not set(words(heard)) - known


def test_a_careless_player_is_between_random_and_right() -> None:
    won = [agentrl.evaluate(ID, f"expert:noise={noise}", n=60, seed=0)["success_rate"] for noise in (0.0, 0.3, 1.0)]
    assert won[0] == 1.0 > won[1] > won[2]


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tiny'"):
        agentrl.env.make(ID, level="tinny")
    with pytest.raises(GameError, match="ids are like"):
        ENV.reset(options={"task": "tiny/train/01"})
    with pytest.raises(GameError, match="'value'"):
        ENV.reset(options={"task": Task(id="mine", options={"prompt": "What is 1 + 1?"}, reference="2")})
    ENV.reset(options={"task": Task(id="mine", options={"prompt": "What is 1 + 1?"}, reference={"value": 2})})
    assert ENV.oracle() == ["2"] and ENV.step("2")[1] == 1.0


@pytest.mark.slow  # it loads transformers
def test_the_recipe_begins_with_its_own_warm_start() -> None:
    pytest.importorskip("transformers")
    from agentrl import build
    from agentrl.config import find, load
    from agentrl.scenes import Scenes

    config = load(find("arithmetic-grpo"))
    scenes = Scenes.of(config)
    tokenizer = build.models(config, scenes.pools).tokenizer
    text = build.tasks_of(scenes.pools[0], "valid_seen")[0].options["prompt"]
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    scenes.close()
