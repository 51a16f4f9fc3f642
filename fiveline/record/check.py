"""Check values from files and the command line against a pydantic class, and report mistakes in plain words."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fiveline.record.atomic import to_json
from fiveline.record.errors import InputError

M = TypeVar("M", bound=BaseModel)
MOST_MISTAKES = 20  # that are explained at once
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}  # in JSON Schema


def check_values(cls: type[M], values: Mapping[str, Any], source: str, mistakes: Sequence[str] = ()) -> M:
    """Return the values as an object of a pydantic class; an InputError lists all mistakes.

    Its message begins with `source`, where the user should look, and repeats the `mistakes` found while reading.
    """
    found = list(dict.fromkeys([*mistakes, *find_mistakes(cls, values)]))  # some may have been found twice
    if len(found) > 2 * MOST_MISTAKES:
        found[MOST_MISTAKES:] = [f"and {len(found) - MOST_MISTAKES:,} more"]
    if found:
        title = f"{source}: " if len(found) == 1 else f"{source}: {len(found)} mistakes\n  "
        raise InputError(title + "\n  ".join(found))
    return cls.model_validate(dict(values))


def find_mistakes(cls: type[BaseModel], values: Mapping[str, Any], alone: bool = False) -> list[str]:
    """Return one line for each mistake in values, up to 20; `alone`: leave out combinations that contradict."""
    try:
        cls.model_validate(dict(values))
    except ValidationError as error:
        entries = [entry for entry in error.errors(include_url=False) if entry["loc"] or not alone]
        lines = [_explain(entry, cls) for entry in entries[:MOST_MISTAKES]]
        return lines + [f"and {len(entries) - MOST_MISTAKES:,} more"] * (len(entries) > MOST_MISTAKES)
    return []


def _explain(error: Mapping[str, Any], cls: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, cls.model_fields, n=1)
        names = ", ".join(cls.model_fields)
        known = f"known: {names}" if len(names) < 300 else "train.py --describe_params lists the known ones"
        return f"unknown key {key!r}; {f'did you mean {close[0]!r}?' if close else known}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, found {_shown(error['input'])}" if key else message


def _shown(value: Any) -> str:
    # reprlib for what may be nested without end, or hold what JSON has not: YAML has anchors, dates and sets
    text = to_json(value, indent=None) if isinstance(value, (str, int, type(None))) else reprlib.repr(value)
    text = " ".join(text.split())  # a tensor takes several lines
    return text if len(text) <= 60 else text[:57] + "..."


def describe(cls: type[BaseModel]) -> list[dict[str, str]]:
    """Return one row for each hyperparameter: name, type, bounds, default, description (for --describe_params)."""
    rows = []
    for name, schema in cls.model_json_schema()["properties"].items():
        branches = schema.get("anyOf", [schema])
        kinds = [str(value) for b in branches for value in b.get("enum", [b.get("const", b.get("type"))])]
        row = {
            "name": name,
            "type": "|".join(kind if kind.isprintable() else repr(kind)[1:-1] for kind in kinds),  # a tab as \t
            "bounds": ", ".join(f"{sign} {b[key]:.12g}" for b in branches for key, sign in BOUNDS.items() if key in b),
            "default": to_json(schema.get("default"), indent=None),
            "description": schema.get("description", ""),
        }
        rows.append(row)
    return rows
