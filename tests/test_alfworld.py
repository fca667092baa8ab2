"""ALFWorld's own engine as an environment: beside Household on real games, its hooks, and in a process of its own."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import agentrl.env
from agentrl.agents import ExpertAgent, OracleAgent
from agentrl.env import shared_folder
from agentrl.env_check import check_env, failed, render
from agentrl.errors import ConfigError, GameError, MissingExtra
from agentrl.rollouts import EnvPool, Limits, Maker, ProcessPool, Rollouts, play

ROWS = Path(shared_folder(), "data", "alfworld", "games.jsonl.gz")
ID = "agentrl/ALFWorld-v0"
needs_games = pytest.mark.skipif(not ROWS.exists(), reason=f"real ALFWorld games are not at {ROWS}")


def needs_engine() -> None:
    pytest.importorskip("alfworld", reason="alfworld is not installed")
    pytest.importorskip("textworld", reason="textworld is not installed")


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the smallest game of each type in the split valid_seen, and one of train."""
    needs_engine()
    with gzip.open(ROWS, "rt", encoding="utf-8") as file:
        rows = sorted(map(json.loads, file), key=lambda row: len(row["pddl_problem"]))
    seen = {row["task_type"]: row for row in reversed(rows) if row["split"] == "valid_seen"}
    path = tmp_path_factory.mktemp("games") / "games.jsonl"
    chosen = [*seen.values(), next(row for row in rows if row["split"] != "valid_seen")]
    path.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return path


def make(env_id: str, games: Path, **options: Any) -> gymnasium.Env[str, str]:
    return agentrl.env.make(env_id, games=str(games), **options)


def choices(env: gymnasium.Env[str, str], rng: random.Random) -> Iterator[str]:
    """Commands: the planner's, nonsense, and anything admissible."""
    plan: list[str] = []
    for number in itertools.count():
        if number % 8 == 0:
            plan = env.get_wrapper_attr("oracle")()
        draw = rng.random()
        admissible = env.get_wrapper_attr("admissible_actions")
        yield plan.pop(0) if plan and draw < 0.4 else "go west" if draw < 0.5 else rng.choice(admissible)


def side_by_side(games: Path, dialect: str, n_steps: int, n_games: int | None = None) -> int:
    """Plays both environments and finds no difference in observation, reward, end or info; the number of won games."""
    real, native = (make(env_id, games, dialect=dialect) for env_id in (ID, "agentrl/Household-v0"))
    n_won = 0
    for task in native.get_wrapper_attr("tasks")("valid_seen")[:n_games]:
        options = {"task": task}
        assert real.reset(seed=0, options=options) == native.reset(seed=0, options=options)
        coarse: dict[str, str] = {}
        for command in itertools.islice(choices(real, random.Random(task.id)), n_steps):
            reply = native.step(command)
            assert real.step(command) == reply, (task.id, command)
            keys = [env.get_wrapper_attr("state_key")() for env in (real, native)]
            assert coarse.setdefault(*keys) == keys[1]  # the engine's keys are as fine as Household's, or finer
            n_won += reply[2]
            if reply[2]:
                break
    return n_won


@needs_games
def test_a_game_as_household_plays_it(games: Path) -> None:
    side_by_side(games, "move", 10, n_games=1)


@needs_games
@pytest.mark.slow
def test_the_same_observations_as_household(games: Path) -> None:
    assert side_by_side(games, "move", 40) >= 3
    assert side_by_side(games, "put", 10) >= 0


@needs_games
@pytest.mark.slow
def test_game_files_keep_their_own_grammar(games: Path, tmp_path: Path) -> None:
    """A folder as alfworld-download leaves it."""
    from agentrl.envs.alfworld.engine import game_data

    for number, (line, dialect) in enumerate(zip(games.read_text().splitlines()[:2], ("move", "put"), strict=True)):
        row = json.loads(line)
        folder = tmp_path / "valid_seen" / row["task_dir"] / f"trial_{number}"
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_text(json.dumps(game_data(row, dialect)))  # type: ignore[arg-type]
        (folder / "traj_data.json").write_text(json.dumps({"task_type": row["task_type"]}))
    assert side_by_side(tmp_path, "move", 15) >= 0


