"""Write a params.json that suits new data: `train.py --init DIR --data_dir D`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import utils
from fiveline.record.params_file import FILE_NAMES
from fiveline.tasks import fetch_params_class, fetch_serve, list_tasks

Suggested = dict[str, tuple[Any, str]]  # hyperparameter -> value, reason


def write_params(model_dir: Path, words: Sequence[str]) -> dict[str, Any]:
    """Ask the tasks which of them can read the data; write and return its suggestions, and log the reason for each.

    Args:
        model_dir: the new run's directory; it is created if it is missing
        words: `key=value` words, one of them data_dir; they override the suggestions, and `task` selects the task

    Raises:
        InputError: there is a params file already, or not exactly one task can read the data
    """
    if there := [model_dir / name for name in FILE_NAMES if (model_dir / name).exists()]:
        raise utils.InputError(f"{there[0]} exists, and --init overwrites nothing; edit it, or name another folder")
    given, mistakes = utils.read_overrides(words)
    if not given.get("data_dir") or not (data_dir := Path(given["data_dir"])).is_dir():
        found = given.get("data_dir", "no --data_dir")
        raise utils.InputError(f"--init looks at the data: expected the folder that holds it, found {found}")
    suggestions, refusals = {}, []
    for task in [given["task"]] if "task" in given else list_tasks():
        try:
            suggestions[task] = _suggest(task, data_dir, given, mistakes)
        except utils.InputError as error:  # noqa: PERF203
            refusals.append(f"  {task}: {error}")
    if len(suggestions) > 1:
        raise utils.InputError(f"{data_dir}: {' and '.join(suggestions)} can read it; choose one: --task NAME")
    if not suggestions:
        raise utils.InputError("\n".join([f"{data_dir}: no task can read it", *refusals]))
    ((task, (num_examples, of_task)),) = suggestions.items()
    as_given = {key: (given[key], "as given") for key in given if key not in ("task", "data_dir")}
    suggested = _for_any_task(num_examples) | of_task | as_given
    values = {"task": task, "data_dir": str(data_dir), **{key: value for key, (value, _) in suggested.items()}}
    path = model_dir / FILE_NAMES[0]
    fetch_params_class(task).from_values(values, str(path))  # refuses what does not fit together
    model_dir.mkdir(parents=True, exist_ok=True)
    utils.set_logger(model_dir / "train.log")
    logging.info(f"{data_dir}: task {task}, {num_examples:,} examples to train on")
    for key, (value, reason) in suggested.items():
        logging.info(f"- {key}: {utils.to_json(value, indent=None)}, {reason}")
    utils.save_dict_to_json(values, path)
    logging.info(f"- wrote {path}; next: python train.py --model_dir {model_dir}")
    return values


def _suggest(task: str, data_dir: Path, given: dict[str, Any], mistakes: list[str]) -> tuple[int, Suggested]:
    params = fetch_params_class(task).from_values({**given, "task": task}, "--init", mistakes)
    serve: Any = fetch_serve(task)
    if not hasattr(serve, "suggest"):
        raise utils.InputError(f"model/{task}/serve.py has no suggest(data_dir, params)")
    return serve.suggest(data_dir, params)


def _for_any_task(num_examples: int) -> Suggested:
    batch_size = min(128, max(16, 2 ** (math.isqrt(num_examples).bit_length() - 1)))
    steps = max(1, -(-num_examples // batch_size))  # in an epoch
    num_epochs = min(30, max(6, round(3000 / steps)))
    return {
        "batch_size": (batch_size, "near the square root of the number of examples, 16 to 128"),
        "num_epochs": (num_epochs, f"{num_epochs * steps:,} steps"),
        "optimizer": ("adamw", "needs little tuning"),
        "learning_rate": (3e-3, "for adamw with one_cycle"),
        "weight_decay": (0.01, "against overfitting"),
        "schedule": ("one_cycle", "the learning rate rises and then falls to 0, which suits a short training"),
    }
