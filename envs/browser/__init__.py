"""Pages as environments, in BrowserGym's language: calls on element ids in, an accessibility tree as text out.

``actions`` the calls, their grammar and the sets of them by name · ``tree`` the tree and its text · ``chromium`` pages in a real
Chromium: one evaluate a turn (``dom.js``), no network, a virtual clock · ``hands`` mouse and keyboard · ``process`` the browser.

agentrl's own pages, ``agentrl/Browser-v0``: ``elements`` what a page is made of · ``page`` a site's code · ``dom`` the
document that shows it, in plain Python · ``html`` and ``live`` the same in Chromium · ``pages`` the families · ``words``,
``levels``, ``tasks`` what is drawn from seeds · ``expert`` who slips · ``env`` Gymnasium's API around it.
"""

import gymnasium

gymnasium.register(id="agentrl/Browser-v0", entry_point="agentrl.envs.browser.env:BrowserEnv")
