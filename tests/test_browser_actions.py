"""BrowserGym's actions: what is read, what is refused, and that nothing is evaluated."""

import ast
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.envs.browser.actions import (
    ACTIONS,
    BUTTONS,
    MODIFIERS,
    SUBSETS,
    Action,
    BadAction,
    Value,
    chosen,
    described,
    parse,
    parse_all,
    to_text,
)
from agentrl.errors import ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAMES = TEXTS.filter(bool)
ARGUMENTS = {
    "bid": NAMES,
    "key": NAMES,
    "text": TEXTS,
    "url": TEXTS,
    "number": st.integers(-10_000, 10_000) | st.floats(-1e6, 1e6),
    "whole": st.integers(-10, 10),
    "button": st.sampled_from(BUTTONS),
    "modifiers": st.lists(st.sampled_from(MODIFIERS), unique=True).map(
        lambda some: tuple(one for one in MODIFIERS if one in some)
    ),
    "texts": TEXTS | st.lists(TEXTS).map(tuple),
    "flag": st.booleans(),
}


@st.composite
def actions(draw: st.DrawFn) -> Action:
    signature = ACTIONS[draw(st.sampled_from(sorted(ACTIONS)))]
    values: list[Value] = [draw(ARGUMENTS[one.kind]) for one in signature.parameters]
    while values and values[-1] == signature.parameters[len(values) - 1].default:
        values.pop()
    return Action(signature.name, tuple(values))


@given(actions())
def test_what_is_written_is_read_again(action: Action) -> None:
    assert parse(to_text(action)) == action


@given(TEXTS)
def test_texts_read_as_python_reads_them(text: str) -> None:
    tripled = '"""' + text.replace("\\", "\\\\").replace('"', '\\"') + '"""'
    for literal in (repr(text), ascii(text), tripled):
        assert parse(f"fill('a', {literal})").args == ("a", text)


@given(st.text('\\"abnxuUN01237{}\n ', max_size=12))
def test_escapes_agree_with_python_or_are_refused(body: str) -> None:
    literal = f"'{body}'"
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            wanted = ast.literal_eval(literal)
    except SyntaxError:
        with pytest.raises(BadAction):
            parse(f"fill('a', {literal})")
    else:
        assert parse(f"fill('a', {literal})").args[1] == wanted


@given(st.text(max_size=60))
def test_any_text_is_an_action_or_a_bad_one(text: str) -> None:
    try:
        found = parse_all(text)
    except BadAction as error:
        assert str(error)
    else:
        assert found and all(one.name in ACTIONS for one in found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("click('a12')", Action("click", ("a12",))),
        (' click ( "a12" , ) ', Action("click", ("a12",))),
        ("click('a12', 'left')", Action("click", ("a12",))),
        ("click('a12', 'right', ['Shift', 'Alt'])", Action("click", ("a12", "right", ("Alt", "Shift")))),
        ("click(bid='a12', modifiers=['Meta'])", Action("click", ("a12", "left", ("Meta",)))),
        ("fill('a12', value='it\\'s')", Action("fill", ("a12", "it's"))),
        ('fill("a1", """two\nlines""")', Action("fill", ("a1", "two\nlines"))),
        ("select_option('48', 'blue')", Action("select_option", ("48", "blue"))),
        ("select_option('48', ['a', \"b\"])", Action("select_option", ("48", ("a", "b")))),
        ("scroll(0, -200.5)", Action("scroll", (0, -200.5))),
        ("noop()", Action("noop")),
        ("noop(1000)", Action("noop")),
        ("noop(wait_ms=5)", Action("noop", (5,))),
        ("mouse_drag_and_drop(1, 2, 3, 4)", Action("mouse_drag_and_drop", (1, 2, 3, 4))),
        ("# the box\nclick('3')  # it", Action("click", ("3",))),
        ("```python\nclick('3')\n```", Action("click", ("3",))),
        ("send_msg_to_user('It is \\u00e9\\N{BULLET}.')", Action("send_msg_to_user", ("It is é•.",))),
    ],
)
def test_forms(text: str, wanted: Action) -> None:
    assert parse(text) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "wanted an action such as click('a12'); got nothing"),
        ("I click the button", "no action 'I'"),
        ("clik('3')", "Did you mean 'click' or 'dblclick'?"),
        ("click(3)", "wanted bid as an id in quotes, such as 'a12'; got 3"),
        ("click(a12)", "got a12; is a quote missing?"),
        ("click('a12'", "wanted ',' or ')' between the arguments of click; got the end"),
        ("click('a12)", "wanted ' at the end of the text that begins 'a12)'"),
        ("click()", "click(bid, button='left', modifiers=[]) wants bid"),
        ("click('1', 'left', [], 4)", "takes 3 arguments at most; got 4"),
        ("click('1', 'up')", "wanted button as one of 'left', 'middle', 'right'; got 'up'"),
        ("click('1', bid='2')", "bid came twice"),
        ("click(bid='1', bid='2')", "bid came twice"),
        ("click(bid='1', 'left')", "without a name came behind one with a name"),
        ("click('1', where='2')", "has no argument 'where'"),
        ("click('1') click('2')", "wanted one action; got 2: click, click"),
        ("fill('1', f'{x}')", "got f; is a quote missing?"),
        ("fill('1', 'a' + 'b')", "wanted ',' or ')'"),
        ("fill('1', open('/etc/passwd').read())", "got open; is a quote missing?"),
        ("fill('1', '\\ud800')", "half of a character"),
        ("fill('1', '\\x1')", "\\x wants the digits"),
        ("scroll(1e9, 0)", "wanted a number between -1,000,000 and 1,000,000"),
        ("scroll(True, 0)", "wanted delta_x as a number; got True"),
        ("tab_focus(1.5)", "wanted index as a whole number"),
        ("press('1', '')", "wanted key_comb as a key in quotes"),
        ("noop() or click('1')", "no action 'or'"),
        ("__import__('os').system('true')", "no action '__import__'"),
        ("click('" + "a" * 30_000 + "')", "at most 20000 characters"),
    ],
)
def test_what_is_no_action_says_what_was_wanted(text: str, says: str) -> None:
    with pytest.raises(BadAction) as caught:
        parse(text)
    assert says in str(caught.value)


def test_several_actions_stand_behind_one_another() -> None:
    assert parse_all("fill('1', 'x'); click('2')\nnoop()") == [
        Action("fill", ("1", "x")),
        Action("click", ("2",)),
        Action("noop"),
    ]


def test_only_the_allowed_actions_count() -> None:
    assert parse("click('1')", chosen(["miniwob_liu18"])) == Action("click", ("1",))
    with pytest.raises(BadAction, match="no action 'goto'"):
        parse("goto('https://example.org')", chosen(["bid"]))


def test_sets_name_actions_that_exist() -> None:
    for name in SUBSETS:
        assert set(chosen([name])) == set(SUBSETS[name]) <= set(ACTIONS)
    assert chosen(["noop", "miniwob_liu18"]) == ("noop", "click", "fill")
    with pytest.raises(ConfigError, match="Did you mean 'click'"):
        chosen(["clik"])


def test_examples_are_actions_of_their_own_row() -> None:
    for name, row in ACTIONS.items():
        assert parse(row.example).name == name
        assert row.example in described([name])


def test_arguments_by_name_hold_the_defaults() -> None:
    assert parse("click('a1')").named() == {"bid": "a1", "button": "left", "modifiers": ()}
