"""`--filter "learning_rate < 0.01 and status == 'finished'"`: Python's syntax, parsed and never run as code.

The page's filter (web/filter.js) has the same grammar: comparisons, `in`, `is`, `and`, `or`, `not` and brackets.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fiveline.record.errors import InputError
from fiveline.report.columns import Column, find_column
from fiveline.report.runs import Run, is_number

ORDERINGS = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
HOW = "write for example \"accuracy > 0.9 and optimizer in ['adam', 'sgd']\""


def parse_filter(text: str, columns: Mapping[str, Column]) -> Callable[[Run], bool | None]:
    """Return a function that returns whether a run is wanted: True, False, or None where the run lacks a value.

    Names in the text are columns, with `_` for characters that Python's names cannot contain: `test_accuracy`,
    `lambda_`. A mistake in the text is an InputError.
    """
    by_identifier = {_identifier(name): column for name, column in reversed(list(columns.items()))}
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _value(tree, Run("", ""), by_identifier)  # refuses all other Python syntax
    except InputError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # also a null byte, absurd nesting
        raise InputError(f"--filter {text[:200]!r}: not a filter; {HOW}") from None
    return lambda run: _all_or_any([_value(tree, run, by_identifier)], False)


def _identifier(name: str) -> str:
    """Return a name as an expression can contain it: `test accuracy` is `test_accuracy`, `lambda` is `lambda_`."""
    text = re.sub(r"[^\w.]", "_", name)
    return f"{text}_" if keyword.iskeyword(text) else f"_{text}" if text[:1].isdigit() else text


def _value(node: ast.expr, run: Run, columns: Mapping[str, Column]) -> Any:
    """Evaluate a part of the expression; None where the run lacks a value."""
    if isinstance(node, (ast.Name, ast.Attribute)):  # an attribute is a name with dots in it, such as `optimizer.lr`
        return find_column(ast.unparse(node), columns, "--filter", " (text needs quotes)").value(run)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(each, run, columns) for each in node.elts]
    if isinstance(node, ast.BoolOp):
        return _all_or_any([_value(each, run, columns) for each in node.values], isinstance(node.op, ast.Or))
    if isinstance(node, ast.Compare):
        nodes = [node.left, *node.comparators]
        values = [_value(each, run, columns) for each in nodes]
        is_none = [getattr(each, "value", "") is None for each in nodes]
        pairs = [_compare(values[i], op, values[i + 1], any(is_none[i : i + 2])) for i, op in enumerate(node.ops)]
        return _all_or_any(pairs, False)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _value(node.operand, run, columns)
        return not inner if isinstance(inner, bool) else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return ast.literal_eval(node)
    raise InputError(f"--filter: {ast.unparse(node)!r} is not understood; {HOW}")


def _all_or_any(parts: Sequence[Any], decisive: bool) -> bool | None:
    """Join parts by `or`, for which True is decisive, or by `and`. (Kleene's logic: `None or True` is True.)"""
    known = [part for part in parts if isinstance(part, bool)]
    return decisive if decisive in known else None if len(known) < len(parts) else not decisive


def _compare(a: Any, op: ast.cmpop, b: Any, with_none: bool) -> bool | None:
    """Compare two values; None if one is missing, unless None is written there, or if they are of two kinds."""
    if isinstance(op, (ast.Eq, ast.NotEq, ast.Is, ast.IsNot)):
        return (a == b) is isinstance(op, (ast.Eq, ast.Is)) if with_none or None not in (a, b) else None
    are_texts = isinstance(a, str) and isinstance(b, str)
    if isinstance(op, (ast.In, ast.NotIn)):
        return (a in b) is isinstance(op, ast.In) if a is not None and (are_texts or isinstance(b, list)) else None
    return bool(ORDERINGS[type(op)](a, b)) if are_texts or (is_number(a) and is_number(b)) else None
