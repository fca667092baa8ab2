"""Self-refinement: a draft, a frozen checkpoint's own word, and a second draft that knows it. Under a minute on one core.

python examples/11_self_refine.py
"""

import tempfile
import tomllib
from pathlib import Path

import agentrl
from agentrl.agents import Caller, View
from agentrl.agents.flow import flow
from agentrl.chat import ActionFormat
from agentrl.config import find
from agentrl.store import read_trajectories

SHIPPED = find("quickstart")
CONFIG = tomllib.loads(SHIPPED.read_text())
PROMPT = CONFIG["agent"]["prompt"]  # what the shipped start was taught


@flow("self_refine", roles={"writer": "trained", "reviewer": "checkpoint:warmstart"})
async def self_refine(view: View, call: Caller) -> str:
    """One turn: where the reviewer would do something else, the writer is asked once more, with that as its latest thought."""
    done: list[str] = call.state.setdefault("done", [])  # fresh for each episode

    async def draft(role: str, *thoughts: str) -> str:
        history = "".join(f"{action}; " for action in (*done[-3:], *thoughts))
        said = await call(role, PROMPT.format_map({**view.fields(), "history": history}))
        return ActionFormat().parse(said.text).action

    action, other = await draft("writer"), await draft("reviewer")
    if action != other:
        action = await draft("writer", other)
    done.append(action)
    return action


if __name__ == "__main__":
    CONFIG["model"]["path"] = str(SHIPPED.parent / "warmstart")
    CONFIG["agent"] = {"name": "self_refine", "limits": {"calls": 3}}
    CONFIG["algorithm"]["sampler"] = {"name": "uniform", "tasks": 3, "group_size": 4}
    CONFIG |= {"evaluation": {"episodes": 0}, "resources": {"device": "cpu", "threads": 1}}
    with tempfile.TemporaryDirectory() as folder:
        summary = agentrl.train(CONFIG, "run.iterations=2", out=Path(folder) / "run")
        played = list(read_trajectories(Path(folder) / "run" / "trajectories" / "iteration_000001.jsonl.zst"))
    turns = [turn for episode in played for turn in episode.turns]
    print(summary["status"], "after", summary["iterations"], "iterations")
    print(f"{sum(len(turn.calls) == 3 for turn in turns)} of {len(turns)} drafts were written again")
    print(f"trained: {sorted({call.role for turn in turns for call in turn.calls if call.trainable})}")
