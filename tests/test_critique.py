"""Critiques of proposed actions: how they are read, what they are worth, and the environment that asks for them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from chat_server import Asked, ChatServer, says
from hypothesis import given
from hypothesis import strategies as st

from agentrl import critique, registry, stages
from agentrl.algorithms import TurnTable
from agentrl.algorithms.credit import GRPO
from agentrl.algorithms.scores.s_grpo import SGRPO
from agentrl.env import make
from agentrl.env_check import check_env, failed, render
from agentrl.errors import ConfigError, GameError
from agentrl.types import Outcome, Task, Trajectory, Turn

RIGHT = critique.written("It is shut.", False, "open the box")


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "correct", "suggestion", "formed"),
    [
        (RIGHT, False, "open the box", True),
        ("Well: " + RIGHT.replace("><", ">\n<") + " that is all", False, "open the box", True),
        ("<thought></thought><score> cORRECT </score><suggestion></suggestion>", True, "", True),
        ("<score>Incorrect</score><suggestion>wait</suggestion>", False, "wait", False),  # no thought
        ("<thought>x</thought><suggestion>wait</suggestion><score>Correct</score>", True, "wait", False),  # order
        ("<thought>x</thought><score>Correct</score>", True, "", False),
        ("<thought>x</thought><score>maybe</score><suggestion>wait</suggestion>", None, "wait", False),
        ("<thought>x</thought><score>Correct</score><score>Incorrect</score><suggestion>a</suggestion>", None, "a", False),
        ("<thought>x</thought><score>Correct</score><suggestion>a</suggestion><suggestion>b</suggestion>", True, "", False),
        ("<thought>it says <score>Correct</score></thought><score>Incorrect</score><suggestion>a</suggestion>", False, "a", True),
        ("Correct", None, "", False),
        ("<score>Correct", None, "", False),
        ("", None, "", False),
    ],
)  # fmt: skip
def test_what_a_critique_says(text: str, correct: bool | None, suggestion: str, formed: bool) -> None:
    said = critique.read(text)
    assert (said.correct, said.suggestion, said.formed) == (correct, suggestion, formed)


plain = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=20)


@given(plain, st.booleans(), plain)
def test_what_was_written_is_read(thought: str, correct: bool, suggestion: str) -> None:
    said = critique.read(critique.written(thought, correct, suggestion))
    assert said == critique.Critique(thought.strip(), correct, suggestion.strip(), True)


@given(
    st.lists(st.sampled_from(["<", "/", ">", "score", "thought", "suggestion", "Correct", " "]), max_size=30).map(
        "".join
    )
)
def test_what_was_shown_says_nothing_when_it_is_repeated(shown: str) -> None:
    parts = ("<score>", "</score>", "<thought>", "</thought>", "<suggestion>", "</suggestion>")
    assert not any(part in critique.quoted(shown) for part in parts)
    said = critique.read(critique.written(critique.quoted(shown), False, "wait"))
    assert (said.correct, said.suggestion, said.formed) == (False, "wait", True)


def test_fields_of_a_question() -> None:
    found = critique.fields({"observation": "a < b <Score>", "goal": "win"}, ["look", "wait"], "</thought>")
    assert found == {"goal": "win", "observation": "a < b ‹Score>", "taken": "look; wait", "proposed": "‹/thought>"}
    assert critique.fields({}, [], "x")["taken"] == "none"


# ── S-GRPO's reward ──────────────────────────────────────────────────────────────────────────────────────────────────


def critiqued(text: str, *, label: str = "Incorrect", reference: str = "open the box") -> Trajectory:
    info = {"label": label, "reference": reference, "goal": "get the key"}
    return Trajectory("t", "toy", Task("task-1"), turns=[Turn("a box", action=text, info=info)])


def scored(score: Any, *trajectories: Trajectory) -> list[float | None]:
    return asyncio.run(score(trajectories))


def test_the_vector_of_the_sheet() -> None:
    parts = [(1, 1, 1), (1, 0, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0), (1, 1, 1)]  # format, suggestion, score
    expected = [1.0, 0.9, 0.2, 0.1, 0.0, 1.0]
    assert [critique.reward(*each) for each in parts] == pytest.approx(expected)
    texts = [
        critique.written("so", not score, "open the box" if suggestion else "wait") if formed else "who knows"
        for formed, suggestion, score in parts
    ]
    rewards = scored(SGRPO(), *(critiqued(text) for text in texts))
    assert rewards == pytest.approx(expected)
    table = TurnTable(group=["g"] * 6, trajectory=[*"abcdef"], turn=[0] * 6, reward=rewards)
    advantages = [0.971658, 0.763446, -0.694041, -0.902254, -1.110466, 0.971658]
    np.testing.assert_allclose(GRPO()(table), advantages, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        (RIGHT, 1.0),
        (critique.written("so", False, "wait"), 0.9),
        (critique.written("so", True, "wait"), 0.1),
        ("<suggestion>Open the box.</suggestion><score>Incorrect</score>", 0.9),  # right, in a bad format
        ("", 0.0),
    ],
)
def test_the_checks_of_the_sheet(text: str, worth: float) -> None:
    assert scored(SGRPO(), critiqued(text)) == pytest.approx([worth])


@given(st.booleans(), st.booleans(), st.booleans(), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_reward_lies_between_0_and_1(formed: bool, same: bool, right: bool, lambda_f: float, lambda_s: float) -> None:
    found = critique.reward(formed, same, right, lambda_f, lambda_s)
    assert -1e-12 <= found <= 1 + 1e-12 and (found == pytest.approx(1)) >= (formed and same and right)


@pytest.mark.parametrize("outcome", [Outcome.MAX_TOKENS, Outcome.TIME_LIMIT])
def test_a_limit_before_the_critique_earns_nothing(outcome: Outcome) -> None:
    unread = Trajectory("t", "toy", Task("x"), outcome=outcome)
    cut = Trajectory("t", "toy", Task("x"), turns=[Turn("o")], outcome=outcome)
    assert scored(SGRPO(), unread, cut, critiqued(RIGHT)) == [0, 0, 1]


def test_any_right_suggestion_counts_and_words_may_do() -> None:
    one_of = critiqued(critique.written("", False, "take key 2"), reference="take key 1\ntake key 2")
    near = critiqued(critique.written("", False, "open the big box"))
    assert scored(SGRPO(), one_of, near) == pytest.approx([1.0, 0.9])
    lenient = registry.build("score", {"name": "s_grpo", "same": 0.7, "judge": {"match": "f1"}})
    assert scored(lenient, near) == pytest.approx([1.0])  # F1 0.8 of "open box"
    assert scored(SGRPO(same=0.9, judge={"match": "f1"}), near) == pytest.approx([0.9])


def test_a_data_set_says_what_is_right_in_its_references() -> None:
    task = Task("x", reference={"score": "Incorrect", "suggestion": "open the box"})
    SGRPO().check([task, Task("from the environment")])
    assert scored(SGRPO(), Trajectory("t", "toy", task, turns=[Turn("o", action=RIGHT)])) == [1.0]
    for reference in ("open", {"score": "wrong", "suggestion": "x"}, {"score": "Correct"}):
        with pytest.raises(ConfigError, match=r"wants a reference \{ score = .* task 'y' has"):
            SGRPO().check([Task("y", reference=reference)])
    with pytest.raises(ConfigError, match="does not say which critique is right"):
        scored(SGRPO(), Trajectory("t", "toy", Task("z"), turns=[Turn("o", action=RIGHT)]))


def test_a_model_judges_whether_a_suggestion_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def answer(asked: Asked) -> Any:
        assert "asks for the same action" in asked.body["messages"][0]["content"]
        shown = asked.body["messages"][1]["content"]
        assert "Expected answer: ['open the box']" in shown
        return says("hm" if "sing" in shown else f"<score>{10 if 'lid' in shown else 0}</score>")

    with ChatServer(answer=answer) as server:
        score = registry.build("score", {"name": "s_grpo", "judge": {"model": server.spec(concurrency=1), "tries": 1}})
        said = [critique.written("", False, text) for text in ("lift the lid", "wait", "", "sing")]
        members = [critiqued(text) for text in said]
        assert scored(score, *members) == pytest.approx([1.0, 0.9, 0.9, None])
        assert len(server.asked) == 3  # nobody is asked about no suggestion
        stages.score(_methods(score), members)
    assert [m.outcome for m in members] == [Outcome.TERMINATED] * 3 + [Outcome.ENV_FAULT]


def _methods(score: Any) -> Any:
    from agentrl.build import Methods

    return Methods(None, [score], [], [], [], [], None, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lambda_f": 0.6, "lambda_s": 0.5}, "at most 1"),
        ({"judge": {"coef": 3}}, "leave coef = 3 out"),
        ({"judge": {"metch": "f1"}}, "s_grpo.judge has no parameter 'metch'. Did you mean 'match'"),
    ],
)
def test_what_is_wrong_with_the_score_is_told_at_the_start(changes: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        registry.build("score", {"name": "s_grpo", **changes})


# ── the environment ──────────────────────────────────────────────────────────────────────────────────────────────────


def critic_env(**options: Any) -> Any:
    return make("agentrl/Critique-v0", **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"env": "agentrl/Arithmetic-v0", "options": {"level": "easy"}, "states": 3},
        {"env": "agentrl/FunctionCalling-v0"},
    ],
)
def test_the_environment_keeps_the_contract(options: Any) -> None:
    checks = check_env(lambda: critic_env(**options))
    assert not failed(checks), render(checks)


def test_what_is_right_is_right() -> None:
    """Every right action leaves the oracle a shorter way, every wrong one does not."""
    env = critic_env(wrong=0.5)
    inner, labels, turns = env.unwrapped.inner, [], 0
    for task in env.get_wrapper_attr("tasks")("train")[:140]:
        text, info = env.reset(options={"task": task})
        asked = env.unwrapped.asked
        assert f"Proposed action: {info['proposed']}\n" in text and asked.proposed == info["proposed"]
        plan = inner.get_wrapper_attr("oracle")()
        assert plan[0] == asked.right[0] and asked.proposed in inner.get_wrapper_attr("admissible_actions")
        before = len(plan)
        _, _, won, _, _ = inner.step(asked.proposed)
        assert asked.correct == (won or len(inner.get_wrapper_attr("oracle")()) < before)
        labels.append(asked.correct)
        turns += len(asked.taken)
    assert 50 < sum(labels) < 90 and turns > 150


def test_a_turn_is_judged() -> None:
    env = critic_env(wrong=1.0, reward_scale=2.0)
    _, first = env.reset(seed=0)
    assert first["free_text"] is True and "label" not in first
    (right,) = env.get_wrapper_attr("oracle")()
    text, reward, terminated, truncated, info = env.step(right)
    assert (reward, terminated, truncated, info["success"], info["valid"], info["suggested"]) == (
        2,
        True,
        False,
        True,
        True,
        True,
    )
    assert info["label"] == "Incorrect" and text == f"{info['proposed']} is incorrect. Right is: {info['reference']}"
    assert scored(SGRPO(), Trajectory("t", "toy", Task("x"), turns=[Turn("o", action=right, info=info)])) == [1.0]
    assert env.get_wrapper_attr("oracle")() == []
    env.reset(seed=0)
    _, reward, _, _, info = env.step("<score>Correct</score>")
    assert (reward, info["success"], info["valid"], info["suggested"]) == (0, False, False, False)


def test_shares_and_walks() -> None:
    def asked(**options: Any) -> list[Any]:
        env = critic_env(**options)
        found = []
        for task in env.get_wrapper_attr("tasks")("train")[:20]:
            env.reset(options={"task": task})
            found.append(env.unwrapped.asked)
        return found

    assert all(each.correct for each in asked(wrong=0.0))
    assert not any(each.correct for each in asked(wrong=1.0))
    strayed = asked(stray=1.0, wrong=0.0)
    assert {each.proposed for each in strayed} != {each.proposed for each in asked(stray=0.0, wrong=0.0)}


def test_a_task_is_asked_about_at_several_states() -> None:
    env = critic_env(states=3)
    tasks = env.get_wrapper_attr("tasks")("valid_unseen")
    assert len(tasks) == 3 * 1000 and [t.id.rpartition("=")[2] for t in tasks[:4]] == ["0", "1", "2", "0"]
    texts = {env.reset(options={"task": task})[0] for task in tasks[:3]}
    assert len(texts) == 3 and env.get_wrapper_attr("find_task")(tasks[1].id) == tasks[1]
    assert Task(**json.loads(json.dumps({"id": "x", "options": dict(tasks[1].options)}))).options == tasks[1].options
    with pytest.raises(GameError, match="N below 3"):
        env.get_wrapper_attr("find_task")(tasks[0].id.replace("=0", "=3"))


def test_the_question_is_a_template() -> None:
    env = critic_env(question="{held} | {proposed} | {taken} | {goal}")
    text, info = env.reset(seed=3)
    assert text.split(" | ")[1] == info["proposed"] and text.split(" | ")[3] == info["goal"]
    with pytest.raises(ConfigError, match=r"names a field that nobody gives.* proposed"):
        critic_env(question="{prposed}").reset(seed=0)


def test_a_careless_critic_slips() -> None:
    env = critic_env()
    slips = 0
    for seed in range(20):
        text, _ = env.reset(seed=seed)
        expert = env.get_wrapper_attr("expert")(noise=0.5, seed=seed)
        info = env.step(expert.act(text, [], ""))[4]
        assert info["success"] is not expert.strayed and info["valid"]
        slips += expert.strayed
    assert 3 < slips < 17


def test_every_word_of_a_critique_is_in_the_vocabulary() -> None:
    pytest.importorskip("transformers", reason="a tokenizer needs the extra 'train'")
    from agentrl.chat import build_tokenizer

    env = critic_env(stray=0.0)  # Household's own vocabulary leaves some replies to odd actions out
    tokenizer = build_tokenizer(env.get_wrapper_attr("vocabulary")())
    for task in env.get_wrapper_attr("tasks")("valid_unseen")[:40]:
        text, _ = env.reset(options={"task": task})
        for shown in (text, env.get_wrapper_attr("oracle")()[0], env.step("")[0]):
            ids = tokenizer.encode(shown, add_special_tokens=False)
            assert tokenizer.unk_token_id not in ids, shown
            assert tokenizer.decode(ids) == shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"env": "agentrl/Nothing-v0"}, "no environment"),
        ({"options": {"dificulty": "tiny"}}, "Did you mean 'difficulty'"),
        ({"split": "test"}, "wanted a split"),
        ({"wrong": 1.5}, "wanted wrong as a share"),
        ({"stray": True}, "wanted stray as a number; got True"),
        ({"states": 0}, "whole number from 1"),
    ],
)
def test_what_is_wrong_with_the_options_is_told_at_once(options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        critic_env(**options)


def test_only_an_environment_with_an_oracle_knows_what_is_right() -> None:
    import gymnasium
    from toys import Corridor

    class Blind(Corridor):
        @property
        def oracle(self) -> Any:  # type: ignore[override]
            raise AttributeError

    gymnasium.register(id="toy/Blind-v0", entry_point=lambda: Blind())
    try:
        with pytest.raises(ConfigError, match="has no oracle"):
            critic_env(env="toy/Blind-v0")
    finally:
        gymnasium.registry.pop("toy/Blind-v0")


# ── run files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_papers_run_file_has_its_numbers() -> None:
    from agentrl import build
    from agentrl import config as configs

    config = configs.load(configs.find("paper/s_grpo"))
    methods = build.methods(config.algorithm, state_keys=True)
    assert methods.scores == [SGRPO(lambda_f=0.1, lambda_s=0.1)] and methods.rewards == []
    assert (methods.sampler.group_size, methods.sampler.tasks, config.optimizer.lr) == (6, 128, 3e-6)
    assert (methods.loss.level, methods.loss.low, methods.loss.high) == ("sequence", 0.2, 0.2)
    (kl,) = methods.regularizers
    assert (kl.estimator, kl.coef) == ("k3", 0.01)
    assert config.only_env.options["reward_scale"] == 0.0


@pytest.mark.slow
def test_the_papers_run_file_trains(tmp_path: Any) -> None:
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    from toy_runs import metrics, trajectories

    from agentrl import config as configs
    from agentrl.trainer import train

    shape = "hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2"
    small = (
        "model.path=", "model.dtype=float32", "model.gradient_checkpointing=false",
        f"model.config={{model_type='qwen2', {shape}, max_position_embeddings=4096, tie_word_embeddings=true}}",
        "env.options.options.difficulty=tiny", "algorithm.sampler.tasks=2", "algorithm.sampler.group_size=3",
        "rollout.max_tokens=6", "evaluation.episodes=0", "run.iterations=1", "resources.device=cpu", "resources.threads=1",
    )  # fmt: skip
    train(configs.load(configs.find("paper/s_grpo"), small), tmp_path / "run")
    (line,) = metrics(tmp_path / "run")
    assert line["n_trajectories"] == 6 and line["reward/mean"] == 0  # six random tokens are no critique
    (members,) = trajectories(tmp_path / "run").values()
    assert all(member["rewards"] == {"SGRPO": 0.0} for member in members)
    assert {member["turns"][0]["info"]["label"] for member in members} <= {"Correct", "Incorrect"}
