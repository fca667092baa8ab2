"""``agentrl/ALFWorld-v0``: real ALFWorld games in ALFWorld's own TextWorld engine, behind the contract of
``agentrl/Household-v0``. It needs the extra ``alfworld``; Household plays the same games some thousand times faster.

``engine`` drives TextWorld · ``env`` Gymnasium's API around it.
"""

import gymnasium

gymnasium.register(id="agentrl/ALFWorld-v0", entry_point="agentrl.envs.alfworld.env:ALFWorldEnv")
