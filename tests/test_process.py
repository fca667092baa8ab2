"""Environments in processes: the same play, enforced timeouts, deaths, and nothing that is left behind. Processes are real,
are really killed, and really hang."""

from __future__ import annotations

import asyncio
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

pytest.importorskip("transformers")

import toy_processes
from test_rollouts import RIGHT, agent, shown
from toys import Answering, Corridor

import agentrl.env
from agentrl.agents import ExpertAgent, OracleAgent, RandomAgent
from agentrl.config import load, parse
from agentrl.env import hook
from agentrl.env_check import check_env, failed, render
from agentrl.errors import ConfigError, EnvFault, EnvTimeout, GameError, MissingExtra
from agentrl.rollouts import EnvPool, Limits, Maker, ProcessPool, Rollouts, play
from agentrl.rollouts.worker import Inbox, children, packed, told
from agentrl.types import Outcome, RolloutRequest, Sampling, Task

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes need fork")

TASKS = Corridor().tasks("train")  # lengths 2, 3, 4, 2, 3, 4
TESTS = Path(__file__).parent
SOON_S = 60.0  # for what takes milliseconds on an idle machine
Make = Callable[..., ProcessPool]


@pytest.fixture
def pool_of() -> Iterator[Make]:
    """Makes pools; they are closed at the end, and no process is left then."""
    made: list[ProcessPool] = []

    def make(factory: Any, **timeouts: float) -> ProcessPool:
        made.append(ProcessPool(factory, **timeouts))
        return made[-1]

    yield make
    keepers = [pool._launcher._process for pool in made]
    for pool in made:
        pool.close()
    assert [keeper.poll() for keeper in keepers if keeper is not None and keeper.poll() is None] == []


def unruly(**options: Any) -> Any:
    return functools.partial(toy_processes.Unruly, **options)


def rollouts(pool: EnvPool, actor: Any = None, policy: Any = None, **changes: Any) -> Rollouts:
    return Rollouts(pool, actor or OracleAgent(), policy, sampling=Sampling(max_tokens=8), **changes)


