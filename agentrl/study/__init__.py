"""Studies of the methods themselves, in worlds small enough to know the truth. ``agentrl study NAME`` runs one.

- tree: a decision tree with exact values, advantages and policy gradient
- scenarios: the trees of the study of credit, one for each question
- rollouts: groups of episodes in a tree, and the turn table that a method reads
- estimators: every credit method as it is studied
- gradient: the policy gradient that an estimator induces
- measure: bias and variance of an estimator, with intervals
- hypotheses: what was expected, what came out
- credit: the study of credit itself; report and plot show it, command writes it down
"""
