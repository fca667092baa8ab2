"""Chat templates of several families: what each does to earlier turns is found out, and every memory stays exact under all."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

from toys import FAMILIES, PROMPT, TEXTS, Corridor, family

from agentrl.agents import Append, ChatAgent, DemonstratorAgent, Episode, OracleAgent, Window
from agentrl.chat import ActionFormat, Renderer, VerlAgentFormat
from agentrl.chat.history import Traits
from agentrl.errors import ConfigError
from agentrl.learning.samples import make_samples
from agentrl.rollouts import Limits, run_episode
from agentrl.types import Completion, Message, Sampling, Task, Trajectory

RENDERERS = {name: Renderer(family(name)) for name in FAMILIES}
GO, THINK = "<action>go right</action>", "<think>\nYou turn right\n</think>\n\n"


def message(role: str, text: str) -> Message:
    return {"role": role, "content": text}


class Model:
    """Answers with the given ids in turn, then with the last of them."""

    def __init__(self, answers: list[list[int]]) -> None:
        self.answers, self.asked = list(answers), []

    async def generate(self, prompt_ids: Any, sampling: Sampling, request_id: str) -> Completion:
        self.asked.append(list(prompt_ids))
        ids = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Completion(list(ids), [-0.5] * len(ids))


def play(agent: ChatAgent, answers: list[list[int]], length: int = 4) -> tuple[Trajectory, Model]:
    model, env = Model(answers), Corridor()
    task = Task(id="t", seed=11, options={"length": length})
    episode = Episode("e", task, env, np.random.default_rng(0), ("k",), model.generate, Sampling(max_tokens=30))
    run = run_episode(agent, episode, env_id="toy", seed=11, group="g", limits=Limits(max_turns=4))
    return asyncio.run(run), model


def answer(renderer: Renderer, text: str) -> list[int]:
    """``text`` as the model would sample it behind the generation prompt."""
    return renderer.completion([(text.removeprefix(renderer.opening), True)])


# ── what a template is found to do ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "system", "expected"),
    [
        ("chatml", False, Traits()),
        ("chatml", True, Traits()),
        ("default_system", False, Traits()),
        ("default_system", True, Traits()),
        ("drops_thoughts", False, Traits(drops_thoughts=True)),
        ("headers", True, Traits(spaces=True)),
        ("inst", True, Traits(spaces=True)),
        ("inst_moving", False, Traits()),
        ("inst_moving", True, Traits(rewrites=True)),
        ("no_system", False, Traits(spaces=True, system=False)),
        ("opens_thought", False, Traits(opening="<think>\n", drops_thoughts=True)),
        ("opens_thought", True, Traits(opening="<think>\n", drops_thoughts=True)),
    ],
)
def test_the_traits_of_each_family(name: str, system: bool, expected: Traits) -> None:
    assert RENDERERS[name].traits(system=system) == expected


def test_thoughts_that_are_closed_in_advance_are_no_opening_and_are_rewritten() -> None:
    renderer = Renderer(family("drops_thoughts"), options={"enable_thinking": False})
    assert renderer.opening == ""
    assert renderer.traits() == Traits(drops_thoughts=True, rewrites=True)
    assert renderer.tokenizer.decode(renderer.prompt([message("user", "go")])).endswith("<think>\n\n</think>\n\n")


def test_a_template_that_drops_answers_rewrites_them() -> None:
    made = family("chatml")
    made.chat_template = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}<|im_end|>{% endfor %}"
    assert Renderer(made).traits().rewrites


def test_traits_are_told_in_words() -> None:
    assert str(Traits()) == "keeps earlier turns as they are"
    told = str(Traits("<think>", drops_thoughts=True, rewrites=True, spaces=True, system=False))
    assert told == (
        "opens <think> itself, drops the thoughts of earlier turns, rewrites earlier turns, "
        "changes spaces around answers, "
        "takes no system message"
    )


def test_a_system_text_that_the_template_refuses_is_an_error_before_any_episode() -> None:
    agent = ChatAgent(RENDERERS["no_system"], system="You go", prompt="{observation}")
    with pytest.raises(ConfigError, match=r"takes no system message; put its text in front of agent\.prompt"):
        agent.check({"observation": ""})
    ChatAgent(RENDERERS["inst"], system="You go", prompt="{observation}").check({"observation": ""})


@pytest.mark.parametrize("name", FAMILIES)
def test_the_end_of_a_turn_is_found_and_no_pad_token_is_needed(name: str) -> None:
    renderer = RENDERERS[name]
    assert renderer.tokenizer.pad_token_id is None
    assert renderer.stop_ids == (renderer.tokenizer.convert_tokens_to_ids(FAMILIES[name][0]),)
    assert Renderer(renderer.tokenizer, stop_ids=[7, *renderer.stop_ids]).stop_ids == (*renderer.stop_ids, 7)


def spaced_tokenizer(name: str) -> Any:
    """One letter a token, and a space written before every text, as SentencePiece does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted({*"".join(TEXTS), *"abcdefghijklmnopqrstuvwxyz▁\n[]<>/|_INST"})
    inner = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    made = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)
    made.add_special_tokens({"eos_token": FAMILIES[name][0], "additional_special_tokens": FAMILIES[name][1:]})
    made.chat_template = family(name).chat_template
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tokenizer_that_writes_a_space_before_every_text_writes_none_inside(name: str) -> None:
    renderer = Renderer(spaced_tokenizer(name))
    first, second = [message("user", "go right")], [message("user", " go  left\n")]
    prompt = renderer.prompt(first)
    whole = renderer.tokenizer.apply_chat_template(first, tokenize=False, add_generation_prompt=True)
    assert prompt == renderer.tokenizer(whole, add_special_tokens=False)["input_ids"]
    completion = renderer.completion([("so", False), (" go", True)])
    assert renderer.decode(completion) == "so go" and renderer.spoken(completion) == renderer.opening + "so go"
    assert renderer.decode(renderer.encode_text(" go")) == " go" and renderer.decode([]) == ""
    grown = renderer.extend(prompt, completion, second)
    assert grown[: len(prompt) + len(completion)] == [*prompt, *completion]
    past = [*first, message("assistant", renderer.spoken(completion))]
    history = renderer.tokenizer.apply_chat_template([*past, *second], tokenize=False, add_generation_prompt=True)
    if not (renderer.traits().spaces or renderer.opening):
        assert renderer.rendered([*past, *second]) == grown
        assert grown == renderer.tokenizer(history, add_special_tokens=False)["input_ids"]


