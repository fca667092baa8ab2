"""Rollouts: rounds, groups, faults and limits. Calls of the model and of the environment are counted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from toys import PROMPT, Answering, Corridor, tiny_model, tokenizer

from agentrl.agents import Append, ChatAgent, DemonstratorAgent, ExpertAgent, OracleAgent, RandomAgent, Window
from agentrl.chat import Renderer
from agentrl.errors import AgentRLError, ConfigError, PolicyFault, TooManyFaults
from agentrl.policies import ScriptedPolicy
from agentrl.rollouts import EnvPool, Limits, Rollouts, play
from agentrl.rollouts.batching import InFlight
from agentrl.rollouts.scheduler import Ahead
from agentrl.types import Outcome, RolloutRequest, Sampling, Task, Trajectory

RENDERER = Renderer(tokenizer())
TASKS = Corridor().tasks("train")  # lengths 2, 3, 4, 2, 3, 4
KEY = ("iteration", 3)


def ids_of(text: str) -> list[int]:
    return RENDERER.completion([(text, True)])


RIGHT, LEFT, NONE, ODD = (ids_of(f"<action>{a}</action>") for a in ("go right", "go left", "", "turn"))


def agent(**changes: Any) -> ChatAgent:
    return ChatAgent(**{"renderer": RENDERER, "prompt": PROMPT, "memory": Window(turns=1), **changes})


def player(policy: Any = None, env: Any = Corridor, actor: Any = None, **changes: Any) -> Rollouts:
    policy = Answering(lambda request: RIGHT) if policy is None else policy
    return Rollouts(EnvPool(env), actor or agent(), policy, sampling=Sampling(max_tokens=8), **changes)


def shown(trajectory: Trajectory) -> dict[str, Any]:
    """A record without its times."""
    record = trajectory.to_dict()
    for turn in record["turns"]:
        del turn["seconds"]
    return record


# ---- rounds ---------------------------------------------------------------------------------------------------------


def test_a_round_answers_every_live_episode_and_no_finished_one() -> None:
    """Lengths 2, 3, 4: the batches hold 3, 3, 2 and 1 requests, and the environments step 2 + 3 + 4 times."""
    policy, calls = Answering(lambda request: RIGHT), []
    result = player(policy, lambda: Corridor(calls)).run([RolloutRequest(task, 1) for task in TASKS[:3]], KEY)
    assert [len(batch) for batch in policy.batches] == [3, 3, 2, 1]
    assert len(calls) == 9
    assert all(batch == sorted(batch) for batch in policy.batches)
    assert [member.n_turns for (member,) in result] == [2, 3, 4]


@pytest.mark.parametrize("max_live", [1, 2, 3, 5, 100])
def test_max_live_bounds_the_episodes_and_does_not_block(max_live: int) -> None:
    policy, open_envs, most = Answering(lambda request: RIGHT), [0], [0]

    class Counted(Corridor):
        def reset(self, **kwargs: Any):
            open_envs[0] += 1
            most[0] = max(most[0], open_envs[0])
            return super().reset(**kwargs)

        def step(self, action: str):
            result = super().step(action)
            open_envs[0] -= result[2]
            return result

    rollouts = player(policy, Counted, max_live=max_live)
    result = rollouts.run([RolloutRequest(task, 2) for task in TASKS], KEY)
    assert most[0] == min(max_live, 12)
    assert max(map(len, policy.batches)) == min(max_live, 12)
    assert [[m.n_turns for m in group] for group in result] == [[n, n] for n in (2, 3, 4, 2, 3, 4)]
    assert len(rollouts.pool._free) == min(max_live, 12)  # environments are used again


def test_max_live_changes_no_number() -> None:
    reference = [shown(m) for (m,) in player().run([RolloutRequest(task, 1) for task in TASKS], KEY)]
    for max_live in (1, 4):
        found = player(max_live=max_live).run([RolloutRequest(task, 1) for task in TASKS], KEY)
        assert [shown(m) for (m,) in found] == reference


def test_agents_without_a_model_ask_nothing() -> None:
    policy = Answering(lambda request: RIGHT)
    rollouts = player(policy, actor=OracleAgent(), max_live=2)
    assert all(trajectory.success for trajectory in play(rollouts, TASKS))
    assert policy.batches == []


def test_a_policy_that_batches_by_itself() -> None:
    policy = ScriptedPolicy(lambda prompt_ids, sampling, request_id: RIGHT)
    rollouts = player(policy, max_live=2)
    assert [trajectory.n_turns for trajectory in play(rollouts, TASKS)] == [2, 3, 4, 2, 3, 4]
    assert rollouts.stats.n_sampled_tokens == 18 * len(RIGHT)


class Slow(ScriptedPolicy):
    """Each answer takes a second of a clock that only this policy moves."""

    now = 0.0

    async def generate(self, prompt_ids: Any, sampling: Sampling, request_id: str) -> Any:
        await asyncio.sleep(0)
        self.now += 1.0
        return await super().generate(prompt_ids, sampling, request_id)


@pytest.mark.parametrize("ahead", [False, True])
def test_how_long_an_engine_held_a_request_is_generation(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Slow(lambda prompt_ids, sampling, request_id: RIGHT)
    monkeypatch.setattr("time.perf_counter", lambda: policy.now)
    rollouts, requests = player(policy, max_live=2), [RolloutRequest(task, 1) for task in TASKS]
    if ahead:
        with Ahead(rollouts) as running:
            running.start(KEY, requests, rank=3)
            stats = running.take(KEY)[1]
    else:
        rollouts.run(requests, KEY)
        stats = rollouts.stats
    assert stats.generation_s == 18.0 == policy.now and stats.environment_wall_s == 0.0


def test_seconds_in_flight_count_once_and_end_with_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    ends = [asyncio.Event(), asyncio.Event()]

    async def answer(prompt_ids: Any, sampling: Sampling, request_id: str) -> Any:
        await ends[int(request_id)].wait()
        raise PolicyFault("the engine died")

    async def asked() -> None:
        held = InFlight(answer)
        first = asyncio.create_task(held.generate([1], Sampling(), "0"))
        await asyncio.sleep(0)
        now[0] = 2.0
        second = asyncio.create_task(held.generate([1], Sampling(), "1"))
        for number, until in ((0, 5.0), (1, 7.0)):
            await asyncio.sleep(0)
            now[0] = until
            assert held.seconds == until
            ends[number].set()
            await asyncio.wait([(first, second)[number]])
        now[0] = 20.0
        assert held.seconds == 7.0
        assert all(isinstance(task.exception(), PolicyFault) for task in (first, second))

    asyncio.run(asked())


def test_within_a_running_event_loop_as_in_a_notebook() -> None:
    async def cell() -> list[Trajectory]:
        return play(player(), TASKS[:2])

    assert [trajectory.n_turns for trajectory in asyncio.run(cell())] == [2, 3]


def test_no_request_no_trajectory() -> None:
    assert player().run([], KEY) == []
    assert player().run([RolloutRequest(TASKS[0], 0)], KEY) == [[]]


# ---- groups, names, determinism -------------------------------------------------------------------------------------


def test_a_group_shares_task_seed_and_first_observation() -> None:
    seen: list[Trajectory] = []
    result = player().run([RolloutRequest(task, 4) for task in TASKS[:2]], KEY, seen.append)
    for place, (group, task) in enumerate(zip(result, TASKS[:2], strict=True)):
        assert {m.group for m in group} == {f"iteration=3/task={task.id}/place={place}"}
        assert [m.id for m in group] == [f"{group[0].group}/member={n}" for n in range(4)]
        assert {(m.task.id, m.seed, m.turns[0].observation, m.turns[0].state_key) for m in group} == {
            (task.id, task.seed, group[0].turns[0].observation, "place=0")
        }
    assert sorted(m.id for m in seen) == sorted(m.id for group in result for m in group)


@pytest.fixture(scope="module")
def sampled() -> Any:
    """Rollouts of a random model that is taught nothing: it samples whatever comes."""
    from agentrl.policies.transformers import TransformersPolicy

    model = tiny_model(RENDERER.tokenizer, seed=1)

    def run(root_seed: int = 0, batch_size: int = 256, max_live: int = 100, **request: Any) -> list[Trajectory]:
        policy = TransformersPolicy(model, root_seed=root_seed, batch_size=batch_size)
        rollouts = player(policy, limits=Limits(max_turns=3), root_seed=root_seed, max_live=max_live)
        groups = rollouts.run([RolloutRequest(task, 3, **request) for task in TASKS[:2]], KEY)
        return [member for group in groups for member in group]

    return run


def test_equal_seeds_give_equal_ids_rewards_and_outcomes(sampled: Any) -> None:
    first, again = sampled(), sampled()
    assert [shown(t) for t in first] == [shown(t) for t in again]
    drawn = [tuple(call.completion_ids) for t in first for call in t.calls()]
    assert len(set(drawn)) > len(drawn) / 2  # members and turns have streams of their own
    assert [tuple(c.completion_ids) for t in sampled(root_seed=1) for c in t.calls()] != drawn


def test_batch_sizes_and_live_episodes_change_no_id(sampled: Any) -> None:
    drawn = [[list(call.completion_ids) for call in t.calls()] for t in sampled()]
    assert [[list(call.completion_ids) for call in t.calls()] for t in sampled(batch_size=2, max_live=4)] == drawn


def test_a_request_sets_temperature_and_turns(sampled: Any) -> None:
    hot = sampled(temperature=0.0, max_turns=2)
    assert {call.sampling["temperature"] for t in hot for call in t.calls()} == {0.0}
    assert {t.n_turns for t in hot} == {2}
    by_task = {t.task.id: {tuple(c.completion_ids) for c in u.calls()} for t in hot for u in hot if u.task == t.task}
    assert all(len({tuple(next(t.calls()).completion_ids) for t in hot if t.task.id == i}) == 1 for i in by_task)


@pytest.mark.parametrize("wish", [{"hint": "go right"}, {"branch_from": "t/turn=1"}])
def test_what_a_request_wants_in_vain_is_refused(wish: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="hint or a branch"):
        player().run([RolloutRequest(TASKS[0], 1, **wish)], KEY)
    with pytest.raises(ConfigError, match="for the sampler to fill in"):
        player().run([RolloutRequest(None, 1)], KEY)


# ---- outcomes -------------------------------------------------------------------------------------------------------


def test_bad_actions_are_data() -> None:
    answers = iter([NONE, ODD, LEFT, ids_of("go right"), *[RIGHT] * 9])
    (trajectory,) = play(player(Answering(lambda r: next(answers))), TASKS[:1])
    assert [turn.action for turn in trajectory.turns] == ["", "turn", "go left", "", "go right", "go right"]
    assert [turn.valid for turn in trajectory.turns] == [False, False, True, False, True, True]
    assert [turn.info.get("problem") for turn in trajectory.turns] == [
        *("<action> is empty", None, None, "no <action>…</action> found", None, None)
    ]
    assert trajectory.success and trajectory.reward == 1.0  # the penalty is credit's to subtract


@pytest.mark.parametrize(
    ("env", "limits", "outcome", "n_turns"),
    [
        (Corridor, Limits(), Outcome.TERMINATED, 4),
        (lambda: Corridor(truncate_at=2), Limits(), Outcome.TRUNCATED, 2),
        (lambda: Corridor(truncate_at=4), Limits(), Outcome.TERMINATED, 4),  # both at once: the task is done
        (Corridor, Limits(max_turns=3), Outcome.MAX_TURNS, 3),
        (Corridor, Limits(time_limit_s=-1.0), Outcome.TIME_LIMIT, 0),
    ],
)
def test_why_an_episode_ends(env: Any, limits: Limits, outcome: Outcome, n_turns: int) -> None:
    (trajectory,) = play(player(env=env, limits=limits), TASKS[2:3])
    assert (trajectory.outcome, trajectory.n_turns) == (outcome, n_turns)
    assert trajectory.success == (outcome is Outcome.TERMINATED)
    assert trajectory.last_observation and not trajectory.error


def test_turns_are_bounded_by_the_request_then_the_run_then_the_task() -> None:
    task = dataclasses.replace(TASKS[0], max_turns=4)
    left = Answering(lambda request: LEFT)
    assert play(player(left), [TASKS[0]])[0].n_turns == 50
    assert play(player(left), [task])[0].n_turns == 4
    assert play(player(left, limits=Limits(max_turns=3)), [task])[0].n_turns == 3
    (group,) = player(left, limits=Limits(max_turns=3)).run([RolloutRequest(task, 1, max_turns=2)], KEY)
    assert group[0].n_turns == 2


# ---- faults of the environment --------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [Window(turns=2), Append()])
def test_a_fault_is_retried_with_the_recorded_actions_and_no_second_call(memory: Any) -> None:
    healthy = play(player(actor=agent(memory=memory)), TASKS[2:3])[0]
    calls, policy, made = [], Answering(lambda request: RIGHT), []

    def env() -> Corridor:
        made.append(Corridor(calls, failing=(3,)))
        return made[-1]

    rollouts = player(policy, env, agent(memory=memory))
    (trajectory,) = play(rollouts, TASKS[2:3])
    assert shown(trajectory) == shown(healthy)
    assert len(calls) == 3 + 4  # two turns and the broken one, then all four
    assert [batch[0].rpartition("/")[2] for batch in policy.batches] == [f"turn={n}" for n in range(4)]
    assert rollouts.stats.n_retries == 1
    assert [e.closed for e in made] == [True, False]  # the broken one is closed and not used again


@pytest.mark.parametrize("first", [NONE, ODD])
def test_a_replayed_bad_action_stays_bad(first: list[int]) -> None:
    for failing in ((), (1,), (2,)):
        answers, calls = iter([first, *[RIGHT] * 9]), []
        env = lambda calls=calls, failing=failing: Corridor(calls, failing)  # noqa: E731
        policy = Answering(lambda request, answers=answers: next(answers))
        (trajectory,) = play(player(policy, env), TASKS[:1])
        assert [turn.valid for turn in trajectory.turns] == [False, True, True]
        assert ("problem" in trajectory.turns[0].info) == (first is NONE)


@pytest.mark.parametrize(
    "actor", [RandomAgent(), OracleAgent(), ExpertAgent(noise=0.3), DemonstratorAgent(agent(), ExpertAgent(noise=0.3))]
)
def test_agents_without_a_model_come_to_the_same_after_a_fault(actor: Any) -> None:
    (healthy,) = play(player(actor=actor), TASKS[2:3])
    calls: list[str] = []
    (trajectory,) = play(player(actor=actor, env=lambda: Corridor(calls, failing=(3,))), TASKS[2:3])
    assert len(calls) > 3
    assert shown(trajectory) == shown(healthy)


def test_an_environment_that_answers_differently_is_not_replayed() -> None:
    calls: list[str] = []

    class Moody(Corridor):
        def _view(self):
            text, info = super()._view()
            return f"{text} {len(calls)}", info

    with pytest.raises(AgentRLError, match="answered differently"):
        play(player(env=lambda: Moody(calls, failing=(2,))), TASKS[:1])


def test_a_fault_in_the_middle_of_a_replay_loses_nothing_of_the_record() -> None:
    calls, policy = [], Answering(lambda request: RIGHT)
    rollouts = player(policy, lambda: Corridor(calls, failing=(3, 4)))
    (trajectory,) = play(rollouts, TASKS[2:3])
    assert trajectory.success and rollouts.stats.n_retries == 2
    assert len(policy.batches) == 4
    assert len(calls) == 3 + 1 + 4


def test_a_fault_that_stays_is_the_outcome_of_its_episode_only() -> None:
    class Broken(Corridor):
        def step(self, action: str):
            if self.task.id == TASKS[0].id:
                raise ValueError("a hole")
            return super().step(action)

    result = play(player(env=Broken, attempts=2), TASKS[:3])
    assert [t.outcome for t in result] == [Outcome.ENV_FAULT, Outcome.TERMINATED, Outcome.TERMINATED]
    assert result[0].error == "step raised ValueError: a hole"
    assert [turn.action for turn in result[0].turns] == ["go right"]  # the record shows what broke it


def test_known_episodes_are_kept_and_their_faults_are_tried_again_by_replay() -> None:
    calls: list[str] = []
    requests = [RolloutRequest(task, 2) for task in TASKS[1:3]]
    healthy = player().run(requests, KEY)
    faulty = player(env=lambda: Corridor(calls, failing=(2,)), attempts=1).run(requests, KEY)
    members = [member for group in faulty for member in group]
    assert [member.outcome for member in members].count(Outcome.ENV_FAULT) == 1
    (fault,) = (member for member in members if member.outcome.is_fault)
    known = {member.id: member for member in members[:3]}  # the last one is not known
    ended: list[Any] = []
    policy = Answering(lambda request: RIGHT)
    again = player(policy).run(requests, KEY, ended.append, known=known)
    assert [[shown(member) for member in group] for group in again] == [[shown(m) for m in group] for group in healthy]
    assert {trajectory.id for trajectory in ended} == {fault.id, members[3].id}
    asked = [name for batch in policy.batches for name in batch if name.startswith(fault.id)]
    assert [name.rpartition("/")[2] for name in asked] == ["turn=1", "turn=2"]  # its first turn was sampled before


@pytest.mark.parametrize("where", ["reset", "step", "state_key"])
def test_the_circuit_breaker_opens_as_soon_as_most_have_failed(where: str) -> None:
    n_resets = [0]

    class Broken(Corridor):
        def reset(self, **kwargs: Any):
            n_resets[0] += 1
            return super().reset(**kwargs)

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        n_resets[0] += where == "reset"
        raise OSError("no server")

    setattr(Broken, where, fail)
    rollouts = player(env=Broken, attempts=2, max_live=1)
    ended: list[Trajectory] = []
    words = f"4 of 6 episodes failed .* by env_fault: {where} raised OSError: no server"
    with pytest.raises(TooManyFaults, match=words) as caught:
        rollouts.run([RolloutRequest(task, 1) for task in TASKS], KEY, ended.append)
    assert n_resets[0] == 4 * 2  # the last two were not tried
    assert caught.value.episodes == ended and len(ended) == 4  # also the last one was told of
    places = [str(caught.value).index(trajectory.id) for trajectory in reversed(ended)]
    assert places == sorted(places)  # the newest first


def test_the_circuit_breaker_names_the_last_error_and_few_episodes() -> None:
    class Worse(Corridor):
        n = 0

        def step(self, action: str):
            Worse.n += 1
            raise OSError(f"failure number {Worse.n}")

    with pytest.raises(TooManyFaults) as caught:
        player(env=Worse, attempts=1, max_live=1).run([RolloutRequest(task, 4) for task in TASKS], KEY)
    said = str(caught.value)
    assert "13 of 24" in said and "failure number 13" in said and "number 12" not in said
    assert said.count("/member=") == 4 and said.endswith("and 9 more") and "\n" not in said


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), "much", None])
def test_a_reward_that_is_no_number_is_a_fault(reward: Any) -> None:
    class Odd(Corridor):
        def step(self, action: str):
            observation, _, *rest = super().step(action)
            return observation, reward, *rest

    with pytest.raises(AgentRLError, match="env_fault: step"):
        play(player(env=Odd), TASKS[:1])


def test_a_broken_environment_that_cannot_be_closed_is_reported() -> None:
    class Stuck(Corridor):
        def close(self) -> None:
            raise OSError("stuck")

    calls: list[str] = []
    with pytest.warns(UserWarning, match="could not be closed: OSError"):
        (trajectory,) = play(player(env=lambda: Stuck(calls, failing=(1,))), TASKS[:1])
    assert trajectory.success


# ---- faults of the policy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), PolicyFault("no reply")])
def test_a_batch_that_fails_is_asked_again(error: Exception) -> None:
    n_batches = [0]

    def answer(request: Any) -> list[int]:
        n_batches[0] += 1
        if n_batches[0] == 3:
            raise error
        return RIGHT

    made: list[Corridor] = []

    def env() -> Corridor:
        made.append(Corridor())
        return made[-1]

    result = play(player(Answering(answer), env), TASKS[:2])
    assert [t.outcome for t in result] == [Outcome.TERMINATED] * 2
    assert [t.n_turns for t in result] == [2, 3]
    assert len(made) == 2 and not any(e.closed for e in made)  # it was not their fault


def test_a_policy_that_never_answers_opens_the_breaker() -> None:
    def answer(*args: Any) -> list[int]:
        raise PolicyFault("the server is down")

    with pytest.raises(AgentRLError, match="policy_fault: the server is down"):
        play(player(ScriptedPolicy(answer)), TASKS[:2])


# ---- what the user did wrong ----------------------------------------------------------------------------------------


def test_a_configuration_error_comes_out_as_itself_and_closes_what_ran() -> None:
    made: list[Corridor] = []

    class Silent(Corridor):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def _view(self):
            text, info = super()._view()
            return text, info if self.task.id != TASKS[4].id else {}

    policy = Answering(lambda request: RIGHT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match=r"agent.prompt names a field '\{goal\}'"):
            play(player(policy, Silent), TASKS)
    assert all(env.closed for env in made)
    assert policy.batches == []  # nobody generates for episodes that are being cancelled


def test_an_error_of_the_code_is_not_taken_for_a_fault() -> None:
    def answer(request: Any) -> list[int]:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        play(player(Answering(answer)), TASKS[:2])


def test_the_pool_closes_what_is_free() -> None:
    pool = EnvPool(Corridor)
    first, second = pool.take(), pool.take()
    pool.put(first)
    assert pool.take() is first
    pool.put(first)
    pool.put(second)
    pool.close()
    assert first.closed and second.closed  # type: ignore[attr-defined]


def test_a_task_needs_no_options() -> None:
    assert Task("t").options == {}


@pytest.mark.parametrize(
    ("where", "reply", "words"),
    [
        ("reset", "text", "Odd: reset must return .text, info.; got str"),
        ("reset", ("text", None), "got .str, NoneType."),
        ("step", (5, 0.0, False, False, {}), "Odd: step must give .*; got .int, dict."),
        ("step", ("text", 0.0, False, False, None), "got .str, NoneType."),
        ("state_key", 7, "Odd: state_key must return text or None; got int"),
    ],
)
def test_an_environment_that_answers_in_another_form_is_a_fault(where: str, reply: Any, words: str) -> None:
    class Odd(Corridor):
        pass

    setattr(Odd, where, lambda self, *args, **kwargs: reply)
    with pytest.raises(AgentRLError, match=f"env_fault: .*{words}"):
        play(player(env=Odd), TASKS[:1])


def test_seeds_of_numpy_and_lone_surrogates_are_played_and_written_down() -> None:
    class Garbled(Corridor):
        def step(self, action: str):
            _, *rest = super().step(action)
            return "You \ud800 stand", *rest

    task = dataclasses.replace(TASKS[0], seed=np.int64(12))
    (trajectory,) = play(player(env=Garbled), [task])
    assert trajectory.success and type(trajectory.seed) is int
    assert Trajectory.from_dict(json.loads(json.dumps(trajectory.to_dict()))) == trajectory
