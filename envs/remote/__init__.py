"""``agentrl/Remote-v0``: an environment that a server elsewhere plays (``agentrl.remote``)."""

import gymnasium

gymnasium.register(id="agentrl/Remote-v0", entry_point="agentrl.remote.client:RemoteEnv")
