"""Several run files trained over the same seeds under one budget, and what can be said of their differences.

    result = sweep(["recipes/gigpo", "recipes/grpo"], seeds=range(8), overrides=["run.iterations=25"])

Each run is an ``agentrl train`` in a process of its own. The folder:

runs/sweep/
  sweep.json             status, every run, means, paired differences
  sweep.md               the same as tables
  curves.png             success against iterations, and the last evaluations (needs the extra ``plots``)
  gigpo/recipe.toml      the resolved run file of a recipe
  gigpo/seed_0/          a run folder      gigpo/seed_0.log    what its process printed
"""

from agentrl.sweep.main import sweep
from agentrl.sweep.plan import Plan, Recipe, Run, make_plan

__all__ = ["Plan", "Recipe", "Run", "make_plan", "sweep"]
