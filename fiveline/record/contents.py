"""Check the contents of a run's files key by key: checkpoints, run.json and history.jsonl may be whole, yet wrong."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from fiveline.record.check import check_values, find_mistakes
from fiveline.record.errors import InputError, explain
from fiveline.record.files import read_json, read_lines

DEEPEST = 64  # levels of dicts and lists within each other
MOST_PARTS = 1_000_000  # dicts and lists in one level; those that stand in several places unfold without limit
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Params(_Part):
    __pydantic_extra__: dict[str, JsonValue]
    task: str


class Net(_Part):
    """What evaluate.py needs of a checkpoint."""

    state_dict: dict[str, Any]
    params: _Params
    facts: dict[str, Any]


class Result(Net):
    """What can be said of the run of a checkpoint, whatever version saved it."""

    epoch: _Count
    best: float | None
    best_epoch: _Count


class _Schedule(_Part):
    epochs_since_best: _Count
    num_drops: _Count


class _Optimizer(_Part):
    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class Run(Result):
    """What a run needs of a checkpoint to continue."""

    step: _Count
    seconds: float = Field(ge=0)
    best_loss: float | None
    schedule: _Schedule
    optim_dict: _Optimizer
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
    """Read a history.jsonl, one dict an epoch; a missing file has none. An InputError names the row and the key."""
    try:
        rows = read_lines(path, is_growing=True)
        for number, row in enumerate(rows, start=1):
            if mistakes := find_mistakes(_Epoch, row):
                raise InputError(f"{path}, row {number}: {'; '.join(mistakes)}")
    except InputError as error:
        message = f"{error}; move {path.name} away, then rerun the same command to continue without it"
        raise InputError(message) from None
    return rows


def read_record(path: Path) -> dict[str, Any]:
    """Read a run.json, empty where there is no such file. An InputError names the file and the keys."""
    try:
        record = read_json(path) if path.exists() else {}
        check_values(Record, record, str(path))
    except InputError as error:
        message = f"{error}; remove it, then rerun the same command to continue from the last checkpoint"
        raise InputError(message) from None
    return record


def check_nesting(state: Any, path: Path) -> None:
    """Check that a walk through a loaded object comes to an end; else an InputError names the file."""
    level = [state]
    for _ in range(DEEPEST):
        entries = [entry for each in level for entry in (each.values() if isinstance(each, dict) else each)]
        level = [entry for entry in entries if isinstance(entry, (dict, list, tuple, set, frozenset))]
        if not level:
            return
        if len(level) > MOST_PARTS:
            break
    raise InputError(f"{path}: its dicts and lists are nested without end; expected at most {DEEPEST} levels")


@contextlib.contextmanager
def fitting(path: Path | str, key: str) -> Iterator[None]:
    """Turn any error of a block that uses a part of a checkpoint into an InputError that names file and part."""
    try:
        yield
    except Exception as error:  # torch and Python raise a dozen kinds
        if explain(error) is not None:  # out of memory, for example, which is not the checkpoint's mistake
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = str(error).strip().partition("\n")[0][:200]
        raise InputError(
            f"{path}: {key} does not fit this code ({type(error).__name__}: {reason}; "
            f"{Path(place.filename).name}, line {place.lineno}): other code saved it, or that line has a bug"
        ) from error
