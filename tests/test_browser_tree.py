"""An accessibility tree's text: BrowserGym's form, and that a page's text stays a page's text."""

import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.envs.browser.tree import MAX_NAME_CHARS, Node, error_line, find, observation_text, tree_text, walk

HOSTILE = st.text(st.sampled_from(list("ab \n\t\r'\"\\[]=,0\x0b\x1c\x85\u2028\u202e\u200b")), max_size=20)
TEXTS = HOSTILE | st.text(max_size=10)
# One line of the text: depth, id, role, name, value, states.
LINE = re.compile(
    r"(?P<depth>\t*)(?:\[(?P<bid>[A-Za-z0-9_-]+)\] )?(?P<role>[A-Za-z]+) "
    r"(?P<name>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"(?: value=(?P<value>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"))?"
    r"(?P<states>(?:, [a-z]+(?:='(?:[^'\\]|\\.)*'|=\"(?:[^\"\\]|\\.)*\")?)*)"
)


@st.composite
def trees(draw: st.DrawFn) -> Node:
    """A page of up to 8 nodes with ids from 1 and hostile names."""
    root = Node("RootWebArea")
    nodes = [root]
    for number in range(1, draw(st.integers(1, 8)) + 1):
        node = Node(
            draw(st.sampled_from(["button", "textbox", "link"])),
            draw(TEXTS),
            str(number),
            draw(st.none() | TEXTS),
            draw(st.dictionaries(st.sampled_from(["checked", "required", "url"]), TEXTS | st.booleans())),
        )
        nodes[draw(st.integers(0, len(nodes) - 1))].children.append(node)
        nodes.append(node)
    return root


@given(trees(), TEXTS, TEXTS, st.none() | st.integers(1, 8))
def test_a_text_of_the_page_cannot_write_a_line_an_id_or_a_state(
    root: Node, title: str, url: str, number: int | None
) -> None:
    focused = None if number is None else str(number)
    lines = tree_text(root, title=title, url=url, focused=focused).split("\n")
    nodes = list(walk(root))
    assert len(lines) == len(nodes) == len("\n".join(lines).splitlines())
    assert ("focused" in str(LINE.fullmatch(lines[0])["states"]).split(", url=")[0]) == (focused is None)  # type: ignore[index]
    for line, node in zip(lines[1:], nodes[1:], strict=True):
        match = LINE.fullmatch(line)
        assert match is not None and (match["bid"], match["role"]) == (node.bid, node.role)
        assert ast.literal_eval(match["name"]) == node.name.strip()
        assert (match["value"] and ast.literal_eval(match["value"])) == (
            None if node.value is None else node.value.strip()
        )
        shown = re.findall(r", ([a-z]+)(?:='(?:[^'\\]|\\.)*'|=\"(?:[^\"\\]|\\.)*\")?", match["states"])
        kept = [name for name, state in node.states.items() if state is not False]
        assert shown == kept + ["focused"] * (node.bid == focused)


def test_the_form_of_browsergym() -> None:
    root = Node(
        "RootWebArea",
        children=[
            Node("checkbox", "Nb", "18", states={"checked": "false"}),
            Node("textbox", "Name", "5", "Ann", {"required": True, "readonly": False}),
            Node("list", "", "7", children=[Node("StaticText", "It's here")]),
        ],
    )
    assert tree_text(root, title="A", url="file:///a.html", focused="5") == (
        "RootWebArea 'A', url='file:///a.html'\n"
        "\t[18] checkbox 'Nb', checked='false'\n"
        "\t[5] textbox 'Name' value='Ann', required, focused\n"
        "\t[7] list ''\n"
        '\t\tStaticText "It\'s here"'
    )


def test_a_text_that_its_parent_tells_is_left_out() -> None:
    button = Node("button", "Send now", "1", children=[Node("StaticText", "Send"), Node("StaticText", "later")])
    empty = Node("StaticText", " \n ")
    text = tree_text(Node("RootWebArea", children=[button, empty]), title="", url="u")
    assert text == "RootWebArea '', focused, url='u'\n\t[1] button 'Send now'\n\t\tStaticText 'later'"


def test_ids_are_left_out_and_centers_put_in_where_asked() -> None:
    root = Node("RootWebArea", children=[Node("button", "A", "1", box=(10, 20, 5, 8))])
    assert tree_text(root, title="", url="u", bids=False).endswith("\n\tbutton 'A'")
    assert tree_text(root, title="", url="u", centers=True).endswith("\n\t[1] button 'A', center=\"(12,24)\"")


@pytest.mark.parametrize(
    "node", [Node("but\nton", "x", "1"), Node("button", "x", "1] [2"), Node("button", states={"a='b', c": True})]
)
def test_roles_states_and_ids_are_plain_words(node: Node) -> None:
    with pytest.raises(ValueError, match="got"):
        tree_text(Node("RootWebArea", children=[node]), title="", url="")


def test_a_long_name_is_cut() -> None:
    text = tree_text(Node("RootWebArea", children=[Node("button", "x" * 5000)]), title="", url="")
    assert len(text) < MAX_NAME_CHARS + 60 and "…" in text


def test_deep_pages_need_no_deep_stack() -> None:
    root = node = Node("RootWebArea")
    for number in range(3000):
        node.children.append(Node("generic", "", str(number)))
        node = node.children[0]
    assert tree_text(root, title="", url="").count("\n") == 3000
    found = find(root, "2999")
    assert found is node and find(root, "3000") is None


@given(TEXTS)
def test_an_error_is_one_line(text: str) -> None:
    assert len(error_line(text).splitlines()) == 1
    assert observation_text("tree", text) == (f"tree\n{error_line(text)}" if text else "tree")
