"""The search environment, ``agentrl/SearchQA-v0``: questions whose answers stand in passages that have to be found.

``world`` people, places, works, firms and what is told of them · ``questions`` chains and comparisons · ``generate`` draws both
from seeds · ``data`` reads real questions · ``expert`` plays from texts alone · ``env`` Search-R1's protocol around it.
"""

import gymnasium

gymnasium.register(id="agentrl/SearchQA-v0", entry_point="agentrl.envs.search.env:SearchEnv")
