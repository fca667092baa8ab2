"""The checks of what every environment must do, in the order of the output."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from statistics import median
from typing import Any, TypeVar

import gymnasium
from gymnasium.utils import env_checker

from agentrl.env_check.probe import (
    SEEN,
    SHORT_WALK,
    Env,
    Probe,
    Reply,
    Start,
    Verdict,
    again,
    ask,
    at_random,
    brief,
    difference,
    dumped,
    given,
    go_on,
    needs,
    plain,
    plan,
    play,
    require,
    reset,
    same_tasks,
    splits,
    spread,
    step,
)
from agentrl.errors import AgentRLError
from agentrl.types import Task

T = TypeVar("T")
MANY_TASKS = 2_000  # of a split whose ids are compared,
FEW_TASKS, LIST_SECONDS = 200, 1.0  # or as many as can be made in that time, but not fewer
LONG_RUN, LONG_SECONDS = 1_000, 2.0  # turns of one instance, or as many as fit; nothing else plays one so long
NO_TASK = "no task has this id"
BAD_ACTIONS = {
    "an empty text": "",
    "blanks": " \n\t ",
    "garbage": "qwxz %s {0} \\ \x00 ' \" -- ;",
    "10,000 characters": "open " * 2_000,
    "unicode": "öffne die Tür 🚪 打开 \u202e\u0301",
    "special tokens": "<|im_end|><|im_start|>system </s> <action>look</action> <tool_call>{}</tool_call>",
}


# ── the API ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@needs()
def check_builds(probe: Probe) -> str:
    """It can be made, twice at a time, and is a gymnasium.Env."""
    one, two = probe.fresh(), probe.fresh()
    require(isinstance(one, gymnasium.Env), f"wanted a gymnasium.Env; got {type(one).__name__}")
    require(one.unwrapped is not two.unwrapped, "make gave the same instance twice")
    return str(one)


@needs("builds")
def check_api(probe: Probe) -> str:
    """reset gives (text, info); step gives (text, reward, terminated, truncated, info), each of its type."""
    for number, start in enumerate(probe.starts):
        env, choose, action = probe.fresh(), at_random(number), ""
        out = start.reset(env)
        require(isinstance(out, tuple) and len(out) == 2, f"reset gave {brief(out)}")
        out = (out[0], 0.0, False, False, out[1])
        for _ in range(SHORT_WALK):
            require(isinstance(out, tuple) and len(out) == 5, f"step({brief(action)}) gave {brief(out)}")
            reply = Reply(action, *out)
            finite = isinstance(reply.reward, Real) and math.isfinite(reply.reward)
            require(isinstance(reply.text, str), f"{reply.where}: wanted a text; got {brief(reply.text)}")
            require(finite, f"{reply.where}: wanted a finite number as reward; got {brief(reply.reward)}")
            for name, kind in (("terminated", bool), ("truncated", bool), ("info", dict)):
                value = getattr(reply, name)
                require(isinstance(value, kind), f"{reply.where}: wanted {name} as {kind.__name__}; got {brief(value)}")
            if reply.ended:
                break
            action = choose(reply._replace(admissible=ask(env, "admissible_actions"))) or ""
            out = env.step(action)
    return "texts, rewards, ends and infos"


@needs("api")
def check_gymnasium(probe: Probe) -> str:
    """Gymnasium's own checker has nothing to say."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env_checker.check_env(probe.fresh().unwrapped, skip_render_check=True, skip_close_check=True)
    if caught:
        raise Verdict("warn", "\n".join(plain(warning.message) for warning in caught))
    return "no warning"


@needs("api")
def check_random_play(probe: Probe) -> str:
    """Random play up to max_turns runs through."""
    for start in probe.starts:
        limit = start.task.max_turns if start.task else None
        require(limit is None or limit >= 1, f"{start}: wanted Task.max_turns of at least 1; got {limit}")
    ends, turns = sum(walk[-1].ended for walk in probe.walks), sum(len(walk) - 1 for walk in probe.walks)
    return f"{turns} turns in {len(probe.walks)} episodes; {ends} ended by themselves"


@needs("random_play")
def check_resets(probe: Probe) -> str:
    """A reset always gives a start that can be played: twice in a row, in the middle and after the end."""
    env, ends = probe.fresh(), 0
    for number, start in enumerate(probe.starts):
        reset(env, start)
        play(env, start, at_random(number), 3)
        reset(env, start)
        solution = plan(env)
        for choose, turns in ((given(solution), len(solution)), (at_random(number), probe.turns(start))):
            ends += play(env, start, choose, turns)[-1].ended
            play(env, start, at_random(number), 1)
    return f"{ends} of them after the end of an episode"


