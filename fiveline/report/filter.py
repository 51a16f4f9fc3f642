"""`--filter "learning_rate < 0.01 and status == 'finished'"`: Python's syntax, read, never run as code."""

from __future__ import annotations

import ast
import difflib
import keyword
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fiveline.record.errors import InputError
from fiveline.report.columns import Column
from fiveline.report.runs import Run, is_number

ORDERINGS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
CONSTANTS = {"true": True, "false": False, "null": None}
HOW = "write for example \"accuracy > 0.9 and optimizer in ['adam', 'sgd']\""

# What a part of the expression is for a run. Where a run lacks a value the part is None, and so is what depends on it.
Value = Callable[[Run], Any]


def parse_filter(text: str, columns: Mapping[str, Column]) -> Value:
    """Return a function that says whether a run is wanted: True, False, or None where the run lacks a value.

    Args:
        text: comparisons, `in`, `and`, `or`, `not`, + - * / and brackets; names are those of columns, with `_` for
            what Python's names cannot have in them: `test_accuracy`, `lambda_`
        columns: by name

    Raises:
        InputError: it is no such expression, or no run has a value that it names
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own remarks, on `0or 1` for one
            tree = ast.parse(text.strip(), mode="eval")
        return _Reader(text, columns).logical(tree.body)
    except InputError:
        raise
    except SyntaxError as error:
        words = sorted(set(re.findall(r"[^\W\d]\w*", text)) & set(keyword.kwlist) & set(columns))
        hint = f"{words[0]} is a word of Python, its name here is {words[0]}_" if words else HOW
        raise InputError(f"--filter {text!r}: {error.msg}; {hint}") from None
    except (ValueError, RecursionError, MemoryError):  # a null byte, absurd nesting
        raise InputError(f"--filter {text[:60]!r}: cannot be read; {HOW}") from None


class _Reader:
    """Turns a syntax tree into a function, part by part; what is not in here does not exist.

    Args:
        text: for messages
        columns: by name
    """

    def __init__(self, text: str, columns: Mapping[str, Column]) -> None:
        self.text, self.columns = text, columns
        self.names = {_identifier(name): name for name in reversed(list(columns))}

    def logical(self, node: ast.expr) -> Value:
        """Read what is true or false. (Kleene's logic: `None or True` is True, `None and True` is None.)"""
        if isinstance(node, ast.BoolOp):
            parts = [self.logical(value) for value in node.values]
            decisive = isinstance(node.op, ast.Or)
            return lambda run: _join([part(run) for part in parts], decisive)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.logical(node.operand)
            return lambda run: None if (value := inner(run)) is None else not value
        if isinstance(node, ast.Compare):
            nodes = [node.left, *node.comparators]
            pairs = [self.comparison(*each) for each in zip(nodes, node.ops, nodes[1:], strict=False)]
            return lambda run: _join([pair(run) for pair in pairs], False)
        value = self.value(node)  # a hyperparameter that is true or false
        return lambda run: found if isinstance(found := value(run), bool) else None

    def comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Value:
        """Read one comparison."""
        a, b = self.value(left), self.value(right)
        if isinstance(op, (ast.Eq, ast.NotEq, ast.Is, ast.IsNot)):
            wanted = isinstance(op, (ast.Eq, ast.Is))
            if _is_null(left) or _is_null(right):
                return lambda run: (a(run) is b(run)) is wanted
            return lambda run: None if None in (pair := [a(run), b(run)]) else (pair[0] == pair[1]) is wanted
        if isinstance(op, (ast.In, ast.NotIn)):
            wanted = isinstance(op, ast.In)
            return lambda run: None if (found := _contains(a(run), b(run))) is None else found is wanted
        return lambda run: _ordered(ORDERINGS[type(op)], a(run), b(run))

    def value(self, node: ast.expr) -> Value:
        """Read a name, a constant, a list of them, or a sum of numbers."""
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self.name(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, bool, type(None))):
            constant = node.value
            return lambda run: constant
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            values = [self.value(each) for each in node.elts]
            return lambda run: [value(run) for value in values]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self.value(node.operand)
            return lambda run: _calculated(operator.sub, 0, inner(run))
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            operation, a, b = ARITHMETIC[type(node.op)], self.value(node.left), self.value(node.right)
            return lambda run: _calculated(operation, a(run), b(run))
        part = ast.get_source_segment(self.text.strip(), node) or self.text
        raise InputError(f"--filter: {part!r} is not understood; {HOW}")

    def name(self, node: ast.expr) -> Value:
        """Read a column's name; `optimizer.lr` is one as well."""
        name = ast.unparse(node)
        key = name if name in self.columns else self.names.get(_identifier(name))
        if key is not None:
            return self.columns[key].value
        if name in CONSTANTS:
            return lambda run: CONSTANTS[name]
        close = difflib.get_close_matches(name, self.names, n=3)
        told = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(self.names))}"
        raise InputError(f"--filter: no run has {name!r}; {told} (text stands in quotes)")


def _identifier(name: str) -> str:
    """Return a name as an expression can hold it: `test accuracy` is `test_accuracy`, `lambda` is `lambda_`."""
    text = re.sub(r"[^\w.]", "_", name)
    return f"{text}_" if keyword.iskeyword(text) else f"_{text}" if text[:1].isdigit() else text


def _is_null(node: ast.expr) -> bool:
    return (isinstance(node, ast.Constant) and node.value is None) or (isinstance(node, ast.Name) and node.id == "null")


def _join(values: Sequence[Any], decisive: bool) -> bool | None:
    """Return `or` (decisive is True) or `and` (decisive is False) of True, False and None."""
    if decisive in values:
        return decisive
    return None if None in values else not decisive


def _ordered(compare: Callable[[Any, Any], Any], a: Any, b: Any) -> bool | None:
    if (is_number(a) and is_number(b)) or (isinstance(a, str) and isinstance(b, str)):
        return bool(compare(a, b))
    return None  # what cannot be compared


def _contains(a: Any, b: Any) -> bool | None:
    if a is None or b is None or (isinstance(b, str) and not isinstance(a, str)) or not isinstance(b, (str, list)):
        return None
    return a in b


def _calculated(operation: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if not is_number(a) or not is_number(b):
        return None
    try:
        return operation(a, b)
    except (ZeroDivisionError, OverflowError):
        return None
