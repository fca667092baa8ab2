"""Critiques of proposed actions, made from any environment with an oracle: ``agentrl/Critique-v0``.

``states`` what is proposed where, and whether it is right · ``env`` Gymnasium's API around it.
"""

import gymnasium

gymnasium.register(id="agentrl/Critique-v0", entry_point="agentrl.envs.critique.env:CritiqueEnv")