def gone(pid: int) -> bool:
    """Whether a process has ended (and was buried, or is about to be)."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def eventually(condition: Callable[[], Any]) -> bool:
    ends = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


# ── the same play ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("actor", [RandomAgent(), OracleAgent(), ExpertAgent(noise=0.3)])
def test_the_same_trajectories_as_inline(pool_of: Make, actor: Any) -> None:
    inline = play(rollouts(EnvPool(Corridor), actor, limits=Limits(max_turns=9)), TASKS)
    apart = play(rollouts(pool_of(Corridor), actor, limits=Limits(max_turns=9), max_live=2), TASKS)
    assert [shown(t) for t in apart] == [shown(t) for t in inline]


def test_the_same_trajectories_with_a_model_and_household(pool_of: Make) -> None:
    maker = Maker("agentrl/Household-v0", {"difficulty": "tiny"})
    tasks = agentrl.env.make("agentrl/Household-v0", difficulty="tiny").get_wrapper_attr("tasks")("train")[:3]
    requests, found = [RolloutRequest(task, 2) for task in tasks], []
    for pool in (EnvPool(maker), pool_of(maker)):
        policy = Answering(lambda request: RIGHT)
        groups = rollouts(pool, agent(), policy, limits=Limits(max_turns=3)).run(requests, ("iteration", 0))
        found.append(([[shown(member) for member in group] for group in groups], policy.batches))
    assert found[0] == found[1]  # which requests share a batch, too


@pytest.mark.slow
def test_keeps_the_contract(pool_of: Make) -> None:
    pool = pool_of(Maker("agentrl/Household-v0", {"difficulty": "tiny"}))
    checks = check_env(pool.take, n_tasks=2, n_walks=2, max_turns=6)
    assert not failed(checks), render(checks)
    assert {check.name for check in checks if check.status == "pass"} >= {
        *("gymnasium", "determinism", "interleaved", "state_key", "snapshot_pickle", "oracle", "unknown_task", "close")
    }


def test_hooks_of_every_kind(pool_of: Make) -> None:
    env = pool_of(toy_processes.Hooked).take()
    assert hook(env, "snapshot") is None and hook(env, "nonsense") is None
    assert hook(env, "size") == 3 and hook(env, "admissible_actions") == ["go left", "go right"]
    assert hook(env, "vocabulary")() == ["one", "two"]
    assert hook(env, "tasks")("train") == TASKS
    env.reset(seed=3, options={"task": TASKS[1]})
    assert hook(env, "oracle")() == ["go right"] * 3
    assert agentrl.env.environment(env) == "Hooked"
    with pytest.raises(Exception, match=r"lock gave a lock that cannot be sent to another process"):
        env.get_wrapper_attr("lock")()
    assert env.step("go right")[1] == 0.0  # and lives on


def test_workers_do_not_draw_alike(pool_of: Make) -> None:
    pool = pool_of(toy_processes.Hooked)
    assert len({pool.take().get_wrapper_attr("draw")() for _ in range(3)}) == 3


def test_exceptions_arrive_with_type_message_and_traceback(pool_of: Make) -> None:
    pool = pool_of(unruly(trouble="raise", at=1))
    env = pool.take()
    with pytest.raises(GameError, match="no task 'nonsense' in Unruly"):
        env.reset(options={"task": "nonsense"})
    env.reset(options={"task": TASKS[0]})
    with pytest.raises(ValueError, match="a hole") as caught:
        env.step("go right")
    assert str(caught.value) == "a hole"
    assert "toy_processes.py" in caught.value.__notes__[0]
    odd = pool_of(unruly(trouble="raise odd", at=0)).take()
    with pytest.raises(EnvFault, match="Odd: one and two"):
        odd.reset(options={"task": TASKS[0]})
    assert isinstance(told(MissingExtra("alfworld", "this"))[1], bytes)


def test_messages_may_come_in_any_pieces() -> None:
    sent = [None, "text", {"a": [1, 2]}, b"x" * 100_000]
    stream, inbox, found = b"".join(map(packed, sent)), Inbox(), []
    for start in range(0, len(stream), 7):
        inbox.feed(stream[start : start + 7])
        found += list(inbox.messages())
    assert found == sent


def test_long_texts_go_both_ways(pool_of: Make) -> None:
    env = pool_of(Maker("agentrl/Household-v0", {"difficulty": "tiny"})).take()
    env.reset(seed=0)
    assert env.step("open " * 1_000_000)[0] == "Nothing happens."
    task = Task("long", options={"length": 2, "text": "x" * 3_000_000})
    assert asyncio.run(pool_of(Corridor).take().ask("reset", options={"task": task}))[1]["goal"] == "reach the end"  # type: ignore[attr-defined]


# ── timeouts and deaths ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("trouble", "at"), [("hang", 2), ("spin", 2), pytest.param("hang", 0, marks=pytest.mark.slow)])
def test_one_that_does_not_answer_is_killed_and_retried(pool_of: Make, tmp_path: Path, trouble: str, at: int) -> None:
    healthy = play(rollouts(EnvPool(Corridor)), TASKS[2:3])
    healthy[0].env = "Unruly"
    pool = pool_of(unruly(trouble=trouble, at=at, once=str(tmp_path / "once")), step_timeout_s=1.0, reset_timeout_s=3.0)
    hanging = pool.take()
    pool.put(hanging)
    player = rollouts(pool)
    assert [shown(t) for t in play(player, TASKS[2:3])] == [shown(t) for t in healthy]
    assert player.stats.n_retries == 1
    assert eventually(lambda: gone(hanging.pid))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_one_that_always_hangs_is_env_timeout_and_the_others_play(pool_of: Make) -> None:
    pool = pool_of(unruly(trouble="hang", only=TASKS[1].id), step_timeout_s=1.0)
    found = play(rollouts(pool, attempts=2), TASKS[:4])
    assert [t.outcome for t in found] == [Outcome.TERMINATED, Outcome.ENV_TIMEOUT, *[Outcome.TERMINATED] * 2]
    assert found[1].error == "step took longer than env.step_timeout_s = 1 s; its process was killed"
    assert [turn.action for turn in found[1].turns] == ["go right"] * 2  # also the one that it did not answer


@pytest.mark.parametrize(
    ("trouble", "how"),
    [
        ("segfault", "of SIGSEGV"),
        ("exit", "with exit status 7"),
        ("sys.exit", "with exit status 8"),
        ("kill", "of SIGKILL (killed from outside; was there enough memory?)"),
    ],
)
def test_one_that_dies_is_env_fault_and_says_how(pool_of: Make, tmp_path: Path, trouble: str, how: str) -> None:
    pool = pool_of(unruly(trouble=trouble, only=TASKS[0].id))
    found = play(rollouts(pool, attempts=1), TASKS[:3])
    assert [t.outcome for t in found] == [Outcome.ENV_FAULT, Outcome.TERMINATED, Outcome.TERMINATED]
    assert found[0].error == f"the environment's process died {how} in step"
    player = rollouts(pool_of(unruly(trouble=trouble, once=str(tmp_path / "once"))))
    assert play(player, TASKS[2:3])[0].success and player.stats.n_retries == 1


def test_a_worker_that_is_killed_while_it_is_idle(pool_of: Make) -> None:
    pool = pool_of(Corridor)
    env = pool.take()
    env.reset(options={"task": TASKS[0]})
    os.kill(env.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(EnvFault, match=r"died of SIGKILL .* in step"):
        env.step("go right")
    with pytest.raises(EnvFault, match="cannot answer: it died"):
        env.step("go right")


def test_the_keeper_may_die_too(pool_of: Make) -> None:
    """Its workers die with it, and the episodes get others of a new one."""
    pool = pool_of(Corridor)
    env = pool.take()
    keeper = pool._launcher._process
    assert keeper is not None
    keeper.kill()
    assert eventually(lambda: gone(env.pid))  # type: ignore[attr-defined]
    pool.put(env)
    player = rollouts(pool, max_live=1)
    assert [t.success for t in play(player, TASKS[:2])] == [True, True]
    assert player.stats.n_retries == 0


def test_workers_that_died_while_nobody_used_them_cost_no_episode_a_try(pool_of: Make) -> None:
    pool = pool_of(Corridor)
    idle: list[Any] = [pool.take() for _ in range(3)]
    for env in idle:
        env.reset(options={"task": TASKS[0]})
        pool.put(env)
        os.kill(env.pid, signal.SIGKILL)
    assert eventually(lambda: all(gone(env.pid) for env in idle))
    assert eventually(lambda: not any(env.lives() for env in idle))
    player = rollouts(pool, max_live=1, attempts=1)
    assert [t.success for t in play(player, TASKS[:2])] == [True, True]


def test_a_call_that_was_given_up_is_not_answered_by_the_next(pool_of: Make) -> None:
    env: Any = pool_of(functools.partial(toy_processes.Slow, 0.5)).take()

    async def impatient() -> None:
        await asyncio.wait_for(env.ask("reset", options={"task": TASKS[0]}), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    with pytest.raises(EnvFault, match="given up in the middle"):
        env.reset(options={"task": TASKS[0]})
    env.close()
    assert eventually(lambda: gone(env.pid))


def test_an_answer_that_came_while_the_loop_was_busy_is_no_timeout(pool_of: Make) -> None:
    env: Any = pool_of(Corridor, step_timeout_s=0.3).take()
    env.reset(options={"task": TASKS[0]})

    async def busy() -> Any:
        asked = asyncio.create_task(env.ask("step", "go right"))
        await asyncio.sleep(0)  # it is sent
        time.sleep(1.0)  # a generation that holds the loop
        return await asked

    assert asyncio.run(busy())[0].startswith("You stand at")


# ── nobody waits ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_slow_environments_work_side_by_side(pool_of: Make) -> None:
    """Six episodes of 3 to 5 waits of 0.3 s are 7.2 s one after another and 1.5 s side by side."""
    pool = pool_of(toy_processes.Slow)
    for env in [pool.take() for _ in TASKS]:
        env.reset(options={"task": TASKS[0]})  # they are all there
        pool.put(env)
    started = time.perf_counter()
    assert all(t.success for t in play(rollouts(pool), TASKS))
    assert time.perf_counter() - started < 4.0


@pytest.mark.slow
def test_a_hanging_environment_does_not_block_the_loop(pool_of: Make) -> None:
    """Short episodes end while one hangs."""
    pool = pool_of(unruly(trouble="hang", only=TASKS[0].id), step_timeout_s=3.0)
    ended: list[tuple[str, float]] = []
    started = time.perf_counter()
    requests = [RolloutRequest(task, 1) for task in TASKS]
    player = rollouts(pool, attempts=1)
    player.run(requests, ("iteration", 0), lambda t: ended.append((t.task.id, time.perf_counter() - started)))
    assert ended[-1][0] == TASKS[0].id and ended[-1][1] > 3.0
    assert all(seconds < ended[-1][1] for _, seconds in ended[:-1]) and len(ended) == 6


# ── nothing is left behind ───────────────────────────────────────────────────────────────────────────────────────────


def test_closing_the_pool_ends_every_process(pool_of: Make, tmp_path: Path) -> None:
    log = tmp_path / "closed"
    pool = pool_of(functools.partial(toy_processes.Closing, str(log)))
    envs: list[Any] = [pool.take() for _ in range(3)]
    for env in envs:
        env.reset(options={"task": TASKS[0]})
        pool.put(env)
    keeper = pool._launcher._process
    assert keeper is not None and children(keeper.pid) == {env.pid for env in envs}
    pool.close()
    assert keeper.poll() is not None and all(gone(env.pid) for env in envs)
    assert sorted(map(int, log.read_text().split())) == sorted(env.pid for env in envs)  # each closed its environment
    with pytest.raises(EnvFault, match="it was closed"):
        envs[0].step("go right")
    env = pool.take()  # a closed pool can be used again
    assert env.reset(options={"task": TASKS[0]})[1]["goal"] == "reach the end"


def pids(log: Path) -> list[int]:
    return [int(pid) for line in log.read_text().splitlines() for pid in line.split()] if log.exists() else []


@pytest.mark.skipif(sys.platform != "linux", reason="finds what has left its process group through /proc")
@pytest.mark.parametrize("trouble", ["hang", "segfault", "close", "pool"])
def test_the_children_of_an_environment_end_with_it(pool_of: Make, tmp_path: Path, trouble: str) -> None:
    log = tmp_path / "pids"
    what = "" if trouble in ("close", "pool") else trouble
    pool = pool_of(functools.partial(toy_processes.Parent, str(log), what), step_timeout_s=0.5)
    env, other = pool.take(), pool.take()
    other.reset(options={"task": TASKS[0]})
    others = pids(log)
    env.reset(options={"task": TASKS[0]})
    mine = pids(log)[3:]
    assert len(mine) == 3 and not any(map(gone, mine))
    if trouble == "pool":
        pool.close()
    elif trouble == "close":
        env.close()
    else:
        with pytest.raises(EnvTimeout if trouble == "hang" else EnvFault):
            env.step("go right")
    assert eventually(lambda: all(map(gone, mine)))
    if trouble != "pool":
        assert not any(map(gone, others))  # which are somebody else's


SCRIPT = """
import functools, sys, time
import toy_processes
from agentrl.rollouts import ProcessPool, Rollouts, play
from agentrl.agents import OracleAgent
if __name__ == "__main__":
    pool = ProcessPool(functools.partial(toy_processes.Parent, sys.argv[1], "hang"))
    play(Rollouts(pool, OracleAgent()), toy_processes.Corridor().tasks("train")[:3])
