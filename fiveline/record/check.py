"""Check values against pydantic classes, and report mistakes in plain words; the classes of what a run's files hold."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from fiveline.record.atomic import to_json
from fiveline.record.errors import InputError
from fiveline.record.files import read_json, read_lines

M = TypeVar("M", bound=BaseModel)
MOST_MISTAKES = 20  # that are explained at once
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}  # in JSON Schema
_Count = Annotated[int, Field(ge=0, lt=2**63)]


def check_values(cls: type[M], values: Mapping[str, Any], source: str, mistakes: Sequence[str] = ()) -> M:
    """Return the values as an object of a pydantic class; an InputError lists `mistakes` and all others."""
    found = list(dict.fromkeys([*mistakes, *find_mistakes(cls, values)]))  # some may have been found twice
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
    # reprlib for what may be nested without end, or hold what JSON does not have: YAML has dates and sets
    text = to_json(value, indent=None) if isinstance(value, (str, int, type(None))) else reprlib.repr(value)
    text = " ".join(text.split())  # a tensor takes several lines
    return text if len(text) <= 60 else text[:57] + "..."


def describe(cls: type[BaseModel]) -> list[dict[str, str]]:
    """Return one row for each hyperparameter: name, type, bounds, default, description (for --describe_params)."""
    rows = []
    for name, schema in cls.model_json_schema()["properties"].items():
        branches = schema.get("anyOf", [schema])
        kinds = [str(value) for b in branches for value in b.get("enum", [b.get("const", b.get("type"))])]
        bounds = [f"{sign} {b[key]:.12g}" for b in branches for key, sign in BOUNDS.items() if key in b]
        shown = [kind if kind.isprintable() else repr(kind)[1:-1] for kind in kinds]  # a tab as \t
        row = {"name": name, "type": "|".join(shown), "bounds": ", ".join(bounds)}
        row["default"] = to_json(schema.get("default"), indent=None)
        rows.append({**row, "description": schema.get("description", "")})
    return rows


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Params(_Part):
    __pydantic_extra__: dict[str, JsonValue]
    task: str


class Result(_Part):
    """What every version has saved in a checkpoint."""

    state_dict: dict[str, Any]
    params: _Params
    facts: dict[str, Any]
    epoch: _Count
    best: float | None
    best_epoch: _Count


class Resumable(Result):
    """What a run needs of a checkpoint to continue."""

    step: _Count
    seconds: float = Field(ge=0)
    best_loss: float | None
    schedule: dict[Literal["epochs_since_best", "num_drops"], _Count] = Field(min_length=2)
    optim_dict: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any]
    sums: dict[str, Any]
    generators: dict[str, Any] | None
    others: list[dict[str, Any]]


class _Epoch(_Part):
    """A line of history.jsonl; NaN is saved as null."""

    epoch: int = Field(ge=1, lt=2**63)
    train: dict[str, float | None] = {}
    val: dict[str, float | None] = {}
    seconds: float | None = None


class Record(_Part):
    """The part of run.json that anything is computed from."""

    status: str = ""
    reason: str | None = None
    restore_file: str | None = None
    params: dict[str, Any] = {}
    epochs: _Count = 0
    best_epoch: _Count = 0
    pruned_epoch: int | None = None
    best: float | None = None
    lower_is_better: list[str] = []
    data: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    versions: dict[str, Any] = {}


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read a history.jsonl, one dict per epoch; a missing file has none. An InputError names the row and the key."""
    try:
        rows = read_lines(path, is_growing=True)
        for number, row in enumerate(rows, start=1):
            check_values(_Epoch, row, f"{path}, row {number}")
    except InputError as error:
        raise InputError(f"{error}; move {path.name} away, then rerun the same command to go on without it") from None
    return rows


def read_record(path: Path) -> dict[str, Any]:
    """Read a run.json, empty where there is no such file. An InputError names the file and the keys."""
    try:
        record = read_json(path) if path.exists() else {}
        check_values(Record, record, str(path))
    except InputError as error:
        hint = "remove it, then rerun the same command to continue from the last checkpoint"
        raise InputError(f"{error}; {hint}") from None
    return record
