"""Arithmetic on numbers that are written out: read by ``ast``, never evaluated as Python, and bounded in size and time.

>>> calculator("2 * (3 + 4) ** 2")
98
>>> calculator("sqrt(2) / 2")
0.7071067811865476
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Any

from agentrl.errors import ToolError
from agentrl.tool import register_tool, tool

MAX_CHARS = 1_000
MAX_DEPTH = 50  # of brackets, and of signs and powers one behind the other
MAX_BITS = 4_096  # of an integer: about 1,200 digits

Number = int | float
_ALLOWED = re.compile(r"[\d\s.,+\-*/%()a-zA-Z_]*")
_OPERATORS: dict[type[ast.AST], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "floor": math.floor,
    "gcd": math.gcd,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}


@register_tool
@tool
def calculator(expression: str) -> int | float:
    """Computes an arithmetic expression.

    Args:
        expression: Numbers, parentheses, + - * / // % **, the constants pi and e, and the functions abs, ceil, cos, exp,
            floor, gcd, log, log10, log2, max, min, round, sin, sqrt, tan. For example "2 * (3 + 4) ** 2".
    """
    if len(expression) > MAX_CHARS:
        raise ToolError(f"the expression has {len(expression)} characters; at most {MAX_CHARS} are computed")
    if not _ALLOWED.fullmatch(expression):
        wrong = next(character for character in expression if not _ALLOWED.fullmatch(character))
        raise ToolError(f"{wrong!r} is no arithmetic; a power is written **")
    try:
        tree = ast.parse(" ".join(expression.split()), mode="eval").body
    except SyntaxError as error:
        raise ToolError(f"the expression cannot be read: {error.msg}") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise ToolError("the expression is nested too deep") from error
    try:
        return _value(tree, 0)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise ToolError(f"it has no value: {error}") from error


def _value(node: ast.expr, depth: int) -> Number:
    """The value of a part of the expression. Raises ToolError, and what arithmetic raises."""
    chain: list[tuple[ast.operator, ast.expr]] = []
    while isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Pow):  # a + b + c + …: as long as it likes
        chain.append((node.op, node.right))
        node = node.left
    value = _part(node, depth + 1)
    for kind, right in reversed(chain):
        if type(kind) not in _OPERATORS:
            raise ToolError("only + - * / // % ** are computed")
        value = _bounded(_OPERATORS[type(kind)](value, _value(right, depth + 1)))
    return value


def _part(node: ast.expr, depth: int) -> Number:
    if depth > MAX_DEPTH:
        raise ToolError(f"the expression is nested deeper than {MAX_DEPTH} levels")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, depth)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, depth)
        case ast.BinOp(op=ast.Pow(), left=left, right=right):
            return _power(_value(left, depth), _value(right, depth))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*(_value(argument, depth) for argument in arguments)))
    raise ToolError(f"{ast.unparse(node)[:60]!r} is no arithmetic that is computed here")


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > 2 * MAX_BITS:
        raise ToolError(
            f"{_short(base)} ** {_short(exponent)} is too large to compute; use numbers with a decimal point"
        )
    value = base**exponent
    if isinstance(value, complex):
        raise ToolError(f"{_short(base)} ** {_short(exponent)} is no real number")
    return _bounded(value)


def _bounded(value: Number) -> Number:
    """The value. Raises ToolError for an integer that is too long, and for infinity and NaN."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ToolError(f"a number becomes longer than {MAX_BITS} bits; use numbers with a decimal point")
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError(f"a number becomes {value}")
    return value


def _short(number: Number) -> str:
    text = str(number)
    return text if len(text) <= 20 else text[:19] + "…"
