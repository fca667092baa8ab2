"""The reference pages, written from the code: methods, the keys of a run file, environments, tools.

    agentrl list methods --markdown          one page, with whatever plug-ins are installed
    python -m agentrl.reference              in a checkout: all pages anew, with what ships (`make docs`)

``schema`` what a value may be, in words · ``pages`` the Markdown.
"""

from agentrl.reference.pages import FILES, page, with_counts, write

__all__ = ["FILES", "page", "with_counts", "write"]
