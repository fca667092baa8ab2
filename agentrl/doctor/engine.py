"""Checks of what computes: whether sampler and learner are one distribution, and what a run costs here."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from agentrl import build, dry_run, stages
from agentrl.doctor.checks import Finding, collector
from agentrl.doctor.subject import REPLIES, Subject
from agentrl.policies import Request
from agentrl.scenes import Scenes
from agentrl.types import Sampling

BEFORE, before = collector("engine")  # weights are not loaded yet, and their room is still free
CHECKS, check = collector("engine")
ROWS, TOKENS = 8, 8  # prompts that are answered, and tokens of each of two answers: 128 in all
# (mean, max) of |log p sampler - log p trainer| in nats, above which rounding is not the whole story, by model.dtype.
ROUNDING = {"float32": (1e-4, 1e-2), "bfloat16": (0.03, 0.5), "float16": (0.01, 0.2)}
ANOTHER_MODEL = 0.1  # a mean above this: importance ratios are off by a tenth on every token
MOST_REPLY = 64  # tokens of what is shown between the two answers
ASSUMED = 2048  # tokens of the longest sample where no environment tells


def parts(subject: Subject) -> dict[str, Any]:
    """Policy and learner of the model, made once."""
    from agentrl.algorithms.losses import PPOClip
    from agentrl.learning.learner import Learner

    if subject.engines is None:
        model = subject.weights
        policy = build.policy(subject.settings, model)
        learner = Learner(model, PPOClip(), **build.memory_fields(subject.settings))
        subject.engines = {"policy": policy, "learner": learner}
    return subject.engines


@before("template", "vocabulary", "agent")
def memory(subject: Subject) -> Finding:
    """Bytes that a run would need at a time on this machine, by estimate."""
    from agentrl.learning import estimate

    turns, what = _turns(subject)
    plan = dry_run.plan_of(subject.settings, _methods(subject), turns, subject.device)
    needed = estimate.memory(subject.shape, turns, plan)
    peak, free = estimate.peak(needed), estimate.available(subject.device)
    largest = sorted(needed.items(), key=lambda item: -item[1][0])[:3]
    shown = ", ".join(f"{name} {estimate.amount(size, estimate.SIZES)}" for name, (size, _) in largest)
    room = "an unknown amount" if free is None else estimate.amount(free, estimate.SIZES)
    says = f"about {estimate.amount(peak, estimate.SIZES)} to train it, {room} free ({subject.device}); {shown}; {what}"
    numbers = {"peak": peak, "free": free, "parts": {name: size for name, (size, _) in needed.items()}}
    if free is not None and peak > free:
        return Finding(
            "failure" if subject.scene is not None else "warning",
            says,
            "a run with these settings does not fit this machine",
            "says so in agentrl train --dry-run; a run itself ends where memory does",
            'model.dtype = "bfloat16", model.lora, model.gradient_checkpointing, optimizer.token_budget, rollout.batch_size',
            numbers,
        )
    return Finding("ok", says, numbers=numbers)


@check("head", "turns")
def logprobs(subject: Subject) -> Finding:
    """The sampler's log-probs are those that the learner computes for the same tokens."""
    from agentrl.learning import probes

    name = subject.settings.model.dtype
    if name == "float16":
        return Finding(
            "note",
            "not compared",
            "float16 is not trained",
            "samples with it only",
            'model.dtype = "bfloat16", to train',
        )
    made = parts(subject)
    requests, completions = _two_turns(subject, made["policy"])
    found = probes.gap(made["learner"], requests, completions)
    numbers = {"tokens": found.n, "mean": found.mean, "max": found.max, "dtype": name}
    if not found.n:
        return Finding(
            "warning",
            f"rollout.policy = {subject.settings.rollout.policy!r} gives no log-probs",
            "nobody can tell whether it samples from the distribution that is trained",
            "recomputes them with the learner before each update",
            'rollout.policy = "transformers"',
            numbers,
        )
    mean, most = ROUNDING[name]
    shown = f"mean {found.mean:.2g}, max {found.max:.2g} nats over {found.n} sampled tokens ({name}, {subject.device})"
    if found.mean <= mean and found.max <= most:
        return Finding("ok", f"sampler and trainer agree: {shown}", numbers=numbers)
    grave = not math.isfinite(found.mean) or found.mean > ANOTHER_MODEL
    return Finding(
        "failure" if grave else "warning",
        f"sampler and trainer differ: {shown}; rounding explains a mean of {mean:g} and a maximum of {most:g}",
        "updates believe that other tokens were likely than those that were: "
        + ("the two are not one model" if grave else "importance ratios start off 1"),
        'recomputes the old log-probs with the learner (algorithm.old_logprobs = "learner") and writes sampler_gap/mean and '
        "sampler_gap/max of each update",
        'algorithm.token_weights = [{ name = "tis" }] weighs such tokens down, { name = "icepop" } leaves them out; model.dtype = '
        '"float32"; or another rollout.policy',
        numbers,
    )


