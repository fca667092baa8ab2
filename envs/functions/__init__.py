"""Function calling: ``agentrl/FunctionCalling-v0``, own back ends with tools and a scripted user, and ``agentrl/BFCL-v0``, the
Berkeley leaderboard's entries.

``service`` what a back end is · ``files`` ``calendar`` ``orders`` ``bank`` ``tickets`` the back ends and what is asked of
them · ``tasks`` draws tasks from seeds · ``check`` are these the right calls? · ``dialogue`` a user of several turns ·
``env`` the environment · ``bfcl_data`` ``bfcl_engine`` ``bfcl`` the Berkeley leaderboard.
"""

import gymnasium

gymnasium.register(id="agentrl/FunctionCalling-v0", entry_point="agentrl.envs.functions.env:FunctionCallingEnv")
gymnasium.register(id="agentrl/BFCL-v0", entry_point="agentrl.envs.functions.bfcl:BFCLEnv")
