"""The pages as HTML: native fields, boxes, lists, buttons, links and dialogs, and a script that reports what was pressed.

What the browser does itself: typing, ticking, choosing, focus and the order of Tab, Enter that presses the button of a form, a
dialog that covers the page, layout and scrolling. What the script does: it shows a view, notes the keys of the elements that
were activated, and tells what the widgets hold. What an event means is the page's own code, in Python.
"""

from __future__ import annotations

from html import escape
from typing import Any

from agentrl.envs.browser.dom import MARGIN, MAX_TEXT, ROW, Document
from agentrl.envs.browser.elements import Element
from agentrl.envs.browser.page import Page

STYLE = f"""
* {{ box-sizing: border-box; margin: 0; padding: 0; font: 14px/{ROW}px sans-serif; }}
body {{ padding: {MARGIN}px; }}
h1 {{ font-weight: bold; }}
h1, .line, li, tr, [role=tablist] {{ height: {ROW}px; overflow: hidden; white-space: nowrap; }}
[aria-hidden=true] {{ color: #555; }}
.line {{ display: flex; }}
.line > span {{ display: inline-block; min-width: 90px; }}
li, [role=tablist] {{ display: flex; gap: 8px; }}
ul {{ list-style: none; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: 0 12px 0 0; text-align: left; height: {ROW}px; }}
input[type=text], select {{ width: 180px; height: {ROW}px; padding: 0 4px; }}
input[type=checkbox], input[type=radio] {{ width: 16px; height: {ROW}px; margin-right: 8px; }}
button {{ height: {ROW}px; padding: 0 10px; line-height: 20px; }}
[aria-selected=true] {{ font-weight: bold; }}
dialog {{ margin: auto; padding: 16px; border: 1px solid #888; }}
:focus {{ outline: 2px solid #06c; outline-offset: -2px; }}
"""
SCRIPT = """
(() => {
  const pressed = [], scrolling = new Set([" ", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]);
  const keyed = (e) => e.closest("[data-key]");
  document.addEventListener("click", (event) => {
    const e = keyed(event.target);
    if (!e) return;
    if (e.tagName === "A") event.preventDefault();
    if (e.tagName === "A" || e.tagName === "BUTTON") pressed.push(e.dataset.key);
  });
  document.addEventListener("change", (event) => {
    if (event.target.dataset.on && event.target.type !== "text") pressed.push(event.target.dataset.key);
  });
  document.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("cancel", (event) => { event.preventDefault(); pressed.push(event.target.dataset.key); }, true);
  document.addEventListener("keydown", (event) => {
    const native = event.target.matches(event.key === " " ? "input, select, button" : "[type=text], [type=radio], select");
    if (scrolling.has(event.key) && !native) event.preventDefault();
  });
  const page = window.__agentrl;
  page.more = () => {
    const values = {};
    for (const e of document.querySelectorAll("input[data-key], select[data-key]"))
      values[e.dataset.key] = e.type === "checkbox" || e.type === "radio" ? e.checked : e.value;
    return {
      values, pressed: pressed.splice(0), focus: document.activeElement?.dataset.key ?? "",
      scroll: Math.round(document.scrollingElement.scrollTop),
      bottom: Math.round(document.scrollingElement.scrollHeight - innerHeight),
    };
  };
  page.show = ({ html, title, path, focus, scroll }) => {
    page.forget();
    document.title = title;
    history.replaceState(null, "", path);
    document.body.innerHTML = html;
    pressed.length = 0;
    document.querySelector("dialog")?.showModal();
    for (const e of document.querySelectorAll("input[type=text]")) e.setSelectionRange(e.value.length, e.value.length);
    if (focus) document.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
    document.scrollingElement.scrollTop = scroll;
  };
})();
"""
SHELL = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Pages</title><style>{STYLE}</style></head><body></body></html>
"""


def shown(document: Document) -> dict[str, Any]:
    """What ``__agentrl.show`` takes."""
    page, covered = document.page, document.dialog is not None
    body = "".join(render(page, element) for element in document.view if element is not document.dialog)
    html = f"<div{' inert aria-hidden=true' if covered else ''}>{body}</div>"
    if document.dialog is not None:
        html += render(page, document.dialog)
    return {
        "html": html,
        "title": page.title,
        "path": page.place,
        "focus": document.focus,
        "scroll": document.scroll,
    }


def render(page: Page, element: Element, *, labelled: bool = True) -> str:
    """An element as HTML, with what it holds. ``labelled``: its name stands beside it for the eye, where it is a field or a box."""
    role, name = element.role, escape(element.name)
    children = "".join(render(page, child, labelled=role != "cell") for child in element.children)
    hidden = " hidden" if element.hidden else ""
    if role in _PLAIN:
        return _PLAIN[role].format(children=children, name=name, hidden=hidden, key=escape(element.key))
    if role == "cell":
        return f"<td>{children or name}</td>"
    inside = _widget(page, element, name)
    label = f"<span aria-hidden=true>{name}</span>" if labelled else ""
    if role in ("textbox", "combobox"):
        inside = label + inside
    elif role in ("checkbox", "radio"):
        inside += label
    return f"<div class=line>{inside}</div>"


_PLAIN = {
    "heading": "<h1>{name}</h1>",
    "StaticText": "<div class=line>{name}</div>",
    "form": "<form novalidate>{children}</form>",
    "list": "<ul>{children}</ul>",
    "listitem": "<li>{children}</li>",
    "tablist": "<div role=tablist>{children}</div>",
    "tabpanel": '<div role=tabpanel aria-label="{name}"{hidden}>{children}</div>',
    "radiogroup": '<div role=radiogroup aria-label="{name}"><div class=line aria-hidden=true>{name}</div>{children}</div>',
    "table": "<table><tbody role=none>{children}</tbody></table>",
    "row": "<tr>{children}</tr>",
    "columnheader": "<th>{name}</th>",
    "dialog": '<dialog aria-label="{name}" data-key="{key}">{children}</dialog>',
}


def _widget(page: Page, element: Element, name: str) -> str:
    role, held = element.role, page.held(element)
    marks = (
        f' data-key="{escape(element.key)}"' + (" data-on=1" if element.on else "") + (" disabled" * element.disabled)
    )
    if role == "textbox":
        return f'<input type=text aria-label="{name}" value="{escape(str(held))}" autocomplete=off maxlength={MAX_TEXT}{marks}>'
    if role == "checkbox":
        return f'<input type=checkbox aria-label="{name}"{" checked" * bool(held)}{marks}>'
    if role == "radio":
        return f'<input type=radio name="{escape(element.group)}" aria-label="{name}"{" checked" * bool(held)}{marks}>'
    if role == "combobox":
        options = "".join(f"<option{' selected' * (one == held)}>{escape(one)}</option>" for one in element.options)
        return f'<select aria-label="{name}"{marks}>{options}</select>'
    if role == "link":
        return f'<a href="#"{marks}>{name}</a>'
    if role == "tab":
        return (
            f"<button type=button role=tab aria-selected={'true' if element.value else 'false'}{marks}>{name}</button>"
        )
    return f"<button type={'submit' if element.submit else 'button'}{marks}>{name}</button>"
