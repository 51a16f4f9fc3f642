"""Read the space of a study from the entries of search.yaml or --space, and report all mistakes in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

import utils
from fiveline.study.space import LARGEST_GRID, Dimension, Space, is_among


class Entry(BaseModel):
    """An entry of the space: a list of values, perhaps zipped with another one, or a range; perhaps conditional."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    values: list[Any] | None = Field(None, min_length=1)
    low: float | None = None
    high: float | None = None
    step: float | None = Field(None, gt=0)
    log: bool = False
    when: dict[str, Any] = {}  # other name -> value, or list of values
    zip: str | None = None

    @model_validator(mode="after")
    def _check_range(self) -> Entry:
        low, high = self.low, self.high
        if self.values is not None or low is None or high is None:
            if self.values is None or not self.model_fields_set <= {"values", "when", "zip"}:
                raise ValueError("expected values: [a, b], or numbers low and high")
        elif self.zip is not None:
            raise ValueError("zip: expected values: [a, b] beside it")
        elif low >= high:
            raise ValueError(f"expected low below high, found {low:g} and {high:g}")
        elif self.log and (low <= 0 or self.step is not None):
            raise ValueError("a log range begins above 0 and has no step")
        elif self.step is not None and (high - low) / self.step >= LARGEST_GRID:
            raise ValueError("step: expected a larger step, or none")
        return self


def read_space(raw: Any, base: utils.Params) -> tuple[Space, list[str]]:
    """Return the space that a file's `space` describes, and the mistakes in it.

    Each hyperparameter has a list of values, a mapping with the keys of `Entry`, or a list of such mappings whose
    conditions exclude each other.
    """
    if not isinstance(raw, Mapping) or not raw:
        return Space(()), [f"space: expected hyperparameters and their values, found {raw!r}"]
    read = []
    for name, entry in raw.items():
        is_several = isinstance(entry, list) and entry and all(isinstance(each, Mapping) for each in entry)
        read += [_read_dimension(str(name), each, type(base)) for each in (entry if is_several else [entry])]
    listed = [dimension for dimension, _ in read if dimension is not None]
    unzipped = [_unzip(dimension, listed) for dimension in listed]
    space = Space(tuple(each for dimensions, _ in unzipped for each in dimensions))
    mistakes = [line for _, lines in (*read, *unzipped) for line in lines]
    mistakes += [line for dimension in space.dimensions for line in _condition_mistakes(dimension, space)]
    in_circle = [dimension.name for dimension in space.dimensions if dimension not in space.in_order]
    if in_circle and not mistakes:
        mistakes.append(f"{', '.join(dict.fromkeys(in_circle))} depend on each other")
    return space, [f"space: {line}" for line in mistakes]


def _read_dimension(name: str, raw: Any, cls: type[utils.Params]) -> tuple[Dimension | None, list[str]]:
    """Return one hyperparameter's values, each checked for its type and bounds, and the mistakes."""
    if name in ("task", *utils.machine_settings(cls)):
        return None, [f"{name} does not decide what a run of this study learns; it cannot vary"]
    raw = raw if isinstance(raw, Mapping) else {"values": raw if isinstance(raw, list) else [raw]}
    if mistakes := utils.find_mistakes(Entry, raw):
        return None, [f"{name}: {line}" for line in mistakes]
    entry = Entry.model_validate(dict(raw))
    when = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in entry.when.items()}
    if entry.values is not None:
        mistakes = _value_mistakes(entry.values, name, cls)
        twice = [value for i, value in enumerate(entry.values) if is_among(value, entry.values[:i])]
        if entry.zip is None:
            mistakes += [f"{name}: {value!r} comes twice" for value in twice]
        return Dimension(name, tuple(entry.values), when=when, zip=entry.zip), mistakes
    low, high, step = entry.low or 0.0, entry.high or 0.0, entry.step
    count = 2 if step is None else int((high - low) / step + 1e-9) + 1
    numbers = [float(f"{low + i * (step or high - low):.12g}") for i in range(count)]  # three times 0.1 must be 0.3
    is_int = bool(_value_mistakes([low + (high - low) * 0.37], name, cls))
    values = [int(number) if is_int and number.is_integer() else number for number in numbers]
    mistakes = _value_mistakes([*values[:2], values[-1]], name, cls)
    if step is not None:
        return Dimension(name, tuple(values), when=when), mistakes
    return Dimension(name, None, values[0], values[1], entry.log, is_int, when), mistakes


def _value_mistakes(values: Sequence[Any], name: str, cls: type[utils.Params]) -> list[str]:
    return [line for value in values for line in utils.find_mistakes(cls, {name: value}, alone=True)]


def _unzip(dimension: Dimension, listed: Sequence[Dimension]) -> tuple[list[Dimension], list[str]]:
    """Return a zipped dimension as one dimension for each value of the other hyperparameter, and the mistakes."""
    other, values = dimension.zip, dimension.values or ()
    if other is None:
        return [dimension], []
    others = [each for each in listed if each.name == other and each.name != dimension.name]
    theirs = others[0].values if len(others) == 1 and others[0].zip is None else None
    if theirs is None:
        found = "varies, but not over one list" if others else "is not another hyperparameter that varies"
        return [], [f"{dimension.name}: zip: {other!r} {found}; expected {other}: [a, b] in the space"]
    if len(values) != len(theirs):
        return [], [f"{dimension.name}: zip: found {len(values)} values, expected {len(theirs)}, as {other} has"]
    pairs = [(mine, {**dimension.when, other: (their,)}) for mine, their in zip(values, theirs, strict=True)]
    return [dataclasses.replace(dimension, values=(mine,), when=when, zip=None) for mine, when in pairs], []


def _condition_mistakes(dimension: Dimension, space: Space) -> list[str]:
    """Return the mistakes in a dimension's conditions, alone and beside the hyperparameter's other dimensions."""
    where, mistakes = f"{dimension.name}: when:", []
    for name, allowed in dimension.when.items():
        others = [each for each in space.dimensions if each.name == name != dimension.name]
        if not others:
            mistakes.append(f"{where} {name!r} is not another hyperparameter that varies; expected {name} in the space")
        never = [value for value in allowed if others and not any(each.contains(value) for each in others)]
        mistakes += [f"{where} {name} is never {value!r}" for value in never]
    for other in space.dimensions[: space.dimensions.index(dimension)]:
        shared = [(other.when[name], allowed) for name, allowed in dimension.when.items() if name in other.when]
        excluded = any(not any(is_among(value, allowed) for value in values) for values, allowed in shared)
        if other.name == dimension.name and not excluded:
            both = [{name: list(values) for name, values in each.when.items()} for each in (other, dimension)]
            mistakes.append(f"{where} {both[0]} and {both[1]} can hold at once; expected other values of one name")
    return mistakes