@needs("resets")
def check_spaces(probe: Probe) -> str:
    """The spaces contain every observation and action."""
    env = probe.fresh()
    for number, start in enumerate(probe.starts):
        for reply in play(env, start, at_random(number)):
            require(env.observation_space.contains(reply.text), f"observation_space lacks {brief(reply.text)}")
            for action in (reply.action, *(reply.listed or ())):
                require(env.action_space.contains(action), f"action_space lacks {brief(action)}")
    return f"{env.observation_space} and {env.action_space}"


@needs("resets")
def check_ending(probe: Probe) -> str:
    """info says ``success`` as a bool, at the end of an episode at the latest."""
    env, walks = probe.fresh(), list(probe.walks)
    for start in probe.starts:
        first = reset(env, start)
        solution = plan(env)
        walks.append(go_on(env, first, given(solution), len(solution)))
    for reply in (reply for walk in walks for reply in walk):
        said = reply.info.get("success", None if reply.ended else False)
        require(isinstance(said, bool), f"{reply.where}: wanted info['success'] as a bool; got {brief(said)}")
    ends = sum(walk[-1].ended for walk in walks)
    if not ends:
        raise Verdict("warn", f"no episode ended within {probe.max_turns} turns, so no end was seen")
    return f"{ends} ends seen"


@needs("resets")
def check_info_json(probe: Probe) -> str:
    """info is JSON (text keys, lists, no tuple, no NaN) and is not changed by later turns."""
    env, n_turns = probe.fresh(), 0
    for number, start in enumerate(probe.starts):
        walk, texts, choose = [reset(env, start)], [], probe.roam(number)
        while len(texts) < len(walk):
            texts.append(dumped(walk[-1].info, f"info {walk[-1].where}"))
            if len(walk) <= SHORT_WALK:
                walk.extend(go_on(env, walk[-1], choose, 1)[1:])
        for reply, text in zip(walk, texts, strict=True):
            require(json.dumps(reply.info) == text, f"info {reply.where} was changed by a later turn: give a copy")
        n_turns += len(walk) - 1
    return f"{n_turns} turns"


@needs("resets")
def check_bad_actions(probe: Probe) -> str:
    """A bad action (empty, garbage, endless, unicode, special tokens) neither raises nor succeeds; play goes on."""
    env, start = probe.fresh(), probe.starts[0]
    for what, action in BAD_ACTIONS.items():
        first = reset(env, start)
        try:
            reply = step(env, action)
            go_on(env, reply._replace(admissible=first.listed), at_random(0), 1)
        except Exception as error:
            raise Verdict("fail", f"{what} raised {type(error).__name__}: {brief(str(error))}") from error
        require(isinstance(reply.text, str), f"{what} was answered by {brief(reply.text)}; wanted a text")
        require(not reply.info.get("success"), f"{what} ended with success")
    return ", ".join(BAD_ACTIONS)


# ── tasks and splits ─────────────────────────────────────────────────────────────────────────────────────────────────


@needs("builds")
def check_tasks(probe: Probe) -> str:
    """tasks(split) lists each split: a sequence of Task with a length at once and distinct ids."""
    sizes = []
    for split, found in splits(probe.fresh()).items():
        sequence = hasattr(found, "__len__") and hasattr(found, "__getitem__")
        require(sequence, f"tasks('{split}'): wanted a sequence; got {type(found).__name__}")
        started, size, ids = time.perf_counter(), len(found), set()
        seconds = time.perf_counter() - started
        for index, task in _many(found):
            where = f"tasks('{split}')[{index}]"
            require(isinstance(task, Task) and task.id, f"{where}: wanted a Task with an id; got {brief(task)}")
            require(task.id not in ids, f"{where} repeats the id '{task.id}'")
            ids.add(task.id)
        told = [f"{len(ids):,} compared"] * (len(ids) < size) + [f"len takes {seconds:.1f} s"] * (seconds > 0.1)
        sizes.append(f"{split} {size:,}" + (f" ({', '.join(told)})" if told else ""))
    require(probe.sampled, "no split has a task")
    return ", ".join(sizes)


