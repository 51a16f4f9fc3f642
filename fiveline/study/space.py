"""The space of a study: which hyperparameters vary, over which values, and when."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import utils

LARGEST_GRID = 100_000
LARGEST_CHECKED_GRID = 10_000  # combinations that are checked one by one before the first starts
KEYS = ("values", "low", "high", "log", "step", "when")


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One hyperparameter that varies.

    Args:
        name: of the hyperparameter
        values: to choose from; None for a range
        low: of a range, which includes it
        high: of a range, which includes it
        log: whether a range is even on a logarithmic scale
        is_int: whether a range is one of whole numbers
        when: other hyperparameters of the space -> the values that they must have; else this one keeps the base's value
    """

    name: str
    values: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    is_int: bool = False
    when: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)

    def is_active(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether the hyperparameter varies where the ones before it were chosen so."""
        return all(name in chosen and _is_among(chosen[name], allowed) for name, allowed in self.when.items())

    def contains(self, value: Any) -> bool:
        """Return whether a value is one of those to try."""
        if self.values is not None:
            return _is_among(value, self.values)
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


def _is_among(value: Any, values: tuple[Any, ...]) -> bool:
    """Return whether a value is one of those listed; True is not 1, as in JSON."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


@dataclasses.dataclass(frozen=True)
class Space:
    """All that varies, in the order in which it is written.

    Args:
        dimensions: by no means empty
    """

    dimensions: tuple[Dimension, ...]

    @property
    def names(self) -> list[str]:
        """The hyperparameters that vary."""
        return [dimension.name for dimension in self.dimensions]

    @property
    def is_finite(self) -> bool:
        """Whether all of it can be listed."""
        return all(dimension.values is not None for dimension in self.dimensions)

    def in_order(self) -> list[Dimension]:
        """Return the dimensions, those that decide about others before those."""
        done: dict[str, Dimension] = {}
        waiting = list(self.dimensions)
        while waiting:
            ready = [dimension for dimension in waiting if all(name in done for name in dimension.when)]
            if not ready:
                raise utils.InputError(f"space: {', '.join(each.name for each in waiting)} depend on each other")
            done |= {dimension.name: dimension for dimension in ready}
            waiting = [dimension for dimension in waiting if dimension.name not in done]
        return list(done.values())

    def as_written(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return chosen values in the order of the file."""
        return {name: chosen[name] for name in self.names if name in chosen}

    def choices_in(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what a trial with these hyperparameters has chosen, or None if it is outside the space."""
        chosen: dict[str, Any] = {}
        for dimension in self.in_order():
            if dimension.is_active(chosen):
                if not dimension.contains(params.get(dimension.name)):
                    return None
                chosen[dimension.name] = params[dimension.name]
        return self.as_written(chosen)

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield all combinations, the last hyperparameter fastest."""
        if any(dimension.when for dimension in self.dimensions):
            seen = set()
            order = self.in_order()
            for values in itertools.product(*(dimension.values or () for dimension in order)):
                chosen: dict[str, Any] = {}
                for dimension, value in zip(order, values, strict=True):
                    if dimension.is_active(chosen):
                        chosen[dimension.name] = value
                key = utils.to_json(chosen, indent=None)
                if key not in seen:
                    seen.add(key)
                    yield self.as_written(chosen)
        else:
            for values in itertools.product(*(dimension.values or () for dimension in self.dimensions)):
                yield dict(zip(self.names, values, strict=True))

    def grid_mistakes(self, base: utils.Params) -> list[str]:
        """Return what is wrong with combinations, each of which may be right in its parts."""
        size = math.prod(len(dimension.values or ()) for dimension in self.dimensions)
        if size > LARGEST_GRID:
            return [f"sampler grid: {size:,} trials; take sampler random or tpe with num_trials"]
        found: dict[str, None] = {}
        explicit = base.explicit_values()
        for chosen in itertools.islice(self.grid(), LARGEST_CHECKED_GRID):
            found |= dict.fromkeys(utils.find_mistakes(type(base), {**explicit, **chosen}))
        return [f"space: {line}" for line in itertools.islice(found, 10)]


def read_space(raw: Any, base: utils.Params) -> tuple[Space, list[str]]:
    """Return the space that a file's `space` describes, and the mistakes in it.

    Args:
        raw: name -> list of values, or {low, high, log, step}, or {values}; with `when`, {other name: value or list}
        base: the hyperparameters that all trials have in common
    """
    if not isinstance(raw, Mapping) or not raw:
        return Space(()), [f"space: expected hyperparameters and their values, found {raw!r}"]
    dimensions: list[Dimension] = []
    mistakes: list[str] = []
    for name, entry in raw.items():
        dimension, wrong = _read_dimension(str(name), entry, base)
        mistakes += wrong
        if dimension is not None:
            dimensions.append(dimension)
    space = Space(tuple(dimensions))
    mistakes += [line for dimension in dimensions for line in _condition_mistakes(dimension, space)]
    if not mistakes:
        try:
            space.in_order()
        except utils.InputError as error:
            mistakes.append(str(error))
    return space, mistakes


def _read_dimension(name: str, entry: Any, base: utils.Params) -> tuple[Dimension | None, list[str]]:
    """Return one hyperparameter's values, each held to its type and bounds."""
    cls = type(base)
    if name in ("task", *utils.machine_settings(cls)):
        return None, [f"space: {name} does not decide what a run of this study learns; it cannot vary"]
    entry = entry if isinstance(entry, Mapping) else {"values": entry if isinstance(entry, list) else [entry]}
    unknown = [key for key in entry if key not in KEYS]
    if unknown:
        return None, [f"space: {name}: unknown key {unknown[0]!r}; known: {', '.join(KEYS)}"]
    when, wrong = _read_when(name, entry.get("when", {}))
    if wrong:
        return None, wrong
    if "values" in entry:
        values = entry["values"]
        if not isinstance(values, list) or not values or len(entry) - ("when" in entry) > 1:
            return None, [f"space: {name}: expected values: [a, b], or low and high, found {entry!r}"]
        twice = [value for i, value in enumerate(values) if _is_among(value, tuple(values[:i]))]
        mistakes = [f"space: {name}: {value!r} comes twice" for value in twice]
        mistakes += _value_mistakes(values, name, cls)
        return Dimension(name, tuple(values), when=when), mistakes
    return _read_range(name, entry, when, base)


def _value_mistakes(values: Sequence[Any], name: str, cls: type[utils.Params]) -> list[str]:
    """Return what is wrong with each value by itself."""
    return [f"space: {line}" for value in values for line in utils.find_mistakes(cls, {name: value}, alone=True)]


def _read_when(name: str, raw: Any) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    if not isinstance(raw, Mapping):
        return {}, [f"space: {name}: expected when: {{other: value}}, found {raw!r}"]
    return {str(key): tuple(value) if isinstance(value, list) else (value,) for key, value in raw.items()}, []


def _read_range(
    name: str, entry: Mapping[str, Any], when: Mapping[str, tuple[Any, ...]], base: utils.Params
) -> tuple[Dimension | None, list[str]]:
    low, high, log, step = (entry.get(key) for key in ("low", "high", "log", "step"))
    numbers = [number for number in (low, high, step) if number is not None]
    if low is None or high is None or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in numbers):
        return None, [f"space: {name}: expected numbers low and high (and step), found {dict(entry)!r}"]
    if not isinstance(log, bool | None):
        return None, [f"space: {name}: log: expected true or false, found {log!r}"]
    mistakes = _value_mistakes((low, high), name, type(base))
    if not all(map(math.isfinite, numbers)) or low >= high:
        mistakes.append(f"space: {name}: expected low below high, found {low} and {high}")
    if log and (low <= 0 or step is not None):
        mistakes.append(f"space: {name}: a log range begins above 0 and has no step, found {dict(entry)!r}")
    if step is not None and step <= 0:
        mistakes.append(f"space: {name}: step: expected more than 0, found {step}")
    is_int = not mistakes and bool(utils.find_mistakes(type(base), {name: low + (high - low) * 0.37}, alone=True))
    if is_int and step is not None and step != int(step):
        mistakes.append(f"space: {name}: step: expected a whole number, found {step}")
    if mistakes:
        return None, mistakes
    if step is not None:  # a list, then: 0.1 three times is to be 0.3
        count = int((high - low) / step + 1e-9) + 1
        if count > LARGEST_GRID:
            return None, [f"space: {name}: {count:,} values; take a larger step, or none"]
        listed = [low + i * step for i in range(count)]
        return Dimension(name, tuple(int(x) if is_int else float(f"{x:.12g}") for x in listed), when=when), []
    return Dimension(name, None, low, high, bool(log), is_int, when), []


def _condition_mistakes(dimension: Dimension, space: Space) -> list[str]:
    others = {each.name: each for each in space.dimensions if each.name != dimension.name}
    mistakes = []
    for name, allowed in dimension.when.items():
        if name not in others:
            mistakes.append(f"space: {dimension.name}: when: {name!r} is not another hyperparameter of the space")
        else:
            mistakes += [
                f"space: {dimension.name}: when: {name} is never {value!r}"
                for value in allowed
                if not others[name].contains(value)
            ]
    return mistakes
