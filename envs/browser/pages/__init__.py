"""The families of pages: one file each, with what may be asked for and the page's own code.

``draw(kind, level, words)`` gives a goal and the content of a page, ``Page`` subclasses play it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from agentrl.envs.browser.levels import Level
from agentrl.envs.browser.page import Page
from agentrl.envs.browser.pages import calendar, form, listing, mail, shop, table, tabs
from agentrl.envs.browser.words import Words


class Family(NamedTuple):
    """``types`` of task, how one is drawn, and the page that it is about."""

    types: tuple[str, ...]
    draw: Callable[[str, Level, Words], tuple[str, dict[str, Any]]]
    page: type[Page]


FAMILIES = {
    "form": Family(form.TYPES, form.draw, form.FormPage),
    "list": Family(listing.TYPES, listing.draw, listing.ListPage),
    "tabs": Family(tabs.TYPES, tabs.draw, tabs.TabsPage),
    "table": Family(table.TYPES, table.draw, table.TablePage),
    "mail": Family(mail.TYPES, mail.draw, mail.MailPage),
    "shop": Family(shop.TYPES, shop.draw, shop.ShopPage),
    "calendar": Family(calendar.TYPES, calendar.draw, calendar.CalendarPage),
}
# Only valid_unseen has them, beside new words on the pages of the other families.
HELD_OUT = ("shop", "calendar")
TYPES = {kind: name for name, family in FAMILIES.items() for kind in family.types}
