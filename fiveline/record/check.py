"""Values from files and the command line, held to a pydantic class; both said as a person would."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fiveline.record.errors import InputError
from fiveline.record.files import to_json

M = TypeVar("M", bound=BaseModel)
MOST_MISTAKES = 20  # that are explained at once


def check_values(cls: type[M], values: Mapping[str, Any], source: str, mistakes: Sequence[str] = ()) -> M:
    """Return the values as an object of a pydantic class.

    Args:
        cls: what is expected
        values: name -> value, as read from a file and the command line
        source: what the user should look at, for the message
        mistakes: found already while reading

    Raises:
        InputError: all mistakes at once
    """
    checked, more = _validate(cls, values, False)
    found = list(dict.fromkeys([*mistakes, *more]))  # a space may have a mistake once for each of its values
    if len(found) > 2 * MOST_MISTAKES:
        found[MOST_MISTAKES:] = [f"and {len(found) - MOST_MISTAKES:,} more"]
    if found:
        title = f"{source}: " if len(found) == 1 else f"{source}: {len(found)} mistakes\n  "
        raise InputError(title + "\n  ".join(found))
    assert checked is not None
    return checked


def find_mistakes(cls: type[BaseModel], values: Mapping[str, Any], alone: bool = False) -> list[str]:
    """Return what is wrong with values.

    Args:
        cls: what is expected
        values: name -> value
        alone: look at each by itself, whether or not they go together
    """
    return _validate(cls, values, alone)[1]


def _validate(cls: type[M], values: Mapping[str, Any], alone: bool) -> tuple[M | None, list[str]]:
    """Return the object, or None and what is wrong; of thousands of mistakes, the first are explained."""
    try:
        return cls.model_validate(dict(values)), []
    except ValidationError as error:
        entries = [entry for entry in error.errors(include_url=False) if entry["loc"] or not alone]
        told = [_explain(entry, cls) for entry in entries[:MOST_MISTAKES]]
        left = len(entries) - MOST_MISTAKES
        return None, [*told, f"and {left:,} more"] if left > 0 else told


def _explain(error: Mapping[str, Any], cls: type[BaseModel]) -> str:
    """Say one of pydantic's errors as a person would."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, cls.model_fields, n=1)
        names = ", ".join(cls.model_fields)
        known = f"known: {names}" if len(names) < 300 else "train.py --describe_params lists the known ones"
        hint = f"did you mean {close[0]!r}?" if close else known
        return f"unknown key {key!r}; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, found {_shown(error['input'])}"


def _shown(value: Any) -> str:
    # reprlib for what may be nested without end, or hold what JSON has not: YAML has anchors, dates and sets
    is_simple = isinstance(value, (str, int, float, bool, type(None)))
    text = to_json(value, indent=None) if is_simple else reprlib.repr(value)
    text = " ".join(text.split())  # a tensor takes several lines
    return text if len(text) <= 60 else text[:57] + "..."


def describe(cls: type[BaseModel]) -> list[dict[str, str]]:
    """Return one row for each hyperparameter: name, type, bounds, default, description (for --describe_params)."""
    rows = []
    for name, schema in cls.model_json_schema()["properties"].items():
        branches = schema.get("anyOf", [schema])
        bounds = [
            f"{sign} {branch[key]:.12g}"
            for branch in branches
            for key, sign in (
                ("exclusiveMinimum", ">"),
                ("minimum", ">="),
                ("exclusiveMaximum", "<"),
                ("maximum", "<="),
            )
            if key in branch
        ]
        kinds = [str(value) for b in branches for value in b.get("enum", [b.get("const", b.get("type"))])]
        rows.append(
            {
                "name": name,
                "type": "|".join(kind if kind.isprintable() else repr(kind)[1:-1] for kind in kinds),  # a tab as \t
                "bounds": ", ".join(bounds),
                "default": to_json(schema.get("default"), indent=None),
                "description": schema.get("description", ""),
            }
        )
    return rows
