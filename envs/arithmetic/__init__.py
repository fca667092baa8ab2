"""Word problems with a calculator: ``agentrl/Arithmetic-v0``, the smallest environment that is played with a tool.

``problems`` draws problems from seeds · ``env`` the environment, and a player that slips.
"""

import gymnasium

gymnasium.register(id="agentrl/Arithmetic-v0", entry_point="agentrl.envs.arithmetic.env:ArithmeticEnv")