# ── the past, as sampled and as the template writes it ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("texts", [[GO, GO], [THINK + GO, GO], [f" {THINK}{GO} \n", THINK], ["<think>You", "go"]])
def test_as_template_is_what_the_template_itself_writes(name: str, system: bool, texts: list[str]) -> None:
    renderer = RENDERERS[name]
    if system and not renderer.traits(system=True).system:
        return
    texts = [text.removeprefix("<think>").lstrip("\n") if renderer.opening else text for text in texts]
    head = [message("system", "You go right.")] if system else []
    agent = ChatAgent(
        renderer, Append(), prompt=PROMPT.strip(), system="You go right." if system else "", earlier_turns="as_template"
    )
    trajectory, model = play(agent, [renderer.completion([(text, True)]) for text in texts])
    history = [*head]
    for number, turn in enumerate(trajectory.turns):
        shown = turn.observation if number else agent_prompt(turn.observation)
        history.append(message("user", shown))
        wanted = renderer.tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True)
        assert renderer.tokenizer.decode(model.asked[number], clean_up_tokenization_spaces=False) == wanted
        history.append(message("assistant", renderer.opening + texts[min(number, len(texts) - 1)]))


def agent_prompt(observation: str) -> str:
    return PROMPT.strip().format(
        goal="reach the end", history="", observation=observation, admissible_actions="go left\ngo right"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_auto_breaks_a_sample_only_where_the_template_changes_the_past(name: str) -> None:
    renderer = RENDERERS[name]
    counts = {}
    for how in ("auto", "as_sampled", "as_template"):
        agent = ChatAgent(renderer, Append(), prompt=PROMPT, earlier_turns=how)
        for kind, text in {"thought": THINK + GO, "plain": GO, "spaced": f"{GO}\n"}.items():
            trajectory, _ = play(agent, [answer(renderer, text)])
            assert trajectory.n_turns == 4
            counts[how, kind] = len(make_samples([trajectory]))
    assert {counts["as_sampled", kind] for kind in ("thought", "plain", "spaced")} == {1}
    drops, writes_a_space = name in ("drops_thoughts", "opens_thought"), name == "inst"
    changes_spaces = name in ("headers", "no_system", "inst")
    assert counts["auto", "thought"] == (4 if drops else 1)
    assert counts["as_template", "thought"] == (4 if drops or writes_a_space else 1)
    assert (counts["auto", "plain"], counts["as_template", "plain"]) == (1, 4 if writes_a_space else 1)
    assert (counts["auto", "spaced"], counts["as_template", "spaced"]) == (1, 4 if changes_spaces else 1)


def test_a_system_text_that_moves_breaks_the_samples() -> None:
    agent = ChatAgent(RENDERERS["inst_moving"], Append(), prompt=PROMPT, system="You go right.")
    trajectory, model = play(agent, [answer(agent.renderer, GO)])
    assert agent.follows_template and len(make_samples([trajectory])) == 4
    texts = [agent.renderer.tokenizer.decode(ids) for ids in model.asked]
    assert all(text.count("You go right.") == 1 for text in texts)
    assert texts[-1].rindex("[INST]") < texts[-1].index("You go right.")


def test_earlier_thoughts_are_context_nowhere_but_trained_once() -> None:
    agent = ChatAgent(RENDERERS["drops_thoughts"], Append(), prompt=PROMPT)
    trajectory, model = play(agent, [answer(agent.renderer, THINK + GO)])
    texts = [agent.renderer.tokenizer.decode(ids) for ids in model.asked]
    assert all("<think>" not in text for text in texts)
    assert [text.count("go right</action>") for text in texts] == [0, 1, 2, 3]
    n_sampled = sum(len(call.completion_ids) for call in trajectory.calls())
    assert sum(sample.n_trained for sample in make_samples([trajectory])) == n_sampled


def test_a_token_that_the_model_only_spelled_out_does_not_act_in_the_next_prompt() -> None:
    """An environment could teach it to; sampled as the token it is the model's own."""
    renderer = RENDERERS["drops_thoughts"]
    end = renderer.stop_ids[0]
    spelled = [*renderer.encode_text("<|im_end|><think>"), *renderer.completion([(GO, True)])]
    assert spelled.count(end) == 1
    past = [message("user", "go"), message("assistant", renderer.spoken(spelled))]
    ids = renderer.rendered([*past, message("user", "\ue0000\ue001<|im_end|>")])
    assert ids.count(end) == 3
    assert renderer.tokenizer.convert_tokens_to_ids("<think>") not in ids
    assert ids.count(renderer.tokenizer.convert_tokens_to_ids("<action>")) == 1
    assert "\ue002" not in renderer.tokenizer.decode(ids)


def test_a_template_that_drops_an_observation_is_refused() -> None:
    made = family("chatml")
    made.chat_template = "{{ messages[-1].content }}<|im_end|>"
    renderer = Renderer(made)
    agent = ChatAgent(renderer, Append(), prompt=PROMPT)
    with pytest.raises(ConfigError, match="drops"):
        play(agent, [answer(renderer, GO)])


ENDS = st.sampled_from([True, True, True, False])
PARTS = st.lists(
    st.sampled_from(["<think>", "</think>", "\n", " ", GO, "You turn", "<|im_end|>", "</s>", "<action>", "go"]),
    max_size=6,
)


@pytest.mark.parametrize("memory", [Append(), Window(turns=2)])
@pytest.mark.parametrize("how", ["auto", "as_sampled", "as_template"])
@settings(max_examples=15)
@given(
    name=st.sampled_from(sorted(FAMILIES)), said=st.lists(st.tuples(PARTS, st.booleans(), ENDS), min_size=4, max_size=4)
)
def test_every_sampled_token_is_trained_once_behind_what_the_policy_saw(
    memory: Any, how: Any, name: str, said: list[tuple[list[str], bool, bool]]
) -> None:
    renderer = RENDERERS[name]
    answers = []
    for parts, is_markup, ends in said:
        ids = renderer.completion([(part, is_markup) for part in parts])[:-1]
        ids = [index for index in ids if index not in renderer.stop_ids] or renderer.encode_text("go")
        answers.append([*ids, renderer.stop_ids[0]] if ends else ids)
    agent = ChatAgent(renderer, memory, prompt=PROMPT, earlier_turns=how)
    trajectory, model = play(agent, answers, length=9)
    samples = make_samples([trajectory])
    assert sum(sample.n_trained for sample in samples) == sum(len(ids) for ids in answers)
    for row, (asked, completion) in enumerate(zip(model.asked, answers, strict=True)):
        (sample,) = [sample for sample in samples if row in sample.row]
        places = np.flatnonzero(sample.row == row)
        assert sample.token_ids[places].tolist() == completion
        assert sample.token_ids[: places[0]].tolist() == asked
        assert sample.loss_mask[places].all() and (np.diff(places) == 1).all()
    if how == "as_sampled" and isinstance(memory, Append):
        assert len(samples) == 1


# ── generation prompts that open a thought ───────────────────────────────────────────────────────────────────────────


def test_a_completion_behind_an_opened_thought_begins_inside_of_it() -> None:
    renderer = RENDERERS["opens_thought"]
    agent = ChatAgent(renderer, format=ActionFormat(think_tags=True), prompt=PROMPT)
    parsed = agent.parse(renderer.completion([("You turn</think>" + GO, True)]))
    assert (parsed.action, parsed.thought, parsed.problem) == ("go right", "You turn", "")
    assert agent.parse(renderer.completion([(GO, True)])).action == ""  # an action in a thought is none
    plain = ChatAgent(RENDERERS["chatml"], format=ActionFormat(think_tags=True), prompt=PROMPT)
    assert plain.parse(plain.renderer.completion([("You turn</think>" + GO, True)])).action == ""


@pytest.mark.parametrize("form", [ActionFormat(), ActionFormat(action_tags=False), VerlAgentFormat()])
@pytest.mark.parametrize("memory", [Append(), Window(turns=2)])
def test_demonstrations_close_the_opened_thought(form: ActionFormat, memory: Any) -> None:
    renderer = RENDERERS["opens_thought"]
    agent = ChatAgent(renderer, memory, form, prompt=PROMPT)
    env, task = Corridor(), Task(id="t", seed=11, options={"length": 3})
    episode = Episode("e", task, env, np.random.default_rng(0), ("k",))
    run = run_episode(
        DemonstratorAgent(agent, OracleAgent()), episode, env_id="toy", seed=11, group="g", limits=Limits()
    )
    trajectory = asyncio.run(run)
    assert trajectory.success and [turn.action for turn in trajectory.turns] == ["go right"] * 3
    for call in trajectory.calls():
        assert renderer.decode(call.completion_ids).startswith("</think>")
        assert agent.parse(call.completion_ids).action == "go right"


def test_a_run_says_what_was_detected() -> None:
    appending = ChatAgent(RENDERERS["drops_thoughts"], Append(), prompt=PROMPT)
    assert appending.describe() == (
        "chat template: drops the thoughts of earlier turns; earlier turns are shown as the template writes them "
        "(agent.earlier_turns = 'auto')"
    )
    assert "as they were sampled" in ChatAgent(RENDERERS["headers"], Append(), prompt=PROMPT).describe()
    assert ChatAgent(RENDERERS["drops_thoughts"], prompt=PROMPT).describe() == ""
    assert "opens <think>" in ChatAgent(RENDERERS["opens_thought"], prompt=PROMPT).describe()


# ── verl-agent's reading ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "action", "valid"),
    [
        (f"<think>so</think>{GO}", "go right", True),
        ("<think>so</think><action> Go RIGHT \n</action>", "go right", True),
        ("<think>so</think><action>no such action</action>", "no such action", True),
        (GO, "go right", False),
        (f"<think>{GO}", "go right", False),
        (f"<think>{GO}</think>", "go right", True),
        ("<think>so</think>" + "x" * 40 + "</action>", "x" * 21 + "</action>", False),
        ("Go right", "go right", False),
        (f"<think>向右</think>{GO}", "go right", False),
        (f"</think>{GO}<think>", "go right", True),
        ("", "", False),
    ],
)
def test_verl_agents_projection(text: str, action: str, valid: bool) -> None:
    parsed = VerlAgentFormat().parse(text)
    assert (parsed.action, not parsed.problem) == (action, valid)


@pytest.mark.parametrize(("form", "valid"), [(ActionFormat(), False), (VerlAgentFormat(), True)])
def test_what_the_environment_does_not_list_is_invalid_only_where_that_counts(form: ActionFormat, valid: bool) -> None:
    renderer = RENDERERS["chatml"]
    agent = ChatAgent(renderer, format=form, prompt=PROMPT)
    trajectory, _ = play(agent, [answer(renderer, "<think>so</think><action>turn</action>")])
    assert [(turn.action, turn.valid) for turn in trajectory.turns] == [("turn", valid)] * 4
