"""``agentrl train --dry-run``: everything is checked, and what a run needs is told before a weight is loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from agentrl import build, seating, stages
from agentrl.agents import Append, ChatAgent, FlowAgent, View
from agentrl.algorithms.method import columns
from agentrl.chat import Renderer, build_tokenizer
from agentrl.chat.tokenizers import is_folder
from agentrl.collecting import check_staleness
from agentrl.config import RunConfig
from agentrl.console import Progress
from agentrl.errors import CheckpointError
from agentrl.scenes import Scene, Scenes
from agentrl.trainer import Trainer, games_of, panel_tasks
from agentrl.types import RolloutRequest


def dry_run(config: RunConfig) -> list[str]:
    """Lines that tell memory and time on this machine. Where the model is at hand and fits, every part of the run is made, too.

    Raises ConfigError and CheckpointError as a run would, but for weights and a tokenizer of the hub that are not at hand.
    """
    from agentrl.learning import estimate

    scenes = Scenes.of(config)
    methods = build.methods(config.algorithm, state_keys=scenes.state_keys, critic=config.critic is not None)
    check_staleness(config, methods)
    states = stages.initial_states(methods, config.run.seed)
    requests = methods.sampler.propose(states.get("sampler"), 0, scenes.tasks)
    renderer, counted = _renderer(config, scenes)
    adapter = None if config.model.lora is None else config.model.lora.model_dump(exclude={"dropout"})
    shape, found = estimate.shape_of(config.model.path, config.model.config, len(renderer.tokenizer), adapter)
    turns = upper_bound(config, scenes, requests, renderer, shape.positions)
    _check_plays(config, methods, scenes)
    scenes.close()
    device, reference = build.device(config), methods.needs_reference
    needed, fits = _memory(config, shape, turns, plan_of(config, methods, turns, device), device)
    beside = f" and {shape.n_adapter:,} of an adapter" if shape.n_adapter else ""
    return [
        f"model     {config.model.path or 'built from model.config'}: {shape.kind}, {shape.n_parameters:,} parameters{beside}, "
        f"{shape.layers} layers of width {shape.hidden:,}; by {found}",
        f"iteration at most {turns.episodes:,} episodes, {turns.turns:,} turns, {turns.samples:,} samples of up to "
        f"{turns.longest:,} tokens{counted}",
        *needed,
        *_cluster(config),
        *_time(config, shape, turns, device, reference),
        *_made(config, fits=fits),
    ]


def _check_plays(config: RunConfig, methods: build.Methods, scenes: Scenes) -> None:
    """What is found without a model: scores that tasks cannot have, panels that cannot be played."""
    stages.check_scores(methods, [scene.tasks[0] for scene in scenes.all])
    panel_tasks(config, scenes)
    if config.evaluation.games is not None:
        games_of(config, config.evaluation.games)[0].close()


def plan_of(config: RunConfig, methods: build.Methods, turns: Any, device: str) -> Any:
    """The ``estimate.Plan`` of a run file."""
    from agentrl.learning.estimate import Plan, is_adapter

    live = min(config.rollout.live(config.env), turns.episodes)
    return Plan(
        token_budget=config.optimizer.token_budget,
        rows=min(config.rollout.batch_size, live),
        dtype=config.model.dtype,
        reference=methods.needs_reference,
        continued=config.model.path is not None and is_adapter(config.model.path),
        cuda=device == "cuda",
        gradient_checkpointing=config.model.gradient_checkpointing,
        logit_chunk=config.optimizer.logit_chunk,
        entropy_gradient=any("entropy" in columns(method) for method in methods.of_update()),
        kept_rows=live,
        kept_bytes=build.kv_cache_bytes(config),
        critic=config.critic is not None,
        ahead=config.rollout.staleness > 0,
    )


def _memory(config: RunConfig, shape: Any, turns: Any, plan: Any, device: str) -> tuple[list[str], bool]:
    """Lines, and whether the run fits. On the CPU learners share one memory; each has a CUDA device of its own. Those of a cluster
    may be anywhere: what is compared is the training process."""
    from agentrl.learning import estimate

    table, alone = config.resources, estimate.memory(shape, turns, plan)
    n, sharded = table.learners, table.sharding == "fsdp2"
    parts = estimate.of_learner(shape, plan, alone, n, sharded=sharded, first=True) if n > 1 else alone
    first, free = estimate.peak(parts), estimate.available(device)
    told, needed = f"about {estimate.amount(first, estimate.SIZES)} at a time", first
    if n > 1:
        other = estimate.peak(estimate.of_learner(shape, plan, alone, n, sharded=sharded, first=False))
        needed = first + (n - 1) * other if device == "cpu" and table.backend == "local" else first
        told += (
            f" in learner 1 of {n} ({table.sharding}; the table below), which samples, {estimate.amount(other, estimate.SIZES)} in "
            f"each other"
        )
        told += f", {estimate.amount(needed, estimate.SIZES)} together" if needed > first else ""
    fits = free is None or needed <= free
    shown = "an unknown amount" if free is None else estimate.amount(free, estimate.SIZES)
    head = f"memory    {told}, {shown} free on this machine ({device})"
    return [head + ("" if fits else ": IT DOES NOT FIT"), *estimate.table(parts, estimate.SIZES)], fits


def _time(config: RunConfig, shape: Any, turns: Any, device: str, reference: bool) -> list[str]:
    from agentrl.learning import estimate

    scorings = int(config.algorithm.old_logprobs == "learner") + int(reference)
    again = config.model.gradient_checkpointing
    epochs = config.algorithm.epochs
    critic_epochs = 0 if config.critic is None else config.critic.epochs or epochs
    work = estimate.operations(
        shape, turns, scorings=scorings, epochs=epochs, gradient_checkpointing=again, critic_epochs=critic_epochs
    )
    speed = estimate.matmul_speed(device, config.model.dtype)
    seconds = sum(value for value, _ in work.values()) / speed
    one, whole = (estimate.amount(span, estimate.SPANS) for span in (seconds, seconds * config.run.iterations))
    return [
        f"time      {one} an iteration, {whole} for {config.run.iterations:,}, if all of it ran at the {speed / 1e9:,.0f} GFLOP/s "
        f"of a matrix product here (N = {shape.n_computing:,}); evaluation not counted",
        *estimate.table(work, estimate.OPERATIONS),
    ]


def _cluster(config: RunConfig) -> list[str]:
    table = config.resources
    if table.backend == "local":
        return []
    from agentrl.cluster.placement import Wanted, check_installed, check_runtime_env

    check_installed()
    check_runtime_env(table)
    where = "a Ray of its own on this machine" if table.address is None else f"the cluster at {table.address}"
    gpus = table.device == "cuda"
    unknown = table.device == "auto" and None in (table.worker_gpus, table.learner_gpus)
    tail = ", and a GPU each where there are any" if unknown else ""
    return [
        f"cluster   {where} would be asked for {Wanted.of(table, gpus=gpus)}{tail}; each worker holds a model and environments"
    ]


def _made(config: RunConfig, *, fits: bool) -> list[str]:
    """Makes the whole run where that is possible, so that what only a real model shows is an error now."""
    from agentrl.learning import estimate

    if config.model.path is not None and not estimate.weights_at_hand(config.model.path):
        return [
            f"checked   all but the model: the weights of {config.model.path} are not at hand, and nothing is downloaded"
        ]
    if not fits:
        return ["checked   all but the model, which was not made because it does not fit"]
    alone = {"backend": "local", "learners": 1} if config.resources.backend == "ray" else {}  # nothing is asked of Ray
    resources = config.resources.model_copy(update=alone)
    trainer = Trainer(config.model_copy(update={"resources": resources}), Progress(), time.time())
    trainer.close()
    return [f"checked   every part of the run was made; {trainer.template}".removesuffix("; ")]


def _renderer(config: RunConfig, scenes: Scenes) -> tuple[Renderer, str]:
    """The run's renderer; where its tokenizer is one of the hub and not at hand, one that counts words, and a remark."""
    try:
        return build.tokenizer(config, scenes.pools)[1], ""
    except CheckpointError:
        if config.model.path is None or is_folder(config.model.path):
            raise
    texts = [text for scene in scenes.all for text in scene.view.fields().values()]
    made = build_tokenizer([*texts, *build.texts_of(config)])
    return Renderer(made), f" (words and signs: the tokenizer of {config.model.path} is not at hand)"