"""


def script(tmp_path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.Popen([sys.executable, str(path), *arguments], env=environ, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_parent_that_was_ended(tmp_path: Path, how: signal.Signals) -> None:
    """Its environments hang, and have children in other sessions."""
    log = tmp_path / "pids"
    parent = script(tmp_path, str(log))
    try:
        assert eventually(lambda: len(pids(log)) == 9)
        (keeper,) = children(parent.pid)
        started = [keeper, *pids(log)]
        assert not any(map(gone, started))
        parent.send_signal(how)
        parent.wait(SOON_S)
        assert eventually(lambda: all(map(gone, started)))
    finally:
        parent.kill()
        parent.communicate()


def test_a_fork_of_the_parent_does_not_end_the_workers(pool_of: Make) -> None:
    env = pool_of(Corridor).take()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside torch's threads is what we do not do
        pid = os.fork()
    if pid == 0:
        try:
            env.spec = None
            del env
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert env.reset(options={"task": TASKS[0]})[1]["goal"] == "reach the end"
    assert multiprocessing.active_children() == []


# ── what the user did wrong ──────────────────────────────────────────────────────────────────────────────────────────


def test_what_another_process_cannot_make_is_one_clear_error(pool_of: Make) -> None:
    with pytest.raises(ConfigError, match=r"needs an environment that can be named to another process.*; give an id"):
        ProcessPool(lambda: Corridor())
    with pytest.raises(EnvFault, match="Odd: no server and no data"):
        pool_of(toy_processes.Unmade).take()
    with pytest.raises(ConfigError, match="no environment 'agentrl/Houshold-v0'"):
        Maker("agentrl/Houshold-v0")
    with pytest.raises(ConfigError, match=r"has no option 'dificulty'\. Did you mean 'difficulty'\?"):
        pool_of(Maker("agentrl/Household-v0", {"dificulty": "tiny"})).take()


def test_an_id_that_only_this_process_has_registered(pool_of: Make) -> None:
    gymnasium.register(id="toy/Late-v0", entry_point="toys:Corridor")
    try:
        env = pool_of(Maker("toy/Late-v0")).take()
        assert env.reset(seed=0)[1]["goal"] == "reach the end" and env.spec.id == "toy/Late-v0"  # type: ignore[union-attr]
    finally:
        del gymnasium.registry["toy/Late-v0"]


def test_the_run_file(tmp_path: Path) -> None:
    env = {"id": "toy/Unruly-v0", "isolation": "process", "step_timeout_s": 2, "reset_timeout_s": 3.5}
    (table,) = parse({"env": env}).env
    assert (table.isolation, table.step_timeout_s, table.reset_timeout_s) == ("process", 2.0, 3.5)
    for key in ("step_timeout_s", "reset_timeout_s"):
        with pytest.raises(ConfigError, match=rf"env.{key} = 5, but .* cannot be stopped"):
            parse({"env": {"id": "x", key: 5.0}})
        with pytest.raises(ConfigError, match=rf"env.{key}: .*greater than 0"):
            parse({"env": {**env, key: 0.0}})
    with pytest.raises(ConfigError, match=r"env.isolation: .*'inline' or 'process'"):
        parse({"env": {"id": "x", "isolation": "thread"}})


# ── whole commands ───────────────────────────────────────────────────────────────────────────────────────────────────


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    line = [sys.executable, "-m", "agentrl", *arguments]
    return subprocess.run(line, env=environ, capture_output=True, text=True, timeout=240, cwd=TESTS)


@pytest.mark.slow
def test_evaluation_by_command_line(tmp_path: Path) -> None:
    line = ("eval", "toy_processes:toy/Printing-v0", "--policy", "oracle", "--episodes", "3", "--json")
    inline, apart = command(*line), command(*line, "--isolation", "process", "--out", str(tmp_path / "run"))
    assert apart.returncode == 0, apart.stderr
    result, wanted = json.loads(apart.stdout), json.loads(inline.stdout[inline.stdout.index("{") :])
    assert "loading the engine" in apart.stderr  # what an environment prints is not the command's output
    for key in ("success_rate", "n", "mean_turns", "by_type", "faults"):
        assert result[key] == wanted[key], key
    assert (tmp_path / "run" / "config.toml").read_text().count('isolation = "process"') == 1
    refused = command(*line, "--step-timeout-s", "30")
    assert refused.returncode == 2 and 'env.isolation = "process"' in refused.stderr


@pytest.mark.slow
def test_training_gives_the_same_run(tmp_path: Path) -> None:
    from toy_runs import assert_same_run, run_file

    from agentrl.console import Progress
    from agentrl.trainer import train

    path = run_file(tmp_path)
    for name in ("inline", "process"):
        settings = load(path, ("run.iterations=2", f"env.isolation={name}"))
        train(settings, tmp_path / name, progress=Progress())
    assert_same_run(tmp_path / "inline", tmp_path / "process")
