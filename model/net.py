"""Find a task's net, loss and metrics by its name, and check that they keep the contract in `model/__init__.py`."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import utils

REQUIRED = ("Net", "loss_fn", "metrics", "predictions")


def fetch_net(task: str) -> ModuleType:
    """Return the module `model/<task>/net.py`.

    Args:
        task: a folder of `model/`, from params.task

    Raises:
        InputError: the module lacks a name that the scripts need
    """
    net = importlib.import_module(f"model.{task}.net")
    missing = [name for name in REQUIRED if not hasattr(net, name)]
    if missing:
        raise utils.InputError(f"model/{task}/net.py: lacks {', '.join(missing)}; model/__init__.py says what they are")
    return net


def sign_of(net: Any, monitor: str) -> int:
    """Return 1 if more of the monitored quantity is better, -1 if less is.

    Raises:
        InputError: there is no such metric
    """
    names = ["loss", *net.metrics]
    if monitor not in names:
        raise utils.InputError(f"monitor {monitor!r}: there is no such metric; choose one of {', '.join(names)}")
    return -1 if monitor == "loss" or monitor in getattr(net, "lower_is_better", ()) else 1