def upper_bound(
    config: RunConfig, scenes: Scenes, requests: Sequence[RolloutRequest], renderer: Renderer, limit: int | None
) -> Any:
    """The ``estimate.Turns`` of an iteration of these requests."""
    from agentrl.learning.estimate import Turns

    by_name = {scene.name: scene for scene in scenes.all}
    agents = {
        name: seating.agent(config, config.agent_of(scene.table), renderer, scene.view, limit)
        for name, scene in by_name.items()
    }
    seating.check_trains(config, agents.values())
    known: dict[tuple[str, int], list[tuple[int, int]]] = {}
    total = Turns(episodes=0, turns=0, samples=0, longest=1, read=0, sampled=0, trained_on=0)
    for request in requests:
        task = request.task
        assert task is not None, "a sampler names the task of each request"
        scene, agent = by_name[task.env], agents[task.env]
        n_turns = request.max_turns or scene.table.max_turns or task.max_turns or 50
        if (scene.name, n_turns) not in known:
            known[scene.name, n_turns] = list(_lengths(agent, scene, n_turns, config.rollout.max_tokens))
        total = _added(total, known[scene.name, n_turns], request.n, one_sample=_extends(agent))
    return total


def _extends(agent: ChatAgent | FlowAgent) -> bool:
    """Whether an episode is one sample."""
    return isinstance(agent, ChatAgent) and isinstance(agent.memory, Append) and not agent.follows_template


