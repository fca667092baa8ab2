"""Pages as text: as a parser reads them where they are well formed, and never slowly."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.tools.pages import BLOCKS, Page, page_text, seen


class Reference(HTMLParser):
    """The same by Python's parser, which is right about well-formed pages."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.unseen = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.unseen += tag in ("script", "style", "template", "noscript")
        self.parts.append("\n" if tag in BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        self.unseen = max(0, self.unseen - (tag in ("script", "style", "template", "noscript")))
        self.parts.append("\n" if tag in BLOCKS else "")

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.parts.append(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        lines = (line.strip() for line in "".join(self.parts).splitlines())
        return "\n".join(line for line in lines if line)


PIECES = [
    *("<p>", "</p>", "<DIV class=a>", "</div >", "<br/>", "<b>", "</b>", "<h1\n>", "</H1>", "<li>", "<hr>"),
    *('<a href="x>y">', "<a href='>' b = \"'\">", "<i title=a\"b>", "<a x=1 y>", "</a>", "<input disabled>"),
    *("<!-- <p>no</p> -->", "<!doctype html>", "<?xml version='1'?>", "<![CDATA[no]]>"),
    *("<script>if (a<b) '</p>'</script>", "<STYLE>p > a {}</STYLE>", "<template><p>no</p></template>"),
    *("<noscript>no</noscript>", "one", " two\n three", "&amp;", "&lt;p&gt;", "&#233;", "&#xe9;", "a < b", "5 <6", "&copy"),
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))
def test_well_formed_pages_read_as_python_reads_them(text: str) -> None:
    assert seen(text) == Reference(text).text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a<!-->b", "ab"),
        ("a<!-- never closed <p>b", "a"),
        ('a<b title="never closed>b', "ab"),
        ("a<b title=never", "a"),
        ("a<script>b</SCRIPT >c", "ac"),
        ("a<script>never closed", "a"),
        ("a</ x>b<>c", "ab<>c"),
        ("a&#" + "9" * 5000 + ";b", "a\ufffdb"),
        ("</template>a<template>b<template>c</template>d</template>e", "ae"),
        ("<p>a<p>b", "a\nb"),
        ("", ""),
    ],
)
def test_what_is_not_well_formed(text: str, shown: str) -> None:
    assert seen(text) == shown


@pytest.mark.parametrize(
    "piece",
    [
        *("<", "<a ", "</a", '<a x="', "<a x='", "<a =", "<!--", "<!x", "<?", "<![CDATA[", "<script>", "</script", "<p>"),
        *("<a b ", "=", "&#", "&a", "&#9", "<template>", " ", "\n", "<a x='\"", "<style>x</"),
    ],
)  # fmt: skip
def test_no_page_is_read_slowly(piece: str) -> None:
    """Python's own parser takes minutes for some of these, and nothing else goes on meanwhile."""
    content = (piece * (1_000_000 // len(piece))).encode()
    started = time.process_time()
    page_text(Page("u", 200, "text/html", "utf-8", content, False), 6000)
    page_text(Page("u", 200, "text/html", "utf-8", b"<a b" + content, False), 6000)
    assert time.process_time() - started < 15
