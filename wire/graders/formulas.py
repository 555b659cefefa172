"""`calculate_output` of a multi grader: arithmetic over the scores of graders, and nothing else of a language."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_SIGNS: dict[type[ast.AST], Callable[[Any], float]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": math.fabs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_OF_ONE = frozenset(_FUNCTIONS) - {"min", "max"}
_MOST_NODES = 500


class FormulaError(ValueError):
    """What is written is no formula, or has no value."""


class Formula:
    """A formula over `names`. `^` is a power. Raises FormulaError for whatever it may not hold."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        try:
            self._tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise FormulaError(f"calculate_output {text[:100]!r} is no formula") from None
        if sum(1 for _ in ast.walk(self._tree)) > _MOST_NODES:
            raise FormulaError("calculate_output is too long")
        self._check(self._tree, names)

    def value(self, scores: Mapping[str, float]) -> float:
        """With these scores. Raises FormulaError where it has no finite value."""
        try:
            value = float(self._value(self._tree, scores))
        except (ArithmeticError, ValueError) as error:
            raise FormulaError(f"calculate_output has no value: {error}") from None
        if not math.isfinite(value):
            raise FormulaError("calculate_output has no finite value")
        return value

    def _check(self, node: ast.AST, names: Collection[str]) -> None:
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return
            case ast.Name(id=name):
                if name not in names:
                    known = ", ".join(sorted(names))
                    raise FormulaError(f"calculate_output names {name!r}, which is none of its graders: {known}")
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                self._check(left, names)
                self._check(right, names)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
                self._check(operand, names)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                if not args or (name in _OF_ONE and len(args) != 1):
                    raise FormulaError(f"calculate_output calls {name} with {len(args)} values")
                for argument in args:
                    self._check(argument, names)
            case _:
                raise FormulaError(
                    f"calculate_output may hold + - * / ^, {', '.join(_FUNCTIONS)}, numbers and names of graders alone"
                )

    def _value(self, node: ast.AST, scores: Mapping[str, float]) -> float:
        match node:
            case ast.Constant(value=value):
                return float(value)  # pyright: ignore[reportArgumentType]
            case ast.Name(id=name):
                return scores[name]
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATORS[type(op)](self._value(left, scores), self._value(right, scores))
            case ast.UnaryOp(op=op, operand=operand):
                return _SIGNS[type(op)](self._value(operand, scores))
            case ast.Call(func=ast.Name(id=name), args=args):
                values = [self._value(argument, scores) for argument in args]
                return _FUNCTIONS[name](*values) if len(values) > 1 or name in _OF_ONE else values[0]
            case _:
                raise AssertionError(node)
