"""Find a task by name, and a run's hyperparameters by its directory. Imports no torch: a typo is told in a moment."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import utils

DEFAULT_TASK = "vision"


def list_tasks() -> list[str]:
    """Return the names of the folders of `model/` that hold a task."""
    return sorted(path.parent.name for path in (Path(__file__).parents[1] / "model").glob("*/params.py"))


def fetch_params_class(task: str) -> type[utils.Params]:
    """Return the class of a task's hyperparameters.

    Raises:
        InputError: there is no such task
    """
    tasks = list_tasks()
    if task not in tasks:
        close = difflib.get_close_matches(str(task), tasks, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(tasks)}"
        raise utils.InputError(f"unknown task {task!r}; {hint}")
    params_class: type[utils.Params] = importlib.import_module(f"model.{task}.params").Params
    return params_class


def fetch_params(model_dir: Path, overrides: Sequence[str] = ()) -> utils.Params:
    """Return the hyperparameters of a run directory, with `key=value` words laid over them.

    Raises:
        InputError: no such directory or file, or mistakes in it, all at once
    """
    path = utils.find_params_file(model_dir)
    values, mistakes = utils.read_values(path)
    laid_over, more_mistakes = utils.read_overrides(overrides)
    source = f"{path} with {' '.join(overrides)}" if overrides else str(path)
    if "task" not in {**values, **laid_over} and (task := recognise_task(values)) != DEFAULT_TASK:
        values["task"] = task
        source += f" (task {task}, by its keys)"
    values.update(laid_over)
    try:
        params_class = fetch_params_class(values.get("task", DEFAULT_TASK))
    except utils.InputError as error:
        raise utils.InputError(f"{path}: {error}") from None
    return params_class.from_values(values, source, mistakes + more_mistakes)


def recognise_task(keys: Iterable[str]) -> str:
    """Return the task that knows more of a params file's keys than any other; the default task if there is none.

    CS230's params files name no task: `num_channels` is a key of its vision example, `lstm_hidden_dim` of the other.
    """
    own_keys = set(keys) - set(utils.Params.model_fields)
    if not own_keys:
        return DEFAULT_TASK
    counts = {task: len(own_keys & set(fetch_params_class(task).model_fields)) for task in list_tasks()}
    best = [task for task, count in counts.items() if 0 < count == max(counts.values())]
    return best[0] if len(best) == 1 else DEFAULT_TASK
