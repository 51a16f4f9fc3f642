"""Find a task by its name, and check that it keeps the contract in `model/__init__.py`.

Importing this module does not import torch, so a typo in a params file is reported without that delay.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import utils
from fiveline.record.errors import naming_builder

if TYPE_CHECKING:
    from fiveline.metrics import Loss, Metrics

MODEL = Path(__file__).resolve().parents[1] / "model"
DEFAULT_TASK: str = utils.Params.model_fields["task"].default
RENAME = "If you use it for something else, give it another name"
RESERVED_METRICS = ("loss", "examples_per_second")


def list_tasks() -> list[str]:
    """Return the names of the folders of `model/` that hold a task."""
    return sorted(path.parent.name for path in MODEL.glob("*/params.py"))


def fetch_params_class(task: str) -> type[utils.Params]:
    """Return the class of a task's hyperparameters; raise InputError if there is no such task."""
    tasks = list_tasks()
    if task not in tasks:
        close = difflib.get_close_matches(str(task), tasks, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(tasks)}"
        raise utils.InputError(f"unknown task {task!r}; {hint}")
    params_class: type[utils.Params] = importlib.import_module(f"model.{task}.params").Params
    return params_class


def fetch_params(model_dir: Path, overrides: Sequence[str] = ()) -> utils.Params:
    """Return the hyperparameters of a run directory, overridden by the `key=value` arguments.

    InputError lists all mistakes in the file and in the arguments.
    """
    path = utils.find_params_file(model_dir)
    values, mistakes = utils.read_values(path)
    override_values, more_mistakes = utils.read_overrides(overrides)
    source = f"{path} with {' '.join(overrides)}" if overrides else str(path)
    if "task" not in {**values, **override_values} and (task := recognise_task(values)) != DEFAULT_TASK:
        values["task"] = task
        source += f" (task {task}, recognised by its keys)"
    values.update(override_values)
    try:
        params_class = fetch_params_class(values.get("task", DEFAULT_TASK))
    except utils.InputError as error:
        raise utils.InputError(f"{path}: {error}") from None
    return params_class.from_values(values, source, mistakes + more_mistakes)


def recognise_task(keys: Iterable[str]) -> str:
    """Return the task that has the most of a params file's keys, or the default task unless exactly one does.

    CS230's params files name no task; a key such as `num_channels` or `lstm_hidden_dim` belongs to one task only.
    """
    own_keys = set(keys) - set(utils.Params.model_fields)
    counts = {task: len(own_keys & set(fetch_params_class(task).model_fields)) for task in list_tasks() if own_keys}
    best = [task for task, count in counts.items() if 0 < count == max(counts.values())]
    return best[0] if len(best) == 1 else DEFAULT_TASK


@dataclasses.dataclass(frozen=True)
class Task:
    """The net, losses and metrics of a run, from the task's `net.py`."""

    Net: Callable[[Any], Any]
    loss_fn: Loss  # the loss that is reported
    train_loss_fn: Loss  # the loss to minimise
    metrics: Metrics

    @property
    def lower_is_better(self) -> list[str]:
        """The names of the metrics whose lower values are better."""
        return sorted(name for name, metric in self.metrics.items() if getattr(metric, "lower_is_better", False))

    def sign(self, monitor: str) -> int:
        """Return 1 if a higher value of a metric is better, -1 if a lower one is; InputError if it does not exist."""
        names = ["loss", *self.metrics]
        if monitor not in names:
            raise utils.InputError(f"monitor {monitor!r}: there is no such metric; choose one of {', '.join(names)}")
        return -1 if monitor in ("loss", *self.lower_is_better) else 1


