"""Processes for code that nobody has read: what confines them, who watches them, who ends them.

``launch`` is the caller's side. The other modules run in the supervising process, which is started without ``site`` and
must start fast: they import nothing but the standard library, and nothing of agentrl outside this package.
"""
