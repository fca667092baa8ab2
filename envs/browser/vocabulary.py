"""Every word that the pages can say or understand, for a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

from agentrl.envs.browser.dom import ALLOWED, HOST
from agentrl.envs.browser.pages import FAMILIES
from agentrl.envs.browser.words import every

LARGEST_NUMBER = 100  # of an id, a price or a page
_ROLES = """
RootWebArea StaticText heading textbox checkbox radio radiogroup combobox option button link tab tablist tabpanel
table row columnheader cell list listitem dialog form
"""
_STATES = "value='', checked='true', selected='false', disabled, focused, level='1', url='" + HOST + "'"
# What pages say of themselves, and what the goals are made of.
_SAID = """
Form Settings People Mail Shop Calendar List Inbox Cart Send Clear Save Add New Remove Yes No I agree it Delete Answer
Forward Cancel Text To Re Fwd From Newer Older Next Back Open Mark Name City Code Amount Pay to cart euro entries at
Week Title Day Hour form table tabs mail list shop cart calendar page new answer forward Press Write Tick Untick Turn
on off the tab then into and choose as Choose write tick untick turn press row of every with about Buy amount Take out
pay Move from city code value
"""
_ERRORS = """
Error from previous action: there is no element "1"; the is disabled takes no text; it is a button, list, wanted an
action such as got Did you mean holds others click one of them leads out of the page here nothing has focus an option
is chosen by list to choose from it has
"""
_KEYS = ("Enter", "Tab", "Escape", "Space", "Backspace", "ArrowDown", "ArrowUp")


def texts() -> Iterator[str]:
    """Texts that hold every word, each at the start of a text and after a space."""
    yield _STATES
    yield "\n\t[1] ('', ?)\"-_./:#\\"
    yield _ERRORS
    for word in (*_ROLES.split(), *_SAID.split(), *ALLOWED, *_KEYS, *FAMILIES, *every()):
        yield f"{word} {word}"
    yield from (f"{number}" for number in range(LARGEST_NUMBER + 1))
    yield " 1 2 3 4, 0, 200, -200"
