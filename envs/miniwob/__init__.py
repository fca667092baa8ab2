"""MiniWoB++ in a real Chromium, ``agentrl/MiniWoB-v0``: the package's own pages, BrowserGym's language.

``tasks`` the 125 of them, families, levels, BrowserGym's split · ``env`` Gymnasium's API around a page · ``oracles``, ``clicking``,
``writing`` play from the goal and the tree · ``look`` what they see and do.
"""

import gymnasium

gymnasium.register(id="agentrl/MiniWoB-v0", entry_point="agentrl.envs.miniwob.env:MiniWoBEnv")
