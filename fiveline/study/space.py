"""The space of a study: which hyperparameters vary, over which values, and when.

A hyperparameter has one dimension, or several whose conditions exclude each other: for example a range for each
optimizer, or one value for each value of the hyperparameter that it is zipped with.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import utils

LARGEST_GRID = 100_000
LARGEST_CHECKED_GRID = 10_000  # combinations that are checked one by one before the first trial starts


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
    zip: str | None = None  # other name, whose first value goes with the first value here; `when` replaces it

    @property
    def key(self) -> str:
        """The name for the sampler, which must differ between dimensions."""
        return f"{self.name} {utils.to_json(self.when, indent=None)}" if self.when else self.name

    def is_active(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether the dimension applies, given the values chosen for the hyperparameters it depends on."""
        return all(name in chosen and is_among(chosen[name], allowed) for name, allowed in self.when.items())

    def contains(self, value: Any) -> bool:
        """Return whether a value is in the list or the range."""
        if self.values is not None:
            return is_among(value, self.values)
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


def is_among(value: Any, values: Sequence[Any]) -> bool:
    """Return whether a value is in a list; True is not 1, as in JSON."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


@dataclasses.dataclass(frozen=True)
class Space:
    """All dimensions, in the order in which the file lists them."""

    dimensions: tuple[Dimension, ...]

    @property
    def names(self) -> list[str]:
        """The hyperparameters that vary."""
        return list(dict.fromkeys(dimension.name for dimension in self.dimensions))

    @property
    def is_finite(self) -> bool:
        """Whether all combinations can be listed."""
        return all(dimension.values is not None for dimension in self.dimensions)

    @functools.cached_property
    def in_order(self) -> list[Dimension]:
        """The dimensions, each after those it depends on; dimensions that depend on each other are left out."""
        done: dict[str, Dimension] = {}
        waiting = list(self.dimensions)
        while ready := [each for each in waiting if each.when.keys().isdisjoint([other.name for other in waiting])]:
            done |= {each.key: each for each in ready}
            waiting = [each for each in waiting if each.key not in done]
        return list(done.values())

    def as_written(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return chosen values in the order of the file."""
        return {name: chosen[name] for name in self.names if name in chosen}

    def choices_in(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the values that a run with these hyperparameters has chosen, or None if it is outside the space."""
        chosen: dict[str, Any] = {}
        for dimension in self.in_order:
            if dimension.is_active(chosen):
                if not dimension.contains(params.get(dimension.name)):
                    return None
                chosen[dimension.name] = params[dimension.name]
        return self.as_written(chosen)

    def grid(self) -> list[dict[str, Any]]:
        """Return all combinations, the last hyperparameter fastest."""
        found: list[dict[str, Any]] = [{}]
        for dimension in self.in_order:
            each = [{dimension.name: value} for value in dimension.values or ()]
            found = [{**chosen, **more} for chosen in found for more in (each if dimension.is_active(chosen) else [{}])]
        return [self.as_written(chosen) for chosen in found]

    def grid_mistakes(self, base: utils.Params) -> list[str]:
        """Return the mistakes in combinations whose values are right one by one."""
        sizes = [[len(each.values or ()) for each in self.dimensions if each.name == name] for name in self.names]
        size = math.prod(map(max, sizes))  # if a name has several dimensions, one applies
        if size > LARGEST_GRID:
            return [f"sampler grid: {size:,} trials; take sampler random or tpe with num_trials"]
        found, explicit = dict[str, None](), base.explicit_values()
        for chosen in self.grid()[:LARGEST_CHECKED_GRID]:
            found |= dict.fromkeys(utils.find_mistakes(type(base), {**explicit, **chosen}))
        return [f"space: {line}" for line in list(found)[:10]]
