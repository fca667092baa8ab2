"""Tools of a third party: an installed package with an entry point is enough, in this process and in every worker's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = '''
import os
import gymnasium
from agentrl.tool import Toolset, register_tool, tool
from agentrl.tool_env import ToolEnv

@register_tool
@tool(timeout_s=5.0, concurrency=2)
def shout(text: str) -> str:
    """Writes a text in capitals."""
    return text.upper()

@register_tool
class Place(Toolset):
    @tool
    def place(self) -> int:
        """Which process this is."""
        return os.getpid()

def make():
    tasks = {"train": [{"prompt": "Go."}]}
    return ToolEnv(["shout", "place"], tasks, lambda task, answer, calls: 1.0)

gymnasium.register(id="third/Party-v0", entry_point="third_party:make")
'''
ASK = """
import json, os
from agentrl.rollouts import Maker, ProcessPool

if __name__ == "__main__":
    pool = ProcessPool(Maker("third/Party-v0"))
    try:
        env = pool.take()
        env.reset(seed=0)
        call = '<tool_call>{"name": "shout", "arguments": {"text": "here"}}</tool_call>'
        text = env.step(call + '<tool_call>{"name": "place"}</tool_call>')[0]
        print(json.dumps([os.getpid(), text]))
        pool.put(env)
    finally:
        pool.close()
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a Python in which the package ``third_party`` is installed, and a broken one beside it."""
    for name, content in (("third_party", PACKAGE), ("broken_party", "raise RuntimeError('no licence')")):
        (tmp_path / f"{name}.py").write_text(content)
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[agentrl.plugins]\n{name} = {name}\n")
    checkout = Path(__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(checkout)])}


@pytest.mark.slow
def test_an_entry_point_registers_tools_for_run_files_and_worker_processes(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ask.py").write_text(ASK)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "ask.py")],
        env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    here, text = json.loads(done.stdout)
    shouted, place = text.replace("<tool_response>\n", "").replace("\n</tool_response>", "").split("\n")
    assert shouted == "HERE" and place.isdecimal() and int(place) != here
    assert "plug-in 'broken_party'" in done.stderr and "no licence" in done.stderr


@pytest.mark.slow
def test_agentrl_list_tools_shows_them(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agentrl", "list", "tools", "--json"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert {"shout", "place"} <= {row["name"] for row in json.loads(done.stdout)["tools"]}
