"""The checks of the optional hooks; where one is missing, what it would gain."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from random import Random
from statistics import median
from typing import Any

import gymnasium

from agentrl.env import FAILURES, hook
from agentrl.env_check.probe import (
    SEEN,
    SHORT_WALK,
    Env,
    Probe,
    Reply,
    Verdict,
    again,
    ask,
    at_random,
    brief,
    depends_on_seed,
    difference,
    given,
    go_on,
    needs,
    play,
    require,
    reset,
)

METHODS, PROPERTIES = (
    ("state_key", "snapshot", "restore", "oracle", "export", "failure"),
    ("admissible_actions", "tools"),
)


@needs("resets")
def check_hooks(probe: Probe) -> str:
    """Hooks are found through wrappers; methods are methods, and snapshot comes with restore."""
    env = probe.fresh()
    reset(env, probe.starts[0])
    wrapped = gymnasium.Wrapper(gymnasium.Wrapper(env))
    found = {name: hook(wrapped, name) for name in (*METHODS, *PROPERTIES)}
    for name, value in found.items():
        written = getattr(type(env.unwrapped), name, None) is not None
        require(value is not None or not written, f"{name} is written, but gives None or raises AttributeError")
        kind = "method" if name in METHODS else "property"
        require(
            value is None or callable(value) == (kind == "method"), f"wanted {name} as a {kind}; got {brief(value)}"
        )
    require((found["snapshot"] is None) == (found["restore"] is None), "wanted both snapshot and restore, or neither")
    return "found: " + (", ".join(name for name, value in found.items() if value is not None) or "none")


@needs("determinism", "hooks")
def check_hooks_pure(probe: Probe) -> str:
    """Asking a hook (state_key, admissible_actions, snapshot, oracle, failure) changes nothing."""
    asked, left = probe.fresh(), probe.fresh()
    for number, start in enumerate(probe.starts):
        walk, choose = [reset(asked, start)], probe.roam(number)
        while len(walk) <= SHORT_WALK and not walk[-1].ended:
            for name in ("snapshot", "oracle", "failure", "state_key"):
                ask(asked, name)
            walk += go_on(asked, walk[-1], choose, 1)[1:]
        text, info = start.reset(left)
        plain = [Reply("", text, 0.0, False, False, info)]
        plain += [Reply(reply.action, *left.step(reply.action)) for reply in walk[1:]]
        found = difference(walk, plain, SEEN[:4])
        require(not found, f"{start}, asked and not asked, {found}")
    return f"{len(probe.starts)} episodes with and without"


@needs("hooks")
def check_admissible(probe: Probe) -> str:
    """admissible_actions is a list of distinct texts, never empty before the end, in info as in the hook."""
    counts = []
    for reply in (reply for walk in probe.walks for reply in walk if not reply.ended):
        told, listed = reply.info.get("admissible_actions"), reply.listed
        if listed is None:
            raise Verdict(
                "skip", "no admissible_actions: they would give random play, masks and a count of bad actions"
            )
        right = isinstance(listed, list) and listed and all(isinstance(action, str) and action for action in listed)
        require(right, f"{reply.where}: wanted a list of texts; got {brief(listed)}")
        require(len(set(listed)) == len(listed), f"{reply.where}: an action is listed twice: {brief(sorted(listed))}")
        require(told in (None, listed), f"{reply.where}: the hook says {brief(listed)}, info says {brief(told)}")
        counts.append(len(listed))
    return f"{min(counts)} to {max(counts)} actions, median {median(counts):g}"


@needs("admissible")
def check_admissible_accepted(probe: Probe) -> str:
    """Every admissible action is accepted (info's is_action_valid, where it is given, is true)."""
    env, walks = probe.fresh(), list(probe.walks)
    for number, start in enumerate(probe.starts):
        actions = reset(env, start).listed
        for action in Random(number).sample(actions, min(SHORT_WALK, len(actions))):
            walks.append(play(env, start, given([action])))
        walks.append(play(env, start, probe.roam(number)))
    replies = [after for walk in walks for here, after in pairwise(walk) if after.action in here.listed]
    for reply in replies:
        valid = reply.info.get("is_action_valid", True)
        require(valid, f"{brief(reply.action)} was listed and then flagged as invalid: {brief(reply.text)}")
    told = any("is_action_valid" in reply.info for reply in replies)
    return f"{len(replies)} actions" + (
        "" if told else "; info has no is_action_valid: all that is known is that none raised"
    )


@needs("hooks_pure")
def check_state_key(probe: Probe) -> str:
    """Equal state keys of a task mean the same admissible actions, and the same reply to the same action."""
    env, visits = probe.fresh(), []
    if hook(env, "state_key") is None:
        raise Verdict("skip", "no state_key(): it would let turns be compared at equal states (GiGPO and its kin)")
    for number, start in enumerate(probe.starts):
        known: dict[Any, Reply] = {}
        for variant in range(8):
            walk = play(env, start, probe.roam(number, variant))
            for here, after in zip(walk, [*walk[1:], None], strict=True):
                require(isinstance(here.key, str), f"{start}: wanted state_key() as a text; got {brief(here.key)}")
                visits.append((start.task and start.task.id, here.key))
                where, twin = f"{start}, state {brief(here.key)}", known.setdefault((here.key, here.ended), here)
                require(here.listed == twin.listed, f"{where}: actions {brief(twin.listed)} and {brief(here.listed)}")
                found = after and difference([known.setdefault((here.key, "then", after.action), after)], [after])
                if found and depends_on_seed(probe.fresh(), start):
                    raise Verdict("warn", "replies depend on the seed, so keys were compared by their actions only")
                require(not found, f"{where}, {found}")
    return f"{len(visits)} decisions at {len(set(visits))} states"


@needs("hooks_pure")
def check_failure(probe: Probe) -> str:
    """failure() says of an episode without success what went wrong, in the fixed words, or None; at any time."""
    env, said = probe.fresh(), []
    if hook(env, "failure") is None:
        raise Verdict("skip", "no failure(): it would say in evaluations whether what a task needs was never found")
    for number, start in enumerate(probe.starts):
        walk, choose = [reset(env, start)], at_random(number)
        while len(walk) <= SHORT_WALK and not walk[-1].info.get("success"):
            found = ask(env, "failure")
            require(
                found in (None, *FAILURES), f"{start}, {walk[-1].where}: wanted {FAILURES} or None; got {brief(found)}"
            )
            said.append(found)
            if walk[-1].ended:
                break
            walk += go_on(env, walk[-1], choose, 1)[1:]
    return ", ".join(f"{said.count(word)} times {word}" for word in (*FAILURES, None))


def _restored(probe: Probe, target: Callable[[Env], Env], carry: Callable[[Any], Any]) -> str:
    """Plays on from snapshots, then again twice from each after ``restore`` in ``target(env)``."""
    env, n_turns = probe.fresh(), 0
    goal = target(env)
    for number, start in enumerate(probe.starts):
        last = play(env, start, probe.roam(number), number)[-1]
        last = reset(env, start) if last.ended else last
        snapshot = env.get_wrapper_attr("snapshot")()
        walk = go_on(env, last, probe.roam(number), SHORT_WALK)
        for time in ("first", "second"):
            if goal is not env:
                play(goal, probe.starts[number - 1], at_random(number), 2)
            goal.get_wrapper_attr("restore")(carry(snapshot))
            now = last._replace(key=ask(goal, "state_key"), admissible=ask(goal, "admissible_actions"))
            found = difference(walk, go_on(goal, now, again(walk), SHORT_WALK))
            require(not found, f"{start}, {time} time, {number} turns in, {found}")
        n_turns += len(walk) - 1
    return f"{n_turns} turns, each twice"


@needs("hooks_pure")
def check_snapshot(probe: Probe) -> str:
    """restore(snapshot()) goes on exactly as before, more than once."""
    if hook(probe.fresh(), "snapshot") is None:
        raise Verdict("skip", "no snapshot() and restore(): they would give branches and trees without replay")
    return _restored(probe, lambda env: env, lambda snapshot: snapshot)


@needs("snapshot")
def check_snapshot_elsewhere(probe: Probe) -> str:
    """A snapshot goes on in another instance, which was playing another task."""
    return _restored(probe, lambda env: probe.fresh(), lambda snapshot: snapshot)


@needs("snapshot_elsewhere")
def check_snapshot_pickle(probe: Probe) -> str:
    """A snapshot survives pickle, and so the way to another process."""
    return _restored(probe, lambda env: probe.fresh(), lambda snapshot: pickle.loads(pickle.dumps(snapshot)))


@needs("ending")
def check_oracle(probe: Probe) -> str:
    """The oracle wins within its plan, with success, a reward above 0 and no more turns than the task allows."""
    env, lengths = probe.fresh(), []
    for start in probe.starts:
        first, oracle = reset(env, start), hook(env, "oracle")
        if oracle is None:
            raise Verdict(
                "skip", "no oracle(): it would give demonstrations, an upper bound, and a win to these checks"
            )
        actions = oracle()
        texts = isinstance(actions, list | tuple) and actions and all(isinstance(action, str) for action in actions)
        require(texts, f"{start}: wanted a list of actions; got {brief(actions)}")
        walk = go_on(env, first, given(actions), len(actions))
        won = walk[-1].terminated and walk[-1].info.get("success") is True
        require(won, f"{start}: no success by {brief(actions)}; the last reply was {brief(walk[-1].text)}")
        reward, limit = sum(float(reply.reward) for reply in walk), start.task.max_turns if start.task else None
        require(reward > 0, f"{start}: won, with a reward of {reward:g}")
        require(limit is None or len(walk) <= limit + 1, f"{start}: won in turn {len(walk) - 1} of {limit}")
        lengths.append(len(walk) - 1)
    if max(lengths) > probe.max_turns:
        raise Verdict("warn", f"{max(lengths)} turns are needed; an episode has max_turns = {probe.max_turns}")
    return f"wins in {min(lengths)} to {max(lengths)} turns"
