"""The household environment, ``agentrl/Household-v0``: ALFWorld's text game in plain Python.

``house`` what stands where · ``world`` the rules · ``games`` reads real ALFWorld games · ``generate`` draws houses from
seeds · ``oracle`` plays perfectly · ``env`` Gymnasium's API around it.
"""

import gymnasium

gymnasium.register(id="agentrl/Household-v0", entry_point="agentrl.envs.household.env:HouseholdEnv")
