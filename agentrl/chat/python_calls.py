"""A list of Python calls with literal arguments, read by ``ast`` and never evaluated.

Python's parser is not made for hostile texts (deep nesting and endless chains can exhaust its stack), so a text reaches
it only after a scan that admits nothing but names, numbers, strings, brackets, commas, colons, equal signs and minus
signs before numbers, nested no deeper than a bound.
"""

from __future__ import annotations

import ast
import math
import re

from agentrl.types import Json, ToolCall

_TOKEN = re.compile(
    r"""(?P<blank>\s+)
    |(?P<string>'''.*?'''|\"\"\".*?\"\"\"|'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+")
    |(?P<number>\d[\w.]*(?:(?<=[eE])[+-]\d+)?|\.\d\w*)
    |(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)
    |(?P<open>[\[{(])
    |(?P<close>[\]})])
    |(?P<minus>-)
    |(?P<other>[,:=])""",
    re.VERBOSE | re.DOTALL,
)
_WORD = ("name", "number", "string")
_PAIR = re.compile(r"\\.", re.DOTALL)
_FIT = re.compile(r"""\\['"\\abfnrtvxNuU\n0-7]""")


class NotACall(Exception):
    """A text is no list of calls; the message is for the model."""


def read_python(text: str, max_depth: int) -> list[ToolCall]:
    """The calls of a text such as ``[f(a=1), g(b="x")]``. Raises NotACall."""
    source = _scanned(text, max_depth)
    try:
        tree = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        raise NotACall(f"it is no Python: {error.msg}") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise NotACall("it is no Python that can be read") from error
    if not isinstance(tree, ast.List):
        raise NotACall("the calls must stand in one list")
    if not tree.elts:
        raise NotACall("the list holds no call")
    return [_call(node) for node in tree.elts]


def _scanned(text: str, max_depth: int) -> str:
    """The text, with ``\\d`` and its like written as Python means them (it warns of them)."""
    parts: list[str] = []
    before, depth, place = "", 0, 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise NotACall(f"only calls with literals can be read; got {text[place : place + 20]!r}")
        kind, token, place = str(match.lastgroup), match.group(), match.end()
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
        if depth > max_depth:
            raise NotACall(f"the calls are nested deeper than {max_depth} levels")
        out_of_place = (
            (before in _WORD and kind in (*_WORD, "minus"))
            or (before == "minus" and kind != "number")
            or (before == "close" and kind in (*_WORD, "open", "minus"))
        )
        if out_of_place:
            raise NotACall(f"only calls with literals can be read; {token[:20]!r} is out of place")
        parts.append(_PAIR.sub(_as_meant, token) if kind == "string" else token)
        before = before if kind == "blank" else kind
    return "".join(parts)


def _as_meant(match: re.Match[str]) -> str:
    return match.group() if _FIT.match(match.group()) else "\\" + match.group()


def _call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call):
        raise NotACall(f"every element of the list must be a call; got {_shown(node)}")
    name = _name(node.func)
    if node.args:
        raise NotACall(f"{name}: give every argument by its name; got {_shown(node.args[0])}")
    arguments: dict[str, Json] = {}
    for argument in node.keywords:
        if argument.arg is None:
            raise NotACall(f"{name}: give every argument by its name, without **")
        if argument.arg in arguments:
            raise NotACall(f"{name}: the argument {argument.arg!r} is given twice")
        arguments[argument.arg] = _literal(argument.value)
    return ToolCall(name, arguments)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    raise NotACall(f"a call begins with the name of a tool; got {_shown(node)}")


def _literal(node: ast.expr) -> Json:
    """The value of a literal that is JSON. Raises NotACall."""
    match node:
        case ast.Constant(value=str() | bool() | int() | None):
            return node.value
        case ast.Constant(value=float() as number) if math.isfinite(number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=number)) if type(number) in (int, float):
            return -_literal(node.operand)
        case ast.List() | ast.Tuple():
            return [_literal(element) for element in node.elts]
        case ast.Dict():
            return _dictionary(node)
        case ast.Name(id="true" | "false" | "null"):
            raise NotACall(f"{node.id} is no Python; write True, False or None")
    raise NotACall(f"arguments must be literals (texts, numbers, True, None, lists, dictionaries); got {_shown(node)}")


def _dictionary(node: ast.Dict) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            raise NotACall("the keys of a dictionary must be texts")
        if key.value in found:
            raise NotACall(f"the key {key.value!r} is given twice")
        found[key.value] = _literal(value)
    return found


def _shown(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else text[:59] + "…"
