"""Checks in an environment: its real prompts, and whether the model can write what the environment wants."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from agentrl import seeding
from agentrl.agents import DemonstratorAgent, Episode, OracleAgent, RandomAgent
from agentrl.doctor.checks import Finding, collector, ok
from agentrl.doctor.subject import Subject, said
from agentrl.env import hook
from agentrl.errors import ConfigError
from agentrl.policies import Request
from agentrl.rollouts import Limits, run_episode
from agentrl.types import Call, Outcome, Sampling, Task, Trajectory

BEFORE, before = collector("environment")  # weights are not needed
CHECKS, check = collector("environment")
EPISODES, TURNS, ANSWERS = 4, 30, 8


@before("turns")
def agent(subject: Subject) -> Finding:
    """The settings of [agent] fit the model's template and what the environment shows."""
    try:
        made = subject.agent
    except ConfigError as error:
        return Finding(
            "failure",
            "the settings do not fit",
            str(error),
            "refuses such a run before its first episode",
            "what the line above names, in [agent]",
        )
    memory = subject.table.memory["name"]
    return ok(f"memory {memory!r}" + (f"; {made.describe()}" if made.describe() else ""))


@before("agent", "vocabulary")
def episodes(subject: Subject) -> Finding:
    """Episodes of the oracle (else random ones) can be written as the model would play them."""
    assert subject.scene is not None
    tasks = subject.scene.tasks
    chosen = [tasks[place * len(tasks) // EPISODES] for place in range(min(EPISODES, len(tasks)))]
    player = _player(subject)
    if player is None:
        return Finding(
            "note",
            "not played: the environment has no oracle() and lists no actions",
            "lengths and actions of later turns are unknown",
            "looks at first prompts only",
            "oracle() or admissible_actions, in the environment",
        )
    try:
        subject.played.extend(_play(subject, player, place, task) for place, task in enumerate(chosen))
    except ConfigError as error:
        subject.played.clear()
        return Finding(
            "failure",
            "an action of the environment cannot be written by this model",
            str(error),
            "stops demonstrations at such an action",
            "agent.action_tags, or a tokenizer that knows the environment's words",
        )
    faults = [trajectory for trajectory in subject.played if trajectory.outcome.is_fault]
    if faults:
        return Finding(
            "failure",
            f"{len(faults)} of {len(chosen)} episodes ended by a fault: {faults[0].error}",
            "the environment or a server of it failed",
            "plays such an episode again, rollout.attempts times",
            "agentrl check on the environment",
        )
    n_turns = sum(trajectory.n_turns for trajectory in subject.played)
    return ok(
        f"{len(chosen)} episodes, {n_turns} turns: every action is written and read back",
        episodes=len(chosen),
        turns=n_turns,
    )


@before("episodes")
def prompts(subject: Subject) -> Finding:
    """Lengths of the environment's prompts against the context."""
    lengths = [len(call.prompt_ids) for call in _calls(subject)] or [len(_first_prompt(subject))]
    limit = subject.agent.context
    out = [trajectory for trajectory in subject.played if trajectory.outcome is Outcome.MAX_TOKENS]
    most = max(lengths)
    says = f"{min(lengths)} to {most} tokens, median {median(lengths):g}, in {len(lengths)} prompts; context {limit or 'unbounded'}"
    numbers = {"min": min(lengths), "median": median(lengths), "max": most, "context": limit}
    room = subject.settings.rollout.max_tokens
    if (limit is not None and most >= limit) or out:
        return Finding(
            "failure",
            says,
            f"prompts reach the context: {len(out)} of {len(subject.played)} episodes ended by it",
            "ends such an episode (outcome max_tokens), which is the policy's own loss",
            'agent.memory = { name = "window", turns = 2 }, a shorter agent.prompt, env.max_turns, or a model with more positions',
            numbers,
        )
    if limit is not None and most + room > limit:
        return Finding(
            "warning",
            says,
            f"prompt and rollout.max_tokens = {room} together exceed the context",
            "gives such an answer only the room that is left",
            "rollout.max_tokens, agent.memory, or agent.prompt",
            numbers,
        )
    return Finding("ok", says, numbers=numbers)


@before("episodes")
def completions(subject: Subject) -> Finding:
    """Lengths of right answers against rollout.max_tokens."""
    lengths = [len(call.completion_ids) for call in _calls(subject)]
    room = subject.settings.rollout.max_tokens
    if not lengths:
        return ok(f"unknown; rollout.max_tokens = {room}")
    says = f"{min(lengths)} to {max(lengths)} tokens a turn without thoughts; rollout.max_tokens = {room}"
    numbers = {"min": min(lengths), "max": max(lengths), "max_tokens": room}
    over = sum(length > room for length in lengths)
    if over:
        return Finding(
            "failure",
            says,
            f"{over} of {len(lengths)} right answers are longer than an answer may be",
            "cuts answers at rollout.max_tokens; a cut action is invalid",
            f"rollout.max_tokens, to {2 * max(lengths)} or more",
            numbers,
        )
    return Finding("ok", says, numbers=numbers)


@before("episodes")
def words(subject: Subject) -> Finding:
    """What prompts show survives the tokenizer."""
    renderer, unknown = subject.renderer, subject.tokenizer.unk_token_id
    prompts = [list(call.prompt_ids) for call in _calls(subject)] or [_first_prompt(subject)]
    n_tokens = sum(map(len, prompts))
    lost = (
        []
        if unknown is None
        else [(ids, place) for ids in prompts for place, index in enumerate(ids) if index == unknown]
    )
    texts = [text for text in _shown(subject) if unknown not in renderer.encode_text(text)]
    changed = [text for text in texts if renderer.decode(renderer.encode_text(text)) != text]
    numbers = {"tokens": n_tokens, "unknown": len(lost), "changed": len(changed)}
    if lost:
        ids, place = lost[0]
        return Finding(
            "warning",
            f"{len(lost)} of {n_tokens:,} tokens in {len(prompts)} prompts are unknown, here for one: "
            f"{renderer.decode(ids[max(0, place - 6) : place + 4])!r}",
            "the model cannot tell such words apart",
            "shows them as the tokenizer's unknown token",
            "the environment's options that the model was trained with (--option), agent.prompt, or another tokenizer",
            numbers,
        )
    if changed:
        return Finding(
            "note",
            f"{len(changed)} texts come back changed from the tokenizer, {changed[0][:60]!r} for one",
            "the model reads them in the changed form",
            "keeps token ids, so nothing is changed twice",
            "nothing",
            numbers,
        )
    return Finding(
        "ok", f"{n_tokens:,} tokens in {len(prompts)} prompts, none unknown, no text changed", numbers=numbers
    )


@check("episodes", "logprobs")
def answers(subject: Subject) -> Finding:
    """What the model itself answers to those prompts: does it end, does it hold an action?"""
    from agentrl.doctor.engine import parts
    from agentrl.learning.probes import answers_of

    rollout, made = subject.settings.rollout, subject.agent
    sampling = Sampling(temperature=rollout.temperature, max_tokens=rollout.max_tokens, stop_ids=made.renderer.stop_ids)
    prompts = subject.prompts(ANSWERS) if subject.played else [_first_prompt(subject)] * ANSWERS
    requests = [
        Request(f"doctor={place}/turn=0", prompt, replace(sampling, key=("doctor", "answer", place)))
        for place, prompt in enumerate(prompts)
        if made.context is None or len(prompt) + rollout.max_tokens <= made.context
    ]
    given = answers_of(parts(subject)["policy"], requests)
    ended = sum(completion.finish == "stop" for completion in given)
    parsed = [made.parse(completion.ids) for completion in given]
    good = sum(not one.problem for one in parsed)
    says = f"{good} of {len(given)} sampled answers hold an action, {ended} end within {rollout.max_tokens} tokens"
    numbers = {"answers": len(given), "with_action": good, "ended": ended}
    if given and not good:
        shown = made.renderer.decode(given[0].ids)[:60]
        return Finding(
            "warning",
            f"{says}; one is {shown!r} ({parsed[0].problem})",
            "reinforcement learning has nothing to start from where no answer is ever right",
            "trains on what comes; an invalid answer costs a little (algorithm.rewards)",
            "a warm start (agentrl demos, agentrl sft), agent.prompt, rollout.max_tokens",
            numbers,
        )
    if given and not ended:
        return Finding(
            "warning",
            says,
            "every answer is cut: the model never ends its turn",
            "cuts answers at rollout.max_tokens",
            "rollout.max_tokens; see the check end_of_turn",
            numbers,
        )
    return Finding("ok", says, numbers=numbers)


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _player(subject: Subject) -> OracleAgent | RandomAgent | None:
    assert subject.scene is not None
    env = subject.scene.pool.take()
    has_oracle = hook(env, "oracle") is not None
    subject.scene.pool.put(env)
    if has_oracle:
        return OracleAgent()
    return RandomAgent() if subject.scene.view.info.get("admissible_actions") else None


def _play(subject: Subject, player: OracleAgent | RandomAgent, place: int, task: Task) -> Trajectory:
    assert subject.scene is not None
    scene, key = subject.scene, ("doctor", place)
    env = scene.pool.take()
    episode = Episode("/".join(map(str, key)), task, env, seeding.stream(0, *key), key)
    most = min(scene.table.max_turns or task.max_turns or TURNS, TURNS)
    broken = True
    try:
        run = run_episode(
            DemonstratorAgent(subject.agent, player),
            episode,
            env_id=scene.table.id,
            seed=task.seed,
            group="doctor",
            limits=Limits(max_turns=most),
        )
        trajectory = asyncio.run(run)
        broken = trajectory.outcome.is_fault
    finally:
        scene.pool.put(env, broken=broken)
    return trajectory


def _calls(subject: Subject) -> list[Call]:
    return [call for trajectory in subject.played for call in trajectory.calls()]


def _first_prompt(subject: Subject) -> list[int]:
    assert subject.scene is not None
    return subject.renderer.prompt(subject.agent.messages(subject.scene.view, []))


def _shown(subject: Subject) -> Iterator[str]:
    """Texts that prompts hold: the first message, later observations."""
    assert subject.scene is not None
    for message in subject.agent.messages(subject.scene.view, []):
        yield said(message)
    for trajectory in subject.played:
        for turn in trajectory.turns:
            yield turn.observation
