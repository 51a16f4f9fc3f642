"""The space of a study: which hyperparameters vary, over which values, and when.

A hyperparameter has one dimension, or several whose conditions exclude each other: for example a range for each
optimizer, or one value for each value of the hyperparameter that it is zipped with.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import utils

LARGEST_GRID = 100_000
LARGEST_CHECKED_GRID = 10_000  # combinations that are checked one by one before the first trial starts
KEYS = ("values", "low", "high", "log", "step", "when", "zip")


@dataclasses.dataclass(frozen=True)
class Dimension:
    """A hyperparameter that varies: over a list of values, or over a range, which includes its ends."""

    name: str
    values: tuple[Any, ...] | None = None  # None for a range
    low: float = 0.0
    high: float = 0.0
    log: bool = False  # whether a range is sampled on a logarithmic scale
    is_int: bool = False  # whether a range holds whole numbers only
    when: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)  # other name -> values it must have
    zip: str | None = None  # other name: its first value goes with the first value here; None once this is a condition
    number: int = 0  # among the dimensions of the hyperparameter

    @property
    def key(self) -> str:
        """The name for the sampler, which must differ between dimensions."""
        return f"{self.name} {self.number}" if self.number else self.name

    def is_active(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether the dimension applies, given the values chosen for the hyperparameters it depends on."""
        return all(name in chosen and _is_among(chosen[name], allowed) for name, allowed in self.when.items())

    def contains(self, value: Any) -> bool:
        """Return whether a value is in the list or the range."""
        if self.values is not None:
            return _is_among(value, self.values)
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