def _many(tasks: Sequence[Task]) -> Iterator[tuple[int, Task]]:
    """Places and tasks: some from end to end, then neighbours and others for as long as there is time. (A task may be made when it
    is asked for, and take milliseconds.)"""
    size, end = len(tasks), time.perf_counter() + LIST_SECONDS
    few, many = spread(range(size), FEW_TASKS), spread(range(size), MANY_TASKS)
    for number, place in enumerate(dict.fromkeys((*few, *range(min(size, MANY_TASKS)), *many))):
        if number >= FEW_TASKS and time.perf_counter() > end:
            return
        yield place, tasks[place]


@needs("tasks", "resets")
def check_tasks_stable(probe: Probe) -> str:
    """Two instances list the same tasks in the same order, also after play."""

    def listed(env: Env) -> dict[str, tuple[int, list[Task]]]:
        return {split: (len(tasks), spread(tasks, probe.n_tasks)) for split, tasks in splits(env).items()}

    played = probe.fresh()
    first = listed(played)
    play(played, probe.starts[0], at_random(0))
    require(listed(played) == first, "after play, the same instance lists other tasks")
    require(listed(probe.fresh()) == first, "another instance lists other tasks")
    return f"{sum(len(tasks) for _, tasks in first.values())} tasks compared"


@needs("tasks")
def check_tasks_json(probe: Probe) -> str:
    """A task's options and reference are JSON."""
    for task in (task for tasks in probe.sampled.values() for task in tasks):
        dumped(task.options, f"options of task '{task.id}'")
        dumped(task.reference, f"reference of task '{task.id}'")
    return "as runs store them"


@needs("tasks")
def check_split_ids(probe: Probe) -> str:
    """Splits share no task id, and a task names its split."""
    owner: dict[str, str] = {}
    for split, found in splits(probe.fresh()).items():
        for _, task in _many(found):
            require(task.split == split, f"task '{task.id}' of '{split}' says that its split is '{task.split}'")
            other = owner.setdefault(task.id, split)
            require(other == split, f"task '{task.id}' is in '{other}' and in '{split}'")
    return f"{len(owner):,} ids compared"


@needs("tasks", "resets")
def check_tasks_differ(probe: Probe) -> str:
    """Different tasks are different: in the first text, in the state key or in what follows."""
    tasks = next(iter(probe.sampled.values()))
    pairs = same_tasks(probe.fresh(), tasks)
    told = f"{len(tasks)} tasks, of which the same: {_named(pairs)}"
    require(len(tasks) == 1 or len(pairs) < len(tasks) - 1, f"{told}; is options['task'] read?")
    if pairs:
        raise Verdict("warn", told)
    return f"{len(tasks)} tasks compared"


@needs("tasks_differ", "split_ids")
def check_split_contents(probe: Probe) -> str:
    """Splits share no task under two ids, with the same start and the same replies."""
    if len(probe.sampled) < 2:
        raise Verdict("skip", "one split: a second one would tell what is learned from what is memorised")
    tasks = [task for split in probe.sampled.values() for task in split]
    pairs = [pair for pair in same_tasks(probe.fresh(), tasks) if pair[0].split != pair[1].split]
    require(not pairs, f"the same: {_named(pairs)}")
    return f"{len(tasks)} tasks compared"


def _named(pairs: Sequence[tuple[Task, Task]]) -> str:
    more = f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
    return ", ".join(f"'{one.id}' and '{two.id}'" for one, two in pairs[:3]) + more


@needs("tasks", "resets")
def check_task_by_id(probe: Probe) -> str:
    """reset(options={"task": id}) starts what the Task itself starts, in every split."""
    one, two = probe.fresh(), probe.fresh()
    tasks = [task for split in probe.sampled.values() for task in spread(split, probe.n_walks)]
    for task in tasks:
        first = reset(one, Start(0, task))
        text, info = two.reset(seed=0, options={"task": task.id})
        found = difference([first], [first._replace(text=text, info=info, key=ask(two, "state_key"))])
        require(not found, f"task '{task.id}', {found}")
    return f"{len(tasks)} tasks"


@needs("tasks", "resets")
def check_unknown_task(probe: Probe) -> str:
    """An unknown task is one clear agentrl error that names it, and the environment lives on."""
    env = probe.fresh()
    try:
        env.reset(seed=0, options={"task": NO_TASK})
    except AgentRLError as error:
        told = str(error)
    except Exception as error:
        raise Verdict("fail", f"wanted a GameError; got {type(error).__name__}: {brief(str(error))}") from error
    else:
        raise Verdict("fail", f"wanted a GameError for the id '{NO_TASK}'; it was started")
    require(NO_TASK in told and "\n" not in told, f"wanted one line that names '{NO_TASK}'; got {brief(told)}")
    play(env, probe.starts[0], at_random(0), 1)
    return f"it says: {brief(told)}"


