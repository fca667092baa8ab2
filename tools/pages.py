"""A page of the web as the text that a reader sees, in time that grows with its length only, whoever wrote it.

Python's ``html.parser`` begins anew at each bracket that is not closed: fifty thousand characters of ``<a <a <a`` take it a
minute, in which nothing else of the process goes on. Here a tag ends where HTML's standard says (a ``>`` outside of quoted
values), and what no tag closes is the end of the page, as in browsers.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

__all__ = ["Page", "page_text", "seen"]

# Encodings of texts; Python knows others that are none, or that take time beyond all measure.
CHARSET = re.compile(
    r"utf-?(8|16|32)([bl]e)?|(us-)?ascii|latin-?1|iso-8859-\d+|windows-125\d|koi8-[ru]|gb(2312|k|18030)|big5|euc-(jp|kr)|"
    r"shift_jis|iso-2022-jp",
    re.IGNORECASE,
)
BLOCKS = {
    *("p", "div", "br", "li", "ul", "ol", "tr", "table", "section", "article", "header", "footer", "main", "nav", "pre"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "form", "title", "hr", "dt", "dd"),
}  # fmt: skip
UNSEEN = {"template", "noscript"}
RAW = {"script", "style"}  # nothing in them is a tag, but their own end
MARKUP = re.compile(r"<(?=[a-zA-Z/!?])")
NAME = re.compile(r"<(/?)([a-zA-Z][^\s/>]*+)")
# Up to the bracket that ends a tag. A quote counts behind an equal sign only; one that is not closed is no quote. (It is looked
# for in vain once: no further one stands behind it.)
REST = re.compile(r"""(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+>""")
LONG_NUMBER = re.compile(r"&#0*+\d{8,}+;?")  # no character; Python refuses to read one of thousands of digits


@dataclass(frozen=True)
class Page:
    """An answer: at most ``max_bytes`` of its content, decoded; ``cut`` where there was more."""

    url: str
    status: int
    content_type: str
    charset: str
    content: bytes
    cut: bool


def seen(text: str) -> str:
    """What a reader sees of a page of HTML, without its layout: a line for each block, none empty."""
    parts: list[str] = []
    place, unseen = 0, 0
    while found := MARKUP.search(text, place):
        if not unseen:
            parts.append(_plain(text[place : found.start()]))
        place, name, is_end = _behind(text, found.start())
        if name in BLOCKS:
            parts.append("\n")
        if name in UNSEEN:
            unseen = max(0, unseen - 1) if is_end else unseen + 1
        if name in RAW and not is_end:
            end = re.compile(f"</{name}", re.IGNORECASE).search(text, place)
            place = end.start() if end else len(text)
    if not unseen:
        parts.append(_plain(text[place:]))
    lines = (line.strip() for line in "".join(parts).splitlines())
    return "\n".join(line for line in lines if line)


def _behind(text: str, start: int) -> tuple[int, str, bool]:
    """Where the markup that begins at ``start`` ends; the name of its tag ("" where it is none), and whether that is an end."""
    if text.startswith("<!--", start):
        end = text.find("-->", start + 2)  # <!--> is a whole one
        return (end + 3 if end >= 0 else len(text)), "", False
    tag = NAME.match(text, start)
    if tag is None:  # <!doctype …>, <?xml …>, </ >
        end = text.find(">", start)
        return (end + 1 if end >= 0 else len(text)), "", False
    rest = REST.match(text, tag.end())
    return (rest.end() if rest else len(text)), tag[2].lower(), bool(tag[1])


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(LONG_NUMBER.sub("\ufffd", text)))


def page_text(page: Page, max_chars: int) -> str:
    """What the model sees: a line with the status, the address that answered and the kind; then the text."""
    head = f"{page.status} {page.url} ({page.content_type or 'no content type'})\n"
    kind = page.content_type
    is_text = kind.startswith("text/") or re.search(r"json|xml|javascript|x-www-form", kind)
    if not page.content or not is_text:
        return f"{head}(no text: {len(page.content)}{' or more' if page.cut else ''} bytes)"
    charset = page.charset if CHARSET.fullmatch(page.charset) else "utf-8"
    try:
        text = page.content.decode(charset, errors="replace")
    except LookupError:  # a number of iso-8859 that there is not
        text = page.content.decode(errors="replace")
    text = seen(text) if "html" in kind else text
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", text.replace("\r\n", "\n"))
    if len(text) > max_chars or page.cut:
        return f"{head}{text[:max_chars]}\n… (cut: the page is longer)"
    return head + text
