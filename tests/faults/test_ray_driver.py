"""A driver on Ray that is killed: what a user's script defines is seen in its workers, and they end with it."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="resources.backend = 'ray' needs the extra 'ray'")

from drivers import PATHS, Driver, until
from toy_runs import run_file

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

SCRIPT = '''
import sys, gymnasium
from toys import Corridor, PROMPT
from agentrl.config import load
from agentrl.trainer import train

class Mine(Corridor):
    """An environment of the script itself."""

    def vocabulary(self):
        return [PROMPT, "reach the end", "You stand at 0 of 9 1 2 3 4 5 6 7 8.", "go left", "go right"]

if __name__ == "__main__":
    gymnasium.register("mine/Corridor-v0", Mine)
    train(load(sys.argv[1], sys.argv[2:]), "run")
'''


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")
def test_plug_ins_of_a_script_are_seen_in_workers_which_end_with_a_killed_driver(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    text = run_file(tmp_path).read_text().replace("agentrl/Household-v0", "mine/Corridor-v0")
    text = (
        text.replace('options = { difficulty = "tiny" }\n', "")
        .replace("{places}\\n", "")
        .replace("You hold {held}\\n", "")
    )
    (tmp_path / "tiny.toml").write_text(text)
    mark, err = uuid.uuid4().hex, tmp_path / "err"
    path = os.pathsep.join(PATHS)
    arguments = ["tiny.toml", "resources.backend=ray", "run.iterations=100000", "evaluation.episodes=0"]
    nobody: Any = None  # it is no fork
    with err.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "script.py", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path, "FAULTS_MARK": mark}, stdout=file, stderr=file,
        )  # fmt: skip
    driver = Driver(nobody, process.pid, mark, err)
    try:
        told = tmp_path / "run" / "metrics.jsonl"
        until(lambda: process.poll() is not None or (told.exists() and told.read_text() != ""), "a first iteration")
        assert process.poll() is None, driver.said()
        assert any("ray::RolloutWorker" in command for command in driver.started().values())
    finally:
        process.kill()
        process.wait()
    assert driver.nothing_left()
