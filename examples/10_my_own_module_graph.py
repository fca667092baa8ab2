"""An agent made of modules: a planner that is trained, and a critic that sends a bad plan back. Under a minute on one core.

python examples/10_my_own_module_graph.py
"""

import tempfile
import tomllib
from pathlib import Path

import agentrl
from agentrl.agents import Caller, View
from agentrl.agents.flow import Asked, flow
from agentrl.chat import ActionFormat
from agentrl.config import find
from agentrl.registry import register
from agentrl.store import read_trajectories

SHIPPED = find("quickstart")
CONFIG = tomllib.loads(SHIPPED.read_text())
PROMPT = CONFIG["agent"]["prompt"]  # what the shipped start was taught


@register("rule", "objections")
def objections(asked: Asked) -> str:
    """The critic, a Python function; ``critic = "openai:URL#MODEL"`` or ``"checkpoint:PATH"`` would ask a model instead."""
    action, facts = asked.facts["action"], asked.facts
    return "impossible" if action not in facts["allowed"] else "done already" if action in facts["done"] else ""


@flow("planner_and_critic", roles={"planner": "trained", "critic": "rule:objections"})
async def planner_and_critic(view: View, call: Caller) -> str:
    """One turn. A plan that the critic objects to is drawn again, once; both draws are trained."""
    done: list[str] = call.state.setdefault("done", [])  # fresh for each episode
    prompt = PROMPT.format_map({**view.fields(), "history": "".join(f"{action}; " for action in done[-4:])})
    action = ""
    for _ in range(2):
        action = ActionFormat().parse((await call("planner", prompt)).text).action
        facts = {"action": action, "allowed": view.info["admissible_actions"], "done": done[-2:]}
        if not (await call("critic", f"Is {action} wise?", facts=facts)).text:
            break
    done.append(action)
    return action


if __name__ == "__main__":
    CONFIG["model"]["path"] = str(SHIPPED.parent / "warmstart")
    CONFIG["agent"] = {"name": "planner_and_critic"}
    CONFIG["algorithm"]["sampler"] = {"name": "uniform", "tasks": 3, "group_size": 4}
    CONFIG |= {"evaluation": {"episodes": 0}, "resources": {"device": "cpu", "threads": 1}}
    with tempfile.TemporaryDirectory() as folder:
        summary = agentrl.train(CONFIG, "run.iterations=2", out=Path(folder) / "run")
        played = list(read_trajectories(Path(folder) / "run" / "trajectories" / "iteration_000001.jsonl.zst"))
    print(summary["status"], "after", summary["iterations"], "iterations")
    for role in ("planner", "critic"):
        calls = [c for episode in played for c in episode.calls() if c.role == role]
        print(f"{role}: {len(calls)} calls, {sum(c.trainable for c in calls)} trained")