def fetch_task(params: utils.Params) -> Task:
    """Check and return the net, losses and metrics of a task; `params` must have the facts from `fetch_facts`."""
    net, where = importlib.import_module(f"model.{params.task}.net"), f"model/{params.task}/net.py"
    if missing := [name for name in ("Net", "loss_fn", "metrics") if not hasattr(net, name)]:
        raise utils.InputError(f"{where}: lacks {', '.join(missing)}; model/__init__.py says what they are")
    metrics = net.metrics(params) if callable(net.metrics) else net.metrics
    if not isinstance(metrics, Mapping) or not all(map(callable, metrics.values())):
        raise utils.InputError(f"{where}: metrics is {metrics!r}; expected a dict of functions")
    if taken := [name for name in RESERVED_METRICS if name in metrics]:
        raise utils.InputError(f"metrics: {taken[0]!r} is reported for every task; give this metric another name")
    train_loss_fn = net.train_loss_fn(params) if hasattr(net, "train_loss_fn") else net.loss_fn
    return Task(net.Net, net.loss_fn, train_loss_fn, metrics)


def fetch_serve(task: str) -> ModuleType | None:
    """Return the module `model/<task>/serve.py`, which makes predictions readable; None if the task has none."""
    is_there = importlib.util.find_spec(f"model.{task}.serve") is not None
    return importlib.import_module(f"model.{task}.serve") if is_there else None


def fetch_facts(data_dir: Path, params: utils.Params) -> utils.Params:
    """Return the hyperparameters with the facts of the dataset (class names, vocabulary) in `params.facts`."""
    module, where = importlib.import_module(f"model.{params.task}.data_loader"), f"model/{params.task}/data_loader.py"
    with naming_builder(data_dir):
        facts = module.fetch_facts(data_dir, params) if hasattr(module, "fetch_facts") else {}
    if not isinstance(facts, dict):
        raise utils.InputError(f"{where}: fetch_facts returned {reprlib.repr(facts)}; expected a dict of plain values")
    classes = facts.get("classes")
    is_list = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if classes is not None and (not is_list or len(set(classes)) < len(classes)):
        found = reprlib.repr(classes)
        raise utils.InputError(f"{where}: facts['classes'] is {found}; expected different names in a list. {RENAME}")
    return params.with_facts(facts)


def fetch_collate_fn(task: str) -> Callable[[list[Any]], Any]:
    """Return the task's `collate_fn`; torch's default if it has none."""
    from torch.utils.data import default_collate

    module = importlib.import_module(f"model.{task}.data_loader")
    return getattr(module, "collate_fn", default_collate)


def fetch_dataset(split: str, data_dir: Path, params: utils.Params) -> Any:
    """Return the task's dataset of a split, after checking that it is not empty and keeps the contract."""
    from torch.utils.data import IterableDataset

    module = importlib.import_module(f"model.{params.task}.data_loader")
    with naming_builder(data_dir):
        dataset = module.fetch_dataset(split, data_dir, params)
    where = f"model/{params.task}/data_loader.py: {split}'s dataset, {type(dataset).__name__}"
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise utils.InputError(
            f"{where}, is a stream or has no length; expected a map-style Dataset, with __len__ and __getitem__: "
            "shuffling and resuming fetch examples by index (write a stream to files first)"
        )
    if len(dataset) == 0:
        raise utils.InputError(f"{data_dir}: the {split} split is empty")
    for name, kind, entry in (("ids", str | Integral, "a name (str or int)"), ("lengths", Integral, "a whole number")):
        values = getattr(dataset, name, None)
        if hasattr(dataset, name) and not _is_list_of(kind, values, len(dataset)):
            raise utils.InputError(
                f"{where}: its attribute {name!r} is {reprlib.repr(values)}; expected a list with {entry} for each "
                f"example ({len(dataset)} examples). {RENAME}"
            )
    return dataset


def _is_list_of(kind: Any, values: Any, number: int) -> bool:
    values = values.tolist() if hasattr(values, "tolist") else values  # an array or a tensor
    is_list = hasattr(values, "__getitem__") and hasattr(values, "__len__") and not isinstance(values, str | Mapping)
    return is_list and len(values) == number and all(isinstance(value, kind) for value in values)
