"""Ray: rollout workers and learners on one machine or many. Nothing here imports Ray before a run asks for it."""
