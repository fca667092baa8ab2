"""When most episodes fail, the run stops: with the last error, the episodes, and a command that plays one of them again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import toy_runs
from drivers import Nursery
from test_rollouts import KEY, TASKS, player
from toy_runs import summary, tiny
from toys import Corridor

from agentrl.console import Progress
from agentrl.errors import TooManyFaults
from agentrl.evaluator import evaluate
from agentrl.store import read_trajectories
from agentrl.trainer import train
from agentrl.types import RolloutRequest

TIS = 'algorithm.token_weights=[{name = "tis"}]'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "record"),
    [
        ((), "eval_before_sampled"),
        (("evaluation.episodes=0",), "iteration_000000"),
        (("evaluation.episodes=0", "rollout.staleness=1", TIS), "iteration_000000"),
    ],
)
def test_the_error_of_a_run_that_fails_leads_to_its_faults(
    changes: tuple[str, ...], record: str, nursery: Nursery, place: Path
) -> None:
    driver = nursery.train(place, *changes, "rollout.attempts=2", "--out", "run", always=1)
    assert driver.wait() == 1
    said = driver.said().strip()
    assert len(said.splitlines()) == 1 and "failed by the machinery's fault" in said
    assert "the last by env_fault: step raised OSError: the kitchen burns after 1 turns" in said
    kept = list(read_trajectories(place / "run" / "trajectories" / f"{record}.jsonl.zst"))
    assert len(kept) == (3 if "eval" in record else 5) and all(trajectory.outcome.is_fault for trajectory in kept)
    assert all(trajectory.turns for trajectory in kept), "with the action that broke it"
    assert summary(place / "run")["status"] == "failed" and summary(place / "run")["error"].endswith(said[9:])
    (line,) = re.findall(r"agentrl (replay run .*)$", said)
    ids = [shlex.split(line)[-1], *re.findall(r"they are ([^ ,]+),", said)]
    assert set(ids) <= {trajectory.id for trajectory in kept} and ids[0] == kept[-1].id
    if changes:
        return  # the same command, of another file
    burns: dict[str, int] = {"always": 1}
    for id, faults, words in ((ids[0], burns, "fails again: OSError: the kitchen burns"), (ids[1], {}, "this time")):
        replayed = nursery.call(place, "agentrl.cli:main", ["replay", "run", id], **faults)
        assert replayed.wait() == 0, replayed.said()
        shown = replayed.err.with_suffix(".out").read_text()
        assert words in shown and "the record ends with: step raised OSError: the kitchen burns" in shown


def test_a_run_without_an_episode_that_could_be_scored_stops_likewise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toy_runs.CALLS.clear()
    config = tiny(tmp_path, 'algorithm.scores=[{name="toy_runs:Faulting", failures=99}]', "evaluation.episodes=0")
    words = r"in 3 iterations, .*the judge is down.*agentrl replay run iteration=2/"
    with pytest.raises(TooManyFaults, match=words) as error:
        train(config, Path("run"), progress=Progress())
    kept = list(read_trajectories(tmp_path / "run" / "trajectories" / "iteration_000002.jsonl.zst"))
    assert [trajectory.id for trajectory in kept] == [trajectory.id for trajectory in error.value.episodes]
    assert len(kept) == 8


def test_an_evaluation_keeps_its_faults_or_says_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from faulty import plan

    monkeypatch.setenv("FAULTS", '{"always": 1}')
    plan.cache_clear()
    with pytest.raises(TooManyFaults, match=r"with --out FOLDER they are kept, and `agentrl replay FOLDER ID` plays"):
        evaluate("faulty:faults/Household-v0", "random", 6)
    with pytest.raises(TooManyFaults, match=f"agentrl replay {tmp_path}/found "):
        evaluate("faulty:faults/Household-v0", "random", 6, out=tmp_path / "found")
    assert len(list(read_trajectories(tmp_path / "found" / "trajectories" / "eval.jsonl.zst"))) == 4
    monkeypatch.setenv("FAULTS", "{}")
    plan.cache_clear()
    result = evaluate("faulty:faults/Household-v0", "random", 6, out=tmp_path / "found", resume=True)
    plain = evaluate("faulty:faults/Household-v0", "random", 6)
    assert (result["n"], result["faults"], result["mean_turns"]) == (6, 0, plain["mean_turns"])


@pytest.mark.parametrize(("n_well", "stops_at"), [(0, 16), (1, 51)])
def test_of_a_long_panel_in_which_nothing_works_few_episodes_are_tried(n_well: int, stops_at: int) -> None:
    class Failing(Corridor):
        n = 0

        def reset(self, **kwargs: Any):
            Failing.n += 1
            if Failing.n > n_well:
                raise OSError("no server")
            return super().reset(**kwargs)

    with pytest.raises(TooManyFaults, match=f"^{stops_at} of 100 episodes failed"):
        player(env=Failing, attempts=1, max_live=1).run([RolloutRequest(TASKS[0], 100)], KEY)
