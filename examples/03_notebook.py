"""agentrl in a notebook, cell by cell: play, train, evaluate, read what the agent did. Under a minute on one core, no download.

python examples/03_notebook.py
"""

# %%
import tempfile
import tomllib
from pathlib import Path

import agentrl
from agentrl.config import find
from agentrl.store import read_trajectories

HOUSEHOLD = "agentrl/Household-v0"
HOUSE = {"difficulty": "tiny", "task_types": ["pick_and_place_simple"]}
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name) / "run"

# %% An episode of an agent that needs no model, as a text.
(trajectory,) = agentrl.rollout(HOUSEHOLD, "expert", n=1, options=HOUSE)
print(trajectory)

# %% A run file is a dictionary of tables. This one is the quick start's, made short: three tasks an iteration, no evaluation.
shipped = find("quickstart")
config = tomllib.loads(shipped.read_text())
config["model"]["path"] = str(shipped.parent / "warmstart")  # a path in a dictionary is relative to the working folder
config["algorithm"]["sampler"] = {"name": "uniform", "tasks": 3, "group_size": 4}
config["evaluation"] = {"episodes": 0}
config["resources"] = {"device": "cpu", "threads": 1}

# %% Two iterations teach nothing yet; the eighty of `agentrl train quickstart` take minutes, and do.
summary = agentrl.train(config, "run.iterations=2", "run.seed=1", out=folder)
print(summary["status"], "after", summary["iterations"], "iterations")

# %% Success on the same ten tasks, with its 95 % interval.
for policy in ("random", "expert", f"checkpoint:{folder}"):
    result = agentrl.evaluate(HOUSEHOLD, policy, n=10, options=HOUSE, max_turns=15)
    print(f"{policy.partition(':')[0]:10}  success {result['success_rate']:.2f}  {result['ci95']}")

# %% What the model did in the second iteration. `agentrl replay FOLDER ID` plays such a record again.
first, *others = read_trajectories(folder / "trajectories" / "iteration_000001.jsonl.zst")
print(first)
