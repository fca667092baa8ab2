"""Which turn earned the reward? Two trajectories of one task, credited by GRPO and by GiGPO. Needs no model.

python examples/01_credit_of_turns.py
"""

from agentrl.algorithms import TurnTable
from agentrl.algorithms.credit import GRPO, GiGPO

# Both stood at the door. One went to the drawer and won there; the other went to the shelf first, then failed at the drawer.
# GRPO blames each turn of the loser alike. GiGPO compares turns in the same state: nobody else was at the shelf, so that turn
# bears only the episode's share.
table = TurnTable(
    group=["task"] * 5,
    trajectory=["won", "won", "lost", "lost", "lost"],
    turn=[0, 1, 0, 1, 2],
    reward=[0.0, 1.0, 0.0, 0.0, 0.0],
    state=["door", "drawer", "door", "shelf", "drawer"],
)

if __name__ == "__main__":
    grpo, gigpo = GRPO()(table), GiGPO(gamma=0.5)(table)
    print("trajectory  turn  state    GRPO  GiGPO")
    names, states = table.labels("trajectory"), table.labels("state")
    for row in range(table.n_rows):
        trajectory, state = names[table["trajectory"][row]], states[table["state"][row]]
        print(f"{trajectory:10}  {table['turn'][row]:4d}  {state:6}  {grpo[row]:+.2f}  {gigpo[row]:+.2f}")
