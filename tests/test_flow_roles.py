"""Who speaks for the roles of a flow: endpoints, checkpoints, demonstrations; and how run files say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="a flow's policy needs the extra 'train'")

from chat_server import ChatServer
from chat_server import says as replies
from toy_flows import RIGHT, Voice, agentflow, corridor_plays, graph, moves, plan, play, renderer, says, tool_env
from toys import Answering, Corridor

from agentrl import build, registry, seating
from agentrl.agents import View
from agentrl.agents.flow import (
    AgentFlow,
    Asked,
    Caller,
    DemoSpeaker,
    FlowAgent,
    FlowLimits,
    TokenSpeaker,
    cut_middle,
    flow,
)
from agentrl.config import AgentTable, parse
from agentrl.errors import CheckpointError, ConfigError, RegistryError
from agentrl.learning.samples import make_samples
from agentrl.rollouts import EnvPool, Rollouts
from agentrl.types import Completion, RolloutRequest, Sampling

SHOWN = renderer()

# ── speakers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_role_may_be_a_model_behind_an_api() -> None:
    with ChatServer(replies(RIGHT)) as server:
        table = AgentTable(name="toy_moves", roles={"mover": f"openai:{server.url}#judge,max_tokens=7"})
        config = parse({"env": {"id": "toy"}})
        made = seating.agent(config, table, SHOWN, View("", {}, 0))
        assert isinstance(made, FlowAgent)
        [trajectory] = play(made, factory=Corridor)
        assert trajectory.success and make_samples([trajectory]) == []
        call = trajectory.turns[0].calls[0]
        assert call.messages == [{"role": "user", "content": "go 0"}] and call.reply and call.reply["n_prompt"] == 100
        assert "temperature" not in server.asked[0].body and server.asked[0].body["max_tokens"] == 7
        cool = table.model_copy(update={"roles": {"mover": {"speaker": table.roles["mover"], "temperature": 0.3}}})
        play(seating.agent(config, cool, SHOWN, View("", {}, 0)), factory=Corridor)
        assert server.asked[-1].body["temperature"] == 0.3


def test_demonstrations_write_a_rules_words_as_the_trained_policys() -> None:
    def straying(asked: Asked) -> dict[str, str]:
        asked.strayed = asked.facts == {} and asked.messages[0]["content"].endswith("0")
        return {"go": "right"}

    for imitate in (False, True):
        speaker = DemoSpeaker(TokenSpeaker(SHOWN), straying, imitate)
        trajectory = corridor_plays(moves, mover=speaker)
        assert trajectory.success
        assert [call.trainable for call in trajectory.calls()] == [imitate, True]
        assert {call.source for call in trajectory.calls()} == {"demo"}
        assert [SHOWN.decode(call.completion_ids) for call in trajectory.calls()] == [RIGHT] * 2
        assert trajectory.turns[0].info.get("noise") is True
    with pytest.raises(ConfigError, match="tokenizer cannot write what the role 'mover' says"):
        corridor_plays(moves, mover=DemoSpeaker(TokenSpeaker(SHOWN), says({"go": "Zanzibar"})))


# ── run files ────────────────────────────────────────────────────────────────────────────────────────────────────────


@flow("toy_moves", roles={"mover": "trained"}, texts=["go 0 1 2 3 4 5 6 7 8 9"])
async def toy_moves(view: View, call: Caller) -> Any:
    return await moves(view, call)


def made(**table: Any) -> Any:
    config = parse({"env": {"id": "toy"}, "agent": {"name": "toy_moves", **table}})
    return seating.agent(config, config.agent, SHOWN, View("", {}, 0), 64)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"name": "toy_move"}, "no flow is called 'toy_move'. Did you mean 'toy_moves'"),
        (
            {"memory": {"name": "append"}},
            "agent.memory is the chat agent's, and agent.name = 'toy_moves'; leave it out",
        ),
        ({"prompt": "x"}, "agent.prompt is the chat agent's"),
        ({"options": {"x": 1}}, "'toy_moves' has no settings; got x"),
        ({"roles": {"movr": "trained"}}, "'toy_moves' has no role 'movr'. Did you mean 'mover'"),
        (
            {"roles": {"mover": "train"}},
            "wanted a speaker as trained, checkpoint:PATH, openai:URL#MODEL, rule:NAME; got 'train'",
        ),
        ({"roles": {"mover": "trained:x"}}, "wanted a speaker as trained"),
        (
            {"roles": {"mover": {"speaker": "trained", "temperature": 0.5}}},
            "agent.roles.mover.temperature means nothing",
        ),
        ({"roles": {"mover": {"speaker": "rule:first_result", "trainable": True}}}, "trainable means nothing"),
        ({"roles": {"mover": {"speaker": "rule:first_result", "options": {"a": 1}}}}, "'first_result' has no settings"),
        ({"roles": {"mover": {"speaker": "trained", "speed": 1}}}, "has no parameter 'speed'"),
        ({"roles": {"mover": {"trainable": True}}}, "agent.roles.mover.speaker is missing"),
        ({"roles": {"mover": "rule:first_reslt"}}, "no rule is called 'first_reslt'. Did you mean 'first_result'"),
        ({"limits": {"calls": 0}}, "agent.limits.calls"),
        ({"limits": {"turns": 3}}, "agent.limits has no parameter 'turns'"),
        ({"context": 65}, "agent.context = 65, but the model has 64 positions"),
        ({"name": "chat", "roles": {"mover": "trained"}}, "agent.roles is for an agent made of modules"),
    ],
)
def test_what_a_run_file_says_wrongly_is_told(table: dict[str, Any], problem: str) -> None:
    with pytest.raises((ConfigError, RegistryError)) as error:
        made(**table)
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_a_run_file_makes_a_flow_with_its_own_bounds() -> None:
    agent = made(
        context=48, roles={"mover": {"speaker": "trained", "max_tokens": 5}}, limits={"calls": 3, "seconds": 9.0}
    )
    assert agent.limits == FlowLimits(calls=3, seconds=9.0) and agent.context == 48
    assert agent.speakers["mover"] == TokenSpeaker(SHOWN, 48, True, max_tokens=5)


def test_rules_come_by_name_by_place_and_with_settings() -> None:
    table = {"speaker": "rule:agentrl.envs.search.modules:Planner", "options": {"noise": 0.5}}
    rule = made(roles={"mover": table}).speakers["mover"].rule
    assert rule.noise == 0.5 and registry.get("rule", "last_result") is not None
    with pytest.raises(ConfigError, match=r"agent.roles.mover.options.noise: input should be less than or equal to 1"):
        made(roles={"mover": {**table, "options": {"noise": 2.0}}})


def test_a_tokenizer_made_of_words_knows_what_a_flow_writes() -> None:
    config = parse({"env": {"id": "toy"}, "agent": {"name": "agentflow"}})
    texts = build.texts_of(config)
    assert AgentFlow().planner in texts and any("sub_goal" in text for text in texts)
    assert build.texts_of(parse({"env": {"id": "toy"}, "agent": {"name": "toy_moves"}})) == ["go 0 1 2 3 4 5 6 7 8 9"]


def test_agentflow_wants_an_environment_that_names_tools() -> None:
    config = parse({"env": {"id": "toy"}, "agent": {"name": "agentflow"}})
    with pytest.raises(ConfigError, match=r"AgentFlow needs an environment that names its tools"):
        seating.agent(config, config.agent, SHOWN, View("", {}, 0))
    view = View("", {}, 0, tool_env().tools)
    with pytest.raises(ConfigError, match=r"there is no tool 'serch'. Did you mean 'search'"):
        noted = AgentTable(name="agentflow", options={"notes": {"serch": "x"}})
        seating.agent(config, noted, SHOWN, view)
    with pytest.raises(ConfigError, match=r"agent.options.planner names a field '\{memroy\}'"):
        seating.agent(config, AgentTable(name="agentflow", options={"planner": "{memroy}"}), SHOWN, view)


@pytest.mark.parametrize("left", [0, 1, 7, 40, 99, 100])
def test_what_is_too_long_is_cut_in_its_middle_within_the_budget(left: int) -> None:
    text = "".join(chr(97 + n % 26) for n in range(100))
    found = cut_middle(text, left, len)
    assert len(found) <= left or found == ""
    if left == 100:
        assert found == text
    elif found:
        head, _, tail = found.partition(" … ")
        assert text.startswith(head) and text.endswith(found.rpartition(" … ")[2]) and "characters were cut" in tail


# ── checkpoints as roles ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_frozen_checkpoint_speaks_greedily_beside_the_trained_policy_and_is_loaded_once() -> None:
    config = parse({
        "env": {"id": "toy"},
        "agent": {"name": "toy_frozen", "roles": {"critic": "checkpoint:warmstart", "judge": "checkpoint:warmstart"}},
        "rollout": {"max_tokens": 4},
        "resources": {"device": "cpu", "threads": 1},
    })  # fmt: skip

    async def act(view: View, call: Caller) -> str:
        await call("planner", f"plan {view.turn}")
        said = [await call(role, "You stand at 0.") for role in ("critic", "judge")]
        assert said[0].text == said[1].text
        return "go right"

    flow("toy_frozen", roles={"planner": "trained", "critic": "trained", "judge": "trained"})(act)
    agent = seating.agent(config, config.agent, SHOWN, View("", {}, 0))
    assert isinstance(agent, FlowAgent)
    critic, judge = agent.speakers["critic"], agent.speakers["judge"]
    assert isinstance(critic, TokenSpeaker) and isinstance(judge, TokenSpeaker)
    assert critic.renderer is judge.renderer and not critic.trained
    trajectories = play(agent, Voice(SHOWN, "a"), factory=Corridor, tasks=(0, 1), n=2)
    assert all(trajectory.success for trajectory in trajectories)
    frozen = [call for trajectory in trajectories for call in trajectory.calls() if call.role != "planner"]
    assert not any(call.trainable for call in frozen) and all(call.sampling["temperature"] == 0 for call in frozen)
    assert len({tuple(call.completion_ids) for call in frozen}) == 1
    assert {sample.calls[0].role for sample in make_samples(trajectories)} == {"planner"}


def test_a_policy_that_answers_in_batches_serves_flows_with_different_numbers_of_calls() -> None:
    async def act(view: View, call: Caller) -> str:
        for _ in range(1 + view.turn % 2):
            await call("mover", "go")
        return "go right"

    policy = Answering(lambda request: SHOWN.completion([("a", False)]))
    agent = FlowAgent(graph(act, mover="trained"), {"mover": TokenSpeaker(SHOWN)})
    rollouts = Rollouts(EnvPool(Corridor), agent, policy=policy)
    found = rollouts.run([RolloutRequest(task, 2) for task in Corridor().tasks("train")], ("toy", 0))
    assert all(trajectory.success for group in found for trajectory in group)
    assert len(policy.batches[0]) == 12


def test_an_evaluation_by_an_api_speaks_for_the_trained_role(tmp_path: Path) -> None:
    from agentrl.evaluator import evaluate
    from agentrl.policies.openai import OpenAIChat, parse_endpoint

    file = tmp_path / "flow.toml"
    file.write_text(
        '[env]\nid = "agentrl/SearchQA-v0"\n[agent]\nname = "agentflow"\n'
        '[agent.roles]\nverifier = "rule:agentrl.envs.search.modules:enough"\n'
        'generator = "rule:agentrl.envs.search.modules:answer"\n'
    )
    with ChatServer(replies(plan("search", "nobody"))) as server:
        model = OpenAIChat(parse_endpoint(f"{server.url}#m"))
        result = evaluate(
            "agentrl/SearchQA-v0", model, n=2, config=str(file), options={"tools": ["calculator"], "searches": 2}
        )
    assert result["n"] == 2 and result["faults"] == 0 and result["calls"] >= 2


def test_completions_are_cut_where_they_were_bounded() -> None:
    async def generate(ids: Any, sampling: Sampling, name: str) -> Completion:
        return Completion([5] * sampling.max_tokens, None, "length")

    trajectory = corridor_plays(moves, mover=TokenSpeaker(SHOWN, generate=generate, max_tokens=3))
    assert {len(call.completion_ids) for call in trajectory.calls()} == {3}


def test_agentflow_answers_an_easy_question() -> None:
    [trajectory] = play(agentflow(SHOWN), Voice(SHOWN, plan("calculator", "2 + 3")), tasks=(2,))
    assert trajectory.success and [turn.valid for turn in trajectory.turns] == [True, True]


# ── what cannot be meant ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"roles": {"mover": "checkpoint:no/such/place"}}, "no/such/place"),
        ({"roles": {"mover": "openai:localhost#m"}}, "agent.roles.mover: the endpoint's URL must begin with http://"),
        ({"roles": {"mover": {"speaker": "checkpoint:warmstart", "temperature": float("inf")}}}, "finite number"),
        ({"limits": {"seconds": float("inf")}}, "finite number"),
        ({"limits": {"tokens": True}}, "agent.limits.tokens: a number is wanted"),
    ],
)
def test_a_speaker_that_cannot_be_made_is_told_with_its_role(table: dict[str, Any], problem: str) -> None:
    with pytest.raises((ConfigError, CheckpointError)) as error:
        made(**table)
    assert problem in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(("agent.roles.mover", "agent.limits."))


def test_a_flow_is_an_async_function_with_a_table_of_roles() -> None:
    def act(view: View, call: Caller) -> str:
        return "go right"

    with pytest.raises(ConfigError, match="the flow 'toy_sync' must be an async function"):
        flow("toy_sync", roles={})(act)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the flow 'toy_list' wants roles as a table"):
        flow("toy_list", roles=["mover"])(moves)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["rule:first_result", {"speaker": "trained", "trainable": False}])
def test_a_run_in_which_nobody_is_trained_is_refused(role: Any) -> None:
    table = {"env": {"id": "toy"}, "agent": {"name": "toy_moves", "roles": {"mover": role}}}
    config = parse(table)
    agent = seating.agent(config, config.agent, SHOWN, View("", {}, 0))
    with pytest.raises(ConfigError, match="no role of 'toy_moves' is trained, so a run would change nothing"):
        seating.check_trains(config, [agent])
    seating.check_trains(config, [agent, made()])  # another environment's agent is
    seating.check_trains(parse({**table, "run": {"iterations": 0}}), [agent])  # an evaluation


def test_a_dry_run_refuses_a_run_in_which_nobody_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    from agentrl import cli

    planner = "agent.roles.planner=rule:agentrl.envs.search.modules:Planner"
    assert cli.main(["train", "search-flow", planner, "--dry-run"]) == 2
    assert "no role of 'agentflow' is trained" in capsys.readouterr().err


def test_a_frozen_role_has_a_bound_of_its_own() -> None:
    role = {"speaker": "checkpoint:warmstart", "max_tokens": 9}
    bound = [
        made(roles={"mover": each}).speakers["mover"].sampling.max_tokens for each in (role, "checkpoint:warmstart")
    ]
    assert bound == [9, 64]  # without one: rollout.max_tokens