@needs_games
@pytest.mark.slow
def test_what_makes_it_fast_changes_nothing(games: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_engine()
    from agentrl.envs.alfworld import engine

    def walk() -> list[Any]:
        env = make(ID, games)
        task = env.get_wrapper_attr("tasks")("valid_seen")[0]
        found: list[Any] = [env.reset(seed=0, options={"task": task})]
        for command in itertools.islice(choices(env, random.Random(0)), 12):
            found += [env.step(command), env.get_wrapper_attr("state_key")()]
        return found

    monkeypatch.setattr(sys, "argv", ["agentrl"])  # the translator writes over it
    fast = walk()
    assert sys.argv == ["agentrl"]
    engine.fast(False)
    try:
        assert walk() == fast
    finally:
        engine.fast(True)


@needs_games
@pytest.mark.slow
def test_keeps_the_contract(games: Path) -> None:
    checks = check_env(lambda: make(ID, games, split="valid_seen"), n_tasks=3, n_walks=2, max_turns=12, seeds=(0,))
    assert not failed(checks), render(checks)
    assert {check.name for check in checks if check.status == "pass"} >= {
        *("state_key", "snapshot", "snapshot_elsewhere", "snapshot_pickle", "oracle", "interleaved", "hooks_pure")
    }


@needs_games
@pytest.mark.slow
def test_in_a_process_of_its_own(games: Path) -> None:
    maker = Maker(ID, {"games": str(games)})
    tasks = make(ID, games).get_wrapper_attr("tasks")("valid_seen")[:3]
    pool = ProcessPool(maker, step_timeout_s=30)
    found = []
    try:
        for each in (EnvPool(maker), pool):
            found.append([
                play(Rollouts(each, agent, limits=Limits(max_turns=12)), tasks)
                for agent in (OracleAgent(), ExpertAgent(noise=0.3))
            ])  # fmt: skip
    finally:
        pool.close()
    records = [
        [{**t.to_dict(), "turns": [{**turn, "seconds": 0} for turn in t.to_dict()["turns"]]} for ts in part for t in ts]
        for part in found
    ]
    assert records[0] == records[1]
    assert all(trajectory.success for trajectory in found[1][0])  # the planner wins


@needs_games
def test_a_game_that_the_engine_cannot_load_is_one_clear_error(games: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in games.read_text().splitlines()]
    row = next(row for row in rows if row["task_type"] == "pick_heat_then_place_in_recep")
    row["pddl_problem"] = row["pddl_problem"].replace("agent1 - agent", "")
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(row))
    env = make(ID, path, split="valid_seen")
    with pytest.raises(GameError, match=r"wanted a game that ALFWorld's engine can load; .*agentrl/Household-v0"):
        env.reset(seed=0)
    assert make(ID, games, split="valid_seen").reset(seed=0)[0]


def test_without_games_it_says_what_it_needs() -> None:
    needs_engine()
    with pytest.raises(ConfigError, match=r"needs real games: give games=FOLDER"):
        agentrl.env.make(ID)


def test_without_the_extra_it_says_so() -> None:
    block = "import sys\nclass Block:\n    def find_spec(self, name, path=None, target=None):\n"
    block += "        if name.partition('.')[0] in ('alfworld', 'textworld'): raise ModuleNotFoundError(name)\n"
    code = f"{block}sys.meta_path.insert(0, Block())\nimport agentrl.env\nagentrl.env.make({ID!r}, games='x')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("agentrl/ALFWorld-v0 needs the extra 'alfworld': pip install 'agentrl-toolkit[alfworld]'")
    assert MissingExtra.__name__ in last