# ── episodes that can be compared ────────────────────────────────────────────────────────────────────────────────────


@needs("resets")
def check_group(probe: Probe) -> str:
    """Members of a group start equal: the same task and seed, whatever was played before."""
    used = probe.fresh()
    for start in probe.starts:
        clean = reset(probe.fresh(), start)
        for member in range(1, 4):
            found = difference([clean], [reset(used, start)])
            require(not found, f"{start}, member {member}, {found}")
            play(used, start, at_random(member))
    return f"{len(probe.starts)} groups of 4"


@needs("resets")
def check_determinism(probe: Probe) -> str:
    """The same seed and actions give the same texts, rewards, infos and state keys in two instances."""
    one, two = probe.fresh(), probe.fresh()
    if one.spec is not None and one.spec.nondeterministic:
        raise Verdict("skip", "registered as nondeterministic: no replay after a fault, no exact resume")
    walks = [play(one, start, probe.roam(number)) for number, start in enumerate(probe.starts)]
    for start, walk in zip(probe.starts, walks, strict=True):
        found = difference(walk, play(two, start, again(walk)), (*SEEN, "info"))
        require(not found, f"{start}, {found}")
    return f"{sum(len(walk) - 1 for walk in walks)} turns in {len(walks)} episodes"


@needs("determinism")
def check_interleaved(probe: Probe) -> str:
    """Two instances that play in turns do not disturb each other."""
    numbers = (0, len(probe.starts) - 1)
    starts = [probe.starts[number] for number in numbers]
    alone = [play(probe.fresh(), probe.starts[number], probe.roam(number)) for number in numbers]
    envs = [probe.fresh(), probe.fresh()]
    mixed = [[reset(env, start)] for env, start in zip(envs, starts, strict=True)]
    for turn in range(1, max(map(len, alone))):
        for env, walk, wanted in zip(envs, mixed, alone, strict=True):
            walk.extend(step(env, reply.action) for reply in wanted[turn : turn + 1])
    for start, wanted, walk in zip(starts, alone, mixed, strict=True):
        found = difference(wanted, walk)
        require(not found, f"{start}, alone and beside another, {found}")
    return f"{sum(len(walk) - 1 for walk in mixed)} turns"


# ── size, time and close ─────────────────────────────────────────────────────────────────────────────────────────────


@needs("resets")
def check_observation_size(probe: Probe) -> str:
    """Observations say something and are short enough for a prompt."""
    require(all(walk[0].text.strip() for walk in probe.walks), "the first observation is empty")
    sizes = [len(reply.text) for walk in probe.walks for reply in walk]
    told = f"median {median(sizes):g}, longest {max(sizes):,} characters"
    if max(sizes) > probe.max_characters:
        raise Verdict("warn", f"{told}, above {probe.max_characters:,}")
    return told


@needs("resets")
def check_latency(probe: Probe) -> str:
    """A long run of one instance goes through; its median times are told, not judged."""
    env, until = probe.fresh(), time.perf_counter() + LONG_SECONDS
    resets: list[float] = []
    steps: list[float] = []
    while len(steps) < LONG_RUN and time.perf_counter() < until:
        number = len(resets)
        text, info = _timed(resets, probe.starts[number % len(probe.starts)].reset, env)
        reply, choose = Reply("", text, 0.0, False, False, info), at_random(number)
        for _ in range(probe.max_turns):
            action = choose(reply._replace(admissible=ask(env, "admissible_actions"))) or ""
            reply = Reply(action, *_timed(steps, env.step, action))
            if reply.ended or time.perf_counter() > until:
                break
    return f"reset {1e6 * median(resets):,.0f} µs, step {1e6 * median(steps):,.0f} µs, over {len(steps):,} turns"


def _timed(times: list[float], call: Callable[[Any], T], argument: Any) -> T:
    began = time.perf_counter()
    result = call(argument)
    times.append(time.perf_counter() - began)
    return result


@needs("resets")
def check_close(probe: Probe) -> str:
    """close() works before the first reset, in the middle and twice, and leaves other instances alone."""
    unused, used, other = probe.fresh(), probe.fresh(), probe.fresh()
    reply = reset(other, probe.starts[0])
    unused.close()
    play(used, probe.starts[0], at_random(0), 1)
    used.close()
    used.close()
    go_on(other, reply, at_random(0), 1)
    return "and another instance played on"
