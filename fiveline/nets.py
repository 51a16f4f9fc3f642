"""Find a task's net, loss and metrics by its name, and check that they keep the contract in `model/__init__.py`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import utils

REQUIRED = ("Net", "loss_fn", "predictions")
RESERVED_METRICS = ("loss", "examples_per_second")
RESERVED_COLUMNS = ("id", "error")


def fetch_net(task: str) -> ModuleType:
    """Return the module `model/<task>/net.py`.

    Args:
        task: a folder of `model/`, from params.task

    Raises:
        InputError: the module lacks a name that the scripts need
    """
    net = importlib.import_module(f"model.{task}.net")
    missing = [name for name in REQUIRED if not hasattr(net, name)]
    if not hasattr(net, "metrics") and not hasattr(net, "fetch_metrics"):
        missing.append("metrics")
    if missing:
        raise utils.InputError(f"model/{task}/net.py: lacks {', '.join(missing)}; model/__init__.py says what they are")
    errors = getattr(net, "lower_is_better", ())
    if not isinstance(errors, set | frozenset | list | tuple):
        raise utils.InputError(
            f"model/{task}/net.py: lower_is_better is {errors!r}; expected a set of names of metrics"
        )
    return net


def fetch_metrics(net: Any, params: utils.Params) -> dict[str, Callable[[Any, Any], tuple[Any, Any]]]:
    """Return the metrics of a task: its `metrics`, or, where they need what the data decided, its `fetch_metrics`."""
    metrics: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = (
        net.fetch_metrics(params) if hasattr(net, "fetch_metrics") else net.metrics
    )
    taken = [name for name in RESERVED_METRICS if name in metrics]
    if taken:
        raise utils.InputError(f"metrics: {taken[0]!r} is reported of every task already; call this metric otherwise")
    return metrics


def fetch_sign(net: Any, params: utils.Params) -> int:
    """Return 1 if more of the monitored quantity is better, -1 if less is.

    Raises:
        InputError: there is no such metric
    """
    names = ["loss", *fetch_metrics(net, params)]
    if params.monitor not in names:
        raise utils.InputError(f"monitor {params.monitor!r}: there is no such metric; choose one of {', '.join(names)}")
    return -1 if params.monitor == "loss" or params.monitor in getattr(net, "lower_is_better", ()) else 1


def fetch_probabilities(net: Any, outputs: Any, labels: Any, params: utils.Params) -> list[dict[str, Any]]:
    """Return the probability of each class, a row for each example, as the task's `probabilities` says.

    Raises:
        InputError: the task has no such function, or this run predicts no classes
    """
    if not hasattr(net, "probabilities"):
        raise utils.InputError(
            f"--probabilities: model/{params.task}/net.py has no probabilities(outputs, labels, params); leave the "
            "flag out, or write the function (the contract is in model/__init__.py)"
        )
    every: list[dict[str, Any]] = net.probabilities(outputs, labels, params)
    return [{f"probability_{name}": value for name, value in row.items()} for row in every]


def fetch_predictions(
    net: Any, outputs: Any, labels: Any, params: utils.Params, num_examples: int
) -> list[dict[str, Any]]:
    """Return what a task says of a batch: a row for each example.

    Args:
        net: the task's module
        outputs: of the net, on the CPU, batch first
        labels: batch first, or None for inputs without
        params: with facts
        num_examples: in the batch

    Raises:
        InputError: there are more rows, or fewer
    """
    rows: list[dict[str, Any]] = net.predictions(outputs, labels, params)
    taken = sorted({name for row in rows for name in RESERVED_COLUMNS if name in row})
    if taken:
        raise utils.InputError(
            f"predictions: a row has the key {taken[0]!r}, which is the name of a column already; choose another one "
            "(the contract is in model/__init__.py)"
        )
    if len(rows) != num_examples:
        raise utils.InputError(
            f"predictions: returned {len(rows)} rows for a batch of {num_examples}; expected one for each example, "
            "whatever the number of its labels (the contract is in model/__init__.py)"
        )
    return rows
