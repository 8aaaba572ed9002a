"""The values that a MONAI bundle's configuration works out, found without running it.

MONAI's own parser imports and calls whatever a configuration names, and hands what follows a ``$`` to Python.
Here ``@id`` and ``%id`` are looked up in the same file, and what follows a ``$`` is read as arithmetic:
numbers, texts, lists, references, ``+ - * / // %``, comparisons, ``a if b else c``, indices, and the
functions of :data:`FUNCTIONS`. Anything else is refused by name, and only where its value is wanted.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import ModelError

REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
"""A reference: an id, then keys and indices into it."""

SEPARATOR = re.compile(r"::|#")

OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    kind.__name__: kind for kind in (int, float, bool, str, len, min, max, sum, abs, round, list, tuple)
}
"""What an expression may call."""

NUMBERS_ONLY = (ast.Mult, ast.Mod, ast.Div, ast.FloorDiv, ast.Sub)
"""Operators that take numbers: a text or list times a number could fill the memory."""

DEEPEST = 50
"""References within references, before they are taken for a circle."""

MOST_STEPS = 100_000
"""Values that are looked up for one configuration: references can double what they stand for again and again."""


class Values:
    """A configuration, and what its entries amount to."""

    def __init__(self, config: Mapping[str, Any], *, where: str) -> None:
        """Keep a configuration.

        Args:
            config: As it was read.
            where: The file, for messages.
        """
        self.config = config
        self.where = where
        self._depth = 0
        self._n_steps = 0

    def node(self, value: Any, *, depth: int = 0) -> Any:  # noqa: ANN401 -- JSON
        """Return what a value that is a reference alone stands for, as it is written: an object stays an object.

        Raises:
            ModelError: If there is no such entry, or references go round in a circle.
        """
        if not isinstance(value, str) or not (value.startswith("%") or REFERENCE.fullmatch(value)):
            return value
        if depth > DEEPEST:
            raise ModelError(f"{value!r} of {self.where} refers to itself. Correct the bundle.")
        found: Any = self.config
        for key in SEPARATOR.split(value[1:]):
            found = self.node(found, depth=depth + 1)
            if isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                raise ModelError(
                    f"{value!r} must be an entry of {self.where}, which has none at '{key}'. Write what it stands for "
                    "in its place."
                )
        return self.node(found, depth=depth + 1)

    def plain(self, value: Any) -> Any:  # noqa: ANN401 -- JSON
        """Return what a value amounts to: numbers, texts, and lists and mappings of them.

        Raises:
            ModelError: If that takes running code, or is an object.
        """
        self._depth, self._n_steps = self._depth + 1, self._n_steps + 1
        try:
            if self._depth > DEEPEST or self._n_steps > MOST_STEPS:
                raise ModelError(f"{value!r} of {self.where} refers to itself, or to too much. Correct the bundle.")
            return self._plain(self.node(value))
        finally:
            self._depth -= 1

    def _plain(self, value: Any) -> Any:  # noqa: ANN401 -- JSON
        if isinstance(value, str) and value.startswith("$"):
            return self._evaluated(value)
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if isinstance(value, Mapping):
            if "_target_" in value:
                raise self._refused(f"an object of class {value['_target_']!r}")
            return {key: self.plain(item) for key, item in value.items()}
        return value

    def _evaluated(self, text: str) -> Any:  # noqa: ANN401 -- JSON
        names: dict[str, str] = {}

        def named(match: re.Match[str]) -> str:
            names[f"__{len(names)}"] = match.group()
            return f"__{len(names) - 1}"

        expression = REFERENCE.sub(named, text[1:].strip())
        try:
            tree = ast.parse(expression, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._refused(repr(text)) from error
        try:
            return self._value(tree.body, names, text)
        except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise ModelError(f"{text!r} of {self.where} cannot be worked out: {error}. Write its value.") from error

    def _value(self, node: ast.AST, names: Mapping[str, str], text: str) -> Any:  # noqa: ANN401 -- JSON
        """Return the value of one node of an expression."""

        def of(child: ast.AST) -> Any:  # noqa: ANN401 -- JSON
            return self._value(child, names, text)

        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.Name(id=name) if name in names:
                return self.plain(names[name])
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [of(item) for item in items]
            case ast.IfExp(test=test, body=body, orelse=other):
                return of(body) if of(test) else of(other)
        return self._operated(node, of, text)

    def _operated(self, node: ast.AST, of: Callable[[ast.AST], Any], text: str) -> Any:  # noqa: ANN401 -- JSON
        """Return the value of an operation or a call."""
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return self._binary(op, of(left), of(right), text)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
                return OPERATORS[type(op)](of(operand))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
                return OPERATORS[type(op)](of(left), of(right))
            case ast.Subscript(value=held, slice=index):
                return of(held)[of(index)]
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](*(of(argument) for argument in arguments))
        raise self._refused(repr(text))

    def _binary(self, op: ast.operator, left: Any, right: Any, text: str) -> Any:  # noqa: ANN401 -- JSON
        are_numbers = all(isinstance(side, int | float) for side in (left, right))
        if isinstance(op, NUMBERS_ONLY) and not are_numbers:
            raise self._refused(repr(text))
        return OPERATORS[type(op)](left, right)

    def _refused(self, what: str) -> ModelError:
        return ModelError(
            f"a plain value is wanted, and {self.where} gives {what}, which would have to be run. Write the value "
            "itself, or a factory that builds the pipeline."
        )
