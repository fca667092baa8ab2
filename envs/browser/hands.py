"""What an agent's hands do on a page: clicks and texts as the browser's own mouse and keyboard do them.

Each function takes a page and the arguments of an action by name, and gives what was wrong ("" for nothing).
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from agentrl.envs.browser.process import PageLost, first_line, from_playwright

if TYPE_CHECKING:
    from agentrl.envs.browser.chromium import Page

ALWAYS_IN_PAGE = ("noop", "focus", "select_option", "scroll")
MAX_TYPED = 1_000  # characters that are typed key by key: more would take as long as a page that hangs
IN_PAGE = (*ALWAYS_IN_PAGE, "click", "dblclick", "fill", "clear", "check", "uncheck")
Arguments = Mapping[str, Any]


async def _click(page: Page, given: Arguments, times: int = 1) -> str:
    x, y, error = await page.point(given["bid"])
    if error:
        return error
    held = given.get("modifiers", ())
    for key in held:
        await page.guarded(page.playwright.keyboard.down(key))
    await page.press_mouse(x, y, given.get("button", "left"), times)
    for key in held:
        await page.guarded(page.playwright.keyboard.up(key))
    return ""


async def _dblclick(page: Page, given: Arguments) -> str:
    return await _click(page, given, 2)


async def _fill(page: Page, given: Arguments) -> str:
    text = given.get("value", "")
    by_keys, error = await page.part("ready", given["bid"], text)
    if error or not by_keys:
        return error
    if not text:
        return await page.key("Delete")
    await page.guarded(page.playwright.keyboard.insert_text(text))
    return ""


async def _check(page: Page, given: Arguments, wanted: bool = True) -> str:
    ticked, error = await page.part("ticked", given["bid"], wanted)
    return error if error or ticked == wanted else await _click(page, given)


async def _uncheck(page: Page, given: Arguments) -> str:
    return await _check(page, given, wanted=False)


async def _hover(page: Page, given: Arguments) -> str:
    x, y, error = await page.point(given["bid"])
    if not error:
        await page.move(x, y, steps=2)
    return error


async def _press(page: Page, given: Arguments) -> str:
    _, error = await page.part("focus", given["bid"])
    return error or await page.key(given["key_comb"])


async def _drag(page: Page, given: Arguments) -> str:
    left, top, error = await page.point(given["from_bid"])
    if error:
        return error
    x, y, error = await page.point(given["to_bid"])
    return error or await _dragged(page, (left, top), (x, y))


async def _dragged(page: Page, start: tuple[float, float], end: tuple[float, float]) -> str:
    await page.move(*start)
    await page.guarded(page.playwright.mouse.down())
    await page.move(*end, steps=6)
    await page.guarded(page.playwright.mouse.up())
    return ""


async def _goto(page: Page, given: Arguments) -> str:
    return await _led(page, "goto", given["url"])


async def _go(page: Page, _given: Arguments, do: str) -> str:
    return await _led(page, do)


async def _led(page: Page, do: str, *arguments: str) -> str:
    if not page.follows:
        return f"{do} is not possible here"
    try:
        await page.guarded(getattr(page.playwright, do)(*arguments))
    except Exception as error:
        if isinstance(error, PageLost) or not from_playwright(error):
            raise
        return f"the page cannot be opened: {first_line(error)}"
    return ""


async def _mouse(page: Page, given: Arguments, do: str) -> str:
    x, y = given["x"], given["y"]
    button = given.get("button", "left")
    if do in ("click", "dblclick"):
        await page.press_mouse(x, y, button, 2 if do == "dblclick" else 1)
        return ""
    await page.move(x, y)
    if do in ("down", "up"):
        await page.hold("mouse", button, down=do == "down")
    return ""


async def _mouse_drag(page: Page, given: Arguments) -> str:
    return await _dragged(page, (given["from_x"], given["from_y"]), (given["to_x"], given["to_y"]))


async def _keyboard(page: Page, given: Arguments, do: str) -> str:
    keyboard = page.playwright.keyboard
    if do == "type" and len(given["text"]) > MAX_TYPED:
        return f"wanted a text of at most {MAX_TYPED} characters to type; got {len(given['text'])}; insert it, or fill a field"
    if do in ("type", "insert_text"):
        await page.guarded(getattr(keyboard, do)(given["text"]))
        return ""
    if do in ("down", "up"):
        return await page.keyed(functools.partial(page.hold, "keyboard", down=do == "down"), given["key"])
    return await page.keyed(keyboard.press, given["key"])


BY_BROWSER: Mapping[str, Callable[[Page, Arguments], Awaitable[str]]] = {
    "click": _click,
    "dblclick": _dblclick,
    "fill": _fill,
    "clear": _fill,
    "check": _check,
    "uncheck": _uncheck,
    "hover": _hover,
    "press": _press,
    "drag_and_drop": _drag,
    "goto": _goto,
    "go_back": functools.partial(_go, do="go_back"),
    "go_forward": functools.partial(_go, do="go_forward"),
    "mouse_drag_and_drop": _mouse_drag,
    **{f"mouse_{do}": functools.partial(_mouse, do=do) for do in ("move", "click", "dblclick", "down", "up")},
    **{f"keyboard_{do}": functools.partial(_keyboard, do=do) for do in ("press", "down", "up", "type", "insert_text")},
}
