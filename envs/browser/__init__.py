"""Pages as environments, in BrowserGym's language: calls on element ids in, an accessibility tree as text out.

``actions`` the calls, their grammar and the sets of them by name · ``tree`` the tree and its text · ``chromium`` pages in a real
Chromium: one evaluate a turn (``dom.js``), no network, a virtual clock · ``hands`` mouse and keyboard · ``process`` the browser.
"""
