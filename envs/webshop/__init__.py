"""The shop environment, ``agentrl/WebShop-v0``: WebShop's site, actions and reward over generated shops or the real products.

``catalogue`` products on disk and in the index · ``index`` BM25 as Lucene ranks, ``stem`` Porter's stems · ``reward`` the formula
· ``goals`` those of the publisher's files · ``generate`` draws shops and goals from seeds, ``categories`` what they sell ·
``site`` the pages · ``oracle`` and ``expert`` play · ``env`` Gymnasium's API around it.
"""

import gymnasium

gymnasium.register(id="agentrl/WebShop-v0", entry_point="agentrl.envs.webshop.env:WebShopEnv")