def _is_among(value: Any, values: Sequence[Any]) -> bool:
    """Return whether a value is in a list; True is not 1, as in JSON."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


@dataclasses.dataclass(frozen=True)
class Space:
    """All that varies, in the order in which it is written."""

    dimensions: tuple[Dimension, ...]

    @property
    def names(self) -> list[str]:
        """The hyperparameters that vary."""
        return list(dict.fromkeys(dimension.name for dimension in self.dimensions))

    @property
    def is_finite(self) -> bool:
        """Whether all combinations can be listed."""
        return all(dimension.values is not None for dimension in self.dimensions)

    def in_order(self) -> list[Dimension]:
        """Return the dimensions, each behind the ones that it depends on; dimensions in a circle are missing."""
        done: list[Dimension] = []
        waiting = list(self.dimensions)
        while ready := [each for each in waiting if not any(other.name in each.when for other in waiting)]:
            done += ready
            waiting = [each for each in waiting if each not in ready]
        return done

    def as_written(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return chosen values in the order of the file."""
        return {name: chosen[name] for name in self.names if name in chosen}

    def choices_in(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the values that a run with these hyperparameters has chosen, or None if it is outside the space."""
        chosen: dict[str, Any] = {}
        for dimension in self.in_order():
            if dimension.is_active(chosen):
                if not dimension.contains(params.get(dimension.name)):
                    return None
                chosen[dimension.name] = params[dimension.name]
        return self.as_written(chosen)

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield all combinations, the last hyperparameter fastest."""

        def combinations(chosen: dict[str, Any], waiting: Sequence[Dimension]) -> Iterator[dict[str, Any]]:
            if not waiting:
                yield self.as_written(chosen)
            elif waiting[0].is_active(chosen):
                for value in waiting[0].values or ():
                    yield from combinations({**chosen, waiting[0].name: value}, waiting[1:])
            else:
                yield from combinations(chosen, waiting[1:])

        return combinations({}, self.in_order())

    def grid_mistakes(self, base: utils.Params) -> list[str]:
        """Return the mistakes in combinations whose values are right one by one."""
        sizes = [[len(each.values or ()) for each in self.dimensions if each.name == name] for name in self.names]
        size = math.prod(map(max, sizes))  # of several dimensions, one applies
        if size > LARGEST_GRID:
            return [f"sampler grid: {size:,} trials; take sampler random or tpe with num_trials"]
        found: dict[str, None] = {}
        explicit = base.explicit_values()
        for chosen in itertools.islice(self.grid(), LARGEST_CHECKED_GRID):
            found |= dict.fromkeys(utils.find_mistakes(type(base), {**explicit, **chosen}))
        return [f"space: {line}" for line in itertools.islice(found, 10)]


def read_space(raw: Any, base: utils.Params) -> tuple[Space, list[str]]:
    """Return the space that a file's `space` describes, and the mistakes in it.

    Its entries are lists of values, {values, zip}, {low, high, log, step}, or a list of these with conditions that
    exclude each other. `when` is {other name: value or list}.
    """
    if not isinstance(raw, Mapping) or not raw:
        return Space(()), [f"space: expected hyperparameters and their values, found {raw!r}"]
    entries = [(str(name), each) for name, entry in raw.items() for each in _alternatives(entry)]
    read = [_read_dimension(name, entry, base) for name, entry in entries]
    listed = [dimension for dimension, _ in read if dimension is not None]
    unzipped = [_unzip(dimension, listed) for dimension in listed]
    dimensions = [dimension for some, _ in unzipped for dimension in some]
    names = [dimension.name for dimension in dimensions]
    numbers = [names[:i].count(name) for i, name in enumerate(names)]
    pairs = zip(dimensions, numbers, strict=True)
    space = Space(tuple(dataclasses.replace(dimension, number=number) for dimension, number in pairs))
    mistakes = [line for _, lines in (*read, *unzipped) for line in lines]
    mistakes += [line for dimension in space.dimensions for line in _condition_mistakes(dimension, space)]
    in_circle = [dimension.name for dimension in space.dimensions if dimension not in space.in_order()]
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
    twice = [f"{name}: {value!r} comes twice" for i, value in enumerate(values) if _is_among(value, values[:i])]
    return Dimension(name, tuple(values), when=when), twice + mistakes


def _unzip(dimension: Dimension, listed: Sequence[Dimension]) -> tuple[list[Dimension], list[str]]:
    """Return a zipped dimension as one dimension for each value of the other hyperparameter, and the mistakes."""
    other, values = dimension.zip, dimension.values or ()
    if other is None:
        return [dimension], []
    others = [each for each in listed if each.name == other and each.name != dimension.name]
    if len(others) != 1 or others[0].values is None or others[0].zip is not None:
        found = "varies, but not over one list" if others else "does not vary"
        return [], [
            f"{dimension.name}: zip: {other!r} {found}; give the space {other}: [a, b] with a value for each here"
        ]
    theirs = others[0].values
    if len(values) != len(theirs):
        found = f"found {len(values)} values, {list(values)}, expected {len(theirs)}, one for each of {other}"
        return [], [f"{dimension.name}: zip: {found}: {list(theirs)}"]
    pairs = zip(values, theirs, strict=True)
    split = [(mine, {**dimension.when, other: (their,)}) for mine, their in pairs]
    return [dataclasses.replace(dimension, values=(mine,), when=when, zip=None) for mine, when in split], []


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
                f"{where} {name!r} does not vary; give the space {name}: [a, b], or leave out the condition"
            )
        never = [value for value in allowed if others and not any(each.contains(value) for each in others)]
        mistakes += [f"{where} {name} is never {value!r}" for value in never]
    before = space.dimensions[: space.dimensions.index(dimension)]
    for other in (each for each in before if each.name == dimension.name):
        if not any(_exclude(other.when.get(name), allowed) for name, allowed in dimension.when.items()):
            whens = " and ".join(
                str({name: list(each) for name, each in one.when.items()}) for one in (other, dimension)
            )
            mistakes.append(f"{where} {whens} can hold at once; expected other values of the same hyperparameter")
    return mistakes


def _exclude(first: Sequence[Any] | None, second: Sequence[Any]) -> bool:
    return first is not None and not any(_is_among(value, second) for value in first)
