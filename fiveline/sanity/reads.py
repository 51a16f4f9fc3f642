"""Which hyperparameters are read: an object of the same class that notes each look at one of its fields."""

from __future__ import annotations

from typing import Any

import utils


def recorded(params: utils.Params) -> tuple[utils.Params, set[str]]:
    """Return a copy of the hyperparameters, and the names of those that were read from it or its copies so far.

    Writing all of them down (`model_dump`, for a checkpoint) is not reading.
    """
    names: set[str] = set()
    cls = type(params)
    fields = frozenset(cls.model_fields)

    class Recorded(cls):  # type: ignore[valid-type, misc]
        def __getattribute__(self, name: str) -> Any:
            if name in fields:
                names.add(name)
            return super().__getattribute__(name)

    copy = params.model_copy()
    object.__setattr__(copy, "__class__", Recorded)
    return copy, names
