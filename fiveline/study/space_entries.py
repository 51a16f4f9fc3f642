"""Read the space of a study from the entries of search.yaml or --space, and report all mistakes in them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import utils
from fiveline.study.space import LARGEST_GRID, Dimension, Space, is_among

KEYS = ("values", "low", "high", "log", "step", "when", "zip")


def read_space(raw: Any, base: utils.Params) -> tuple[Space, list[str]]:
    """Return the space that a file's `space` describes, and the mistakes in it.

    Its entries are lists of values, {values, zip}, {low, high, log, step}, or a list of these with conditions that
    exclude each other. `when` is {other name: value or list}.
    """
    if not isinstance(raw, Mapping) or not raw:
        return Space(()), [f"space: expected hyperparameters and their values, found {raw!r}"]
    read = [_read_dimension(str(name), each, base) for name, entry in raw.items() for each in _alternatives(entry)]
    listed = [dimension for dimension, _ in read if dimension is not None]
    unzipped = [_unzip(dimension, listed) for dimension in listed]
    dimensions: list[Dimension] = []
    for dimension in (each for some, _ in unzipped for each in some):
        number = sum(each.name == dimension.name for each in dimensions)
        dimensions.append(dataclasses.replace(dimension, number=number))
    space = Space(tuple(dimensions))
    mistakes = [line for _, lines in (*read, *unzipped) for line in lines]
    mistakes += [line for dimension in space.dimensions for line in _condition_mistakes(dimension, space)]
    in_circle = [dimension.name for dimension in space.dimensions if dimension not in space.in_order]
    if in_circle and not mistakes:
        mistakes.append(f"{', '.join(dict.fromkeys(in_circle))} depend on each other")
    return space, [f"space: {line}" for line in mistakes]


def _alternatives(entry: Any) -> list[Any]:
    """Return the entries of a hyperparameter: a list of mappings has one for each condition."""
    is_several = isinstance(entry, list) and entry and all(isinstance(each, Mapping) for each in entry)
    return entry if is_several else [entry]


def _read_dimension(name: str, entry: Any, base: utils.Params) -> tuple[Dimension | None, list[str]]:
    """Return one hyperparameter's values, each checked for its type and bounds, and the mistakes."""
    cls = type(base)
    if name in ("task", *utils.machine_settings(cls)):
        return None, [f"{name} does not decide what a run of this study learns; it cannot vary"]
    entry = entry if isinstance(entry, Mapping) else {"values": entry if isinstance(entry, list) else [entry]}
    if unknown := [key for key in entry if key not in KEYS]:
        return None, [f"{name}: unknown key {unknown[0]!r}; known: {', '.join(KEYS)}"]
    raw = entry.get("when", {})
    if not isinstance(raw, Mapping):
        return None, [f"{name}: expected when: {{other: value}}, found {raw!r}"]
    when = {str(key): tuple(value) if isinstance(value, list) else (value,) for key, value in raw.items()}
    if "values" not in entry and "zip" not in entry:
        return _read_range(Dimension(name, when=when), entry, cls)
    values = entry.get("values")
    if not isinstance(values, list) or not values or not {"values", "when", "zip"}.issuperset(entry):
        return None, [f"{name}: expected values: [a, b], or low and high, found {entry!r}"]
    mistakes = _value_mistakes(values, name, cls)
    if "zip" in entry:
        return Dimension(name, tuple(values), when=when, zip=str(entry["zip"])), mistakes
    twice = [f"{name}: {value!r} comes twice" for i, value in enumerate(values) if is_among(value, values[:i])]
    return Dimension(name, tuple(values), when=when), twice + mistakes


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
        found = f"found {len(values)} values, {list(values)}, expected {len(theirs)}, one for each of {other}"
        return [], [f"{dimension.name}: zip: {found}: {list(theirs)}"]
    pairs = [(mine, {**dimension.when, other: (their,)}) for mine, their in zip(values, theirs, strict=True)]
    return [dataclasses.replace(dimension, values=(mine,), when=when, zip=None) for mine, when in pairs], []


def _value_mistakes(values: Sequence[Any], name: str, cls: type[utils.Params]) -> list[str]:
    return [line for value in values for line in utils.find_mistakes(cls, {name: value}, alone=True)]


def _read_range(
    dimension: Dimension, entry: Mapping[str, Any], cls: type[utils.Params]
) -> tuple[Dimension | None, list[str]]:
    """Return the dimension with its range, or with a list of the values where the range has a step."""
    name = dimension.name
    low, high, log, step = (entry.get(key) for key in ("low", "high", "log", "step"))
    numbers = [number for number in (low, high, step) if number is not None]
    if low is None or high is None or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in numbers):
        return None, [f"{name}: expected numbers low and high (and step), found {dict(entry)!r}"]
    mistakes = _value_mistakes((low, high), name, cls)
    if not isinstance(log, bool | None):
        mistakes.append(f"{name}: log: expected true or false, found {log!r}")
    if not all(map(math.isfinite, numbers)) or low >= high:
        mistakes.append(f"{name}: expected low below high, found {low} and {high}")
    if log and (low <= 0 or step is not None):
        mistakes.append(f"{name}: a log range begins above 0 and has no step, found {dict(entry)!r}")
    if step is not None and step <= 0:
        mistakes.append(f"{name}: step: expected more than 0, found {step}")
    is_int = not mistakes and bool(_value_mistakes([low + (high - low) * 0.37], name, cls))
    if is_int and step is not None and step != int(step):
        mistakes.append(f"{name}: step: expected a whole number, found {step}")
    if mistakes:
        return None, mistakes
    if step is None:
        return dataclasses.replace(dimension, low=low, high=high, log=bool(log), is_int=is_int), []
    count = int((high - low) / step + 1e-9) + 1
    if count > LARGEST_GRID:
        return None, [f"{name}: {count:,} values; take a larger step, or none"]
    listed = [low + i * step for i in range(count)]  # rounded: three times 0.1 is to be 0.3
    return dataclasses.replace(dimension, values=tuple(int(x) if is_int else float(f"{x:.12g}") for x in listed)), []


def _condition_mistakes(dimension: Dimension, space: Space) -> list[str]:
    """Return the mistakes in a dimension's conditions, alone and beside the hyperparameter's other dimensions."""
    where, mistakes = f"{dimension.name}: when:", []
    for name, allowed in dimension.when.items():
        others = [each for each in space.dimensions if each.name == name != dimension.name]
        if not others:
            mistakes.append(
                f"{where} {name!r} is not another hyperparameter that varies; add {name}: [a, b] to the space"
            )
        never = [value for value in allowed if others and not any(each.contains(value) for each in others)]
        mistakes += [f"{where} {name} is never {value!r}" for value in never]
    for other in space.dimensions[: space.dimensions.index(dimension)]:
        pairs = [(other.when.get(name), allowed) for name, allowed in dimension.when.items()]
        if other.name == dimension.name and not any(_exclude(*pair) for pair in pairs):
            both = [{name: list(values) for name, values in each.when.items()} for each in (other, dimension)]
            mistakes.append(f"{where} {both[0]} and {both[1]} can hold at once; expected other values of one name")
    return mistakes


def _exclude(first: Sequence[Any] | None, second: Sequence[Any]) -> bool:
    return first is not None and not any(is_among(value, second) for value in first)