def _lengths(agent: ChatAgent | FlowAgent, scene: Scene, n_turns: int, max_tokens: int) -> Iterator[tuple[int, int]]:
    """(prompt, completion) tokens of each turn, where every completion is as long as it may be and every observation as long as
    the first. What the modules of a flow are shown is not known before: a call of each trained one fills the context."""
    view = scene.view
    if isinstance(agent, FlowAgent):
        size = max_tokens if agent.context is None else max(0, agent.context - max_tokens)
        n_trained = sum(speaker.trained for speaker in agent.speakers.values())
        yield from [(size, max_tokens)] * n_trained * n_turns
        return
    action = max(view.info.get("admissible_actions", ()), key=len, default="")
    for turn in range(n_turns):
        seen = View(view.observation, view.info, turn)
        past = [(view.observation, action)] * turn
        if turn and isinstance(agent.memory, Append):
            first, further = agent.messages(view, []), agent.messages(seen, past)
            added = len(agent.renderer.extend([], [], further)) + max_tokens
            n_prompt = len(agent.renderer.prompt(first)) + turn * added
        else:
            n_prompt = len(agent.renderer.prompt(agent.messages(seen, past)))
        room = max_tokens if agent.context is None else min(max_tokens, agent.context - n_prompt)
        if room <= 0:
            return
        yield n_prompt, room


def _added(total: Any, lengths: Sequence[tuple[int, int]], n: int, *, one_sample: bool) -> Any:
    """``total`` and ``n`` episodes of these turns."""
    sizes = [prompt + completion for prompt, completion in lengths] or [0]
    return type(total)(
        episodes=total.episodes + n,
        turns=total.turns + n * len(lengths),
        samples=total.samples + n * (1 if one_sample else len(lengths)),
        longest=max(total.longest, *sizes),
        read=total.read + n * sum(prompt for prompt, _ in lengths),
        sampled=total.sampled + n * sum(completion for _, completion in lengths),
        trained_on=total.trained_on + n * (sizes[-1] if one_sample else sum(sizes)),
    )