@check("logprobs", "memory")
def iteration(subject: Subject) -> Finding:
    """Seconds of an iteration on this machine, from a short run that is measured."""
    from agentrl.learning import estimate, probes

    if subject.settings.model.dtype == "float16":
        return Finding(
            "note", "not measured", "float16 is not trained", "samples with it only", 'model.dtype = "bfloat16"'
        )
    made = parts(subject)
    plan = dry_run.plan_of(subject.settings, _methods(subject), _turns(subject)[0], subject.device)
    found = probes.speed(
        made["policy"], made["learner"], lambda rows: _requests(subject, 2 * TOKENS, rows), most_rows=plan.rows
    )
    rates = {name: 1 / max(getattr(found, name), 1e-9) for name in ("read", "sampled", "scored", "trained")}
    shown = (
        f"{rates['read']:,.0f} prompt tokens/s, {rates['sampled']:,.0f} sampled, {rates['trained']:,.0f} trained "
        f"(measured, {found.rows} rows)"
    )
    turns, what = _turns(subject)
    algorithm = subject.settings.algorithm
    scorings = int(algorithm.old_logprobs == "learner") + int(_methods(subject).needs_reference)
    seconds = {
        "generation": found.read * turns.read + found.sampled * turns.sampled,
        "scoring": found.scored * turns.trained_on * scorings,
        "training": found.trained * turns.trained_on * algorithm.epochs,
    }
    total = sum(seconds.values())
    numbers = {"rates": rates, "seconds": seconds, "rows": found.rows}
    if subject.scene is None:
        return Finding("ok", shown, numbers={**numbers, "seconds": {}})
    binds = max(seconds, key=lambda name: seconds[name])
    return Finding(
        "ok",
        f"at most about {estimate.amount(total, estimate.SPANS)} an iteration, most of it {binds}, environments not counted; "
        f"{what}; {shown}",
        numbers=numbers,
    )


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _methods(subject: Subject) -> build.Methods:
    return build.methods(subject.settings.algorithm, state_keys=True, critic=subject.settings.critic is not None)


def _turns(subject: Subject) -> tuple[Any, str]:
    """The ``estimate.Turns`` of an iteration, and what they stand for."""
    from agentrl.learning.estimate import Turns

    settings = subject.settings
    if subject.scene is not None:
        methods, scenes = _methods(subject), Scenes((subject.scene,), subject.scene.tasks)
        states = stages.initial_states(methods, settings.run.seed)
        requests = methods.sampler.propose(states.get("sampler"), 0, scenes.tasks)
        turns = dry_run.upper_bound(settings, scenes, requests, subject.renderer, subject.shape.positions)
        return (
            turns,
            f"{turns.episodes:,} episodes of {turns.turns / turns.episodes:g} turns and up to {turns.longest:,} tokens",
        )
    longest = min(subject.table.context or subject.shape.positions or ASSUMED, ASSUMED)
    rows, sampled = settings.rollout.batch_size, min(settings.rollout.max_tokens, longest)
    turns = Turns(
        episodes=rows,
        turns=rows,
        samples=rows,
        longest=longest,
        read=rows * (longest - sampled),
        sampled=rows * sampled,
        trained_on=rows * longest,
    )
    return turns, f"for {rows} samples of {longest:,} tokens, as no environment was given"


def _requests(subject: Subject, n_tokens: int, rows: int = ROWS) -> list[Request]:
    """Prompts of different lengths, no two alike, short enough for two answers, and no end that would cut an answer short."""
    room = (subject.table.context or subject.shape.positions or ASSUMED) - 4 * TOKENS - MOST_REPLY - 1
    sampling = Sampling(temperature=subject.settings.rollout.temperature, max_tokens=n_tokens)
    return [
        Request(
            f"doctor={place}/turn=0",
            [place % subject.shape.vocabulary, *prompt[-max(room, 1) :]],
            replace(sampling, key=("doctor", place, n_tokens)),
        )
        for place, prompt in enumerate(subject.prompts(rows))
    ]


def _two_turns(subject: Subject, policy: Any) -> tuple[list[Request], list[Any]]:
    """Requests and completions of two turns; the second prompt goes on behind the first answer, from kept keys and values where
    the policy keeps them."""
    from agentrl.learning.probes import answers_of

    first = _requests(subject, TOKENS)
    answers = answers_of(policy, first)
    reply = subject.renderer.extend([], [], [REPLIES])[:MOST_REPLY]
    second = [
        Request(
            request.id.replace("turn=0", "turn=1"),
            [*request.prompt_ids, *answer.ids, *reply],
            replace(request.sampling, key=(*request.sampling.key, 1)),
        )
        for request, answer in zip(first, answers, strict=True)
    ]
    return [*first, *second], [*answers, *answers_of(policy, second)]
