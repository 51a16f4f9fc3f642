"""Check what a task's data has under the names that the contract in `model/__init__.py` gives a meaning to.

A dataset may have an attribute of such a name for a purpose of its own, such as `ids` for its tokens. It is refused
here, because elsewhere it would be taken for something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np

import utils


def check_attributes(dataset: Any, where: str) -> None:
    """Check the type and the length of the attributes of a dataset that the loaders look at.

    Args:
        dataset: map-style
        where: the dataset, for the message

    Raises:
        InputError: names the attribute, what was found and what was expected
    """
    expected: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "ids": ("a list with a name (str or int) for each example", _are_names),
        "lengths": ("a list with a whole number for each example", _are_lengths),
        "augment": ("True or False", lambda value: isinstance(value, bool | np.bool_)),
        "in_memory": ("True or False", lambda value: isinstance(value, bool | np.bool_)),
        "__getitems__": ("a method", callable),
        "set_epoch": ("a method", callable),
        "fetch_raw": ("a method", callable),
    }
    if hasattr(dataset, "fetch_raw"):
        expected["finish"] = ("a method, beside fetch_raw", callable)
        if hasattr(dataset, "move_to"):
            expected["nbytes"] = ("a number of bytes, beside move_to", lambda value: isinstance(value, Integral))
    for name, (description, is_right) in expected.items():
        if not hasattr(dataset, name) and name not in ("finish", "nbytes"):
            continue
        value: Any = getattr(dataset, name, None)
        is_of_each = name in ("ids", "lengths") and hasattr(value, "__len__") and not isinstance(value, str | Mapping)
        if is_of_each and len(value) != len(dataset):
            found = f"has {len(value)} entries for {len(dataset)} examples"
        elif is_right(value):
            continue
        else:
            found = f"is {_shown(value)}"
        raise utils.InputError(
            f"{where}: its attribute {name!r} {found}; expected {description}, as model/__init__.py says. "
            "If it means something else here, give it another name"
        )


def _are_names(values: Any) -> bool:
    is_column = hasattr(values, "__getitem__") and hasattr(values, "__len__") and not isinstance(values, str | Mapping)
    return is_column and all(isinstance(value, str | Integral) for value in values)


def _are_lengths(values: Any) -> bool:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):  # lists of different lengths
        return False
    return array.ndim == 1 and array.dtype.kind in "iu"


def _shown(value: Any) -> str:
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    inside = f" of {type(value[0]).__name__}" if isinstance(value, list | tuple) and value else ""
    return f"{'' if value is None else 'a '}{type(value).__name__}{shape}{inside}"


def check_facts(facts: Any, where: str) -> None:
    """Check what `fetch_facts` returned.

    Raises:
        InputError: it is no dict, or its `classes` are not a list of different names
    """
    if not isinstance(facts, dict):
        raise utils.InputError(f"{where}: fetch_facts returned {_shown(facts)}; expected a dict of plain values")
    classes = facts.get("classes")
    is_list = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if classes is not None and not (is_list and len(set(classes)) == len(classes)):
        raise utils.InputError(
            f"{where}: facts['classes'] is {str(classes)[:60]}; expected a list of different names, as "
            "model/__init__.py says. If it means something else here, give it another name"
        )
