"""Load a trained net from its checkpoint, and make its predictions readable."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import utils
from fiveline.device import to_cpu, to_device
from fiveline.metrics import MetricSums
from fiveline.serving.output import rounded
from fiveline.serving.unlabelled import Batch
from fiveline.tasks import Task, fetch_facts, fetch_params, fetch_params_class, fetch_serve, fetch_task

if TYPE_CHECKING:
    from torch import nn

    from fiveline.report.scores import ExampleScores

SIZES = ("batch_size", "microbatch_size")  # hyperparameters that change no score
RESERVED_COLUMNS = ("id", "error")


def fetch_trained(model_dir: Path, checkpoint_path: Path, overrides: list[str]) -> tuple[utils.Params, Task, nn.Module]:
    """Return a checkpoint's hyperparameters with their facts, its task, and its net on the CPU."""
    state = utils.read_checkpoint(checkpoint_path)
    params = fetch_run_params(state, checkpoint_path, model_dir, overrides)
    data_dir = Path(params.data_dir or "")
    if not utils.is_of_train(state) and "data_dir" not in params.model_fields_set:
        raise utils.InputError(f"{checkpoint_path}: does not name the data it was trained on; give --data_dir")
    params = params.with_facts(state["facts"]) if utils.is_of_train(state) else fetch_facts(data_dir, params)
    try:
        with utils.blaming_checkpoint(checkpoint_path, "facts") if params.facts else contextlib.nullcontext():
            task = fetch_task(params)
            model = task.Net(params)
    except KeyError as error:
        raise utils.InputError(
            f"{checkpoint_path}: was not saved by train.py, and lacks {error}, which the net of {params.task!r} needs; "
            "build its net in a notebook and score it there: evaluate(model, loss_fn, loader, metrics)"
        ) from None
    utils.load_weights(state, model, checkpoint_path)
    return params, task, model


def fetch_run_params(state: Mapping[str, Any], path: Path, model_dir: Path, overrides: list[str]) -> utils.Params:
    """Return a checkpoint's hyperparameters. A checkpoint of CS230 holds none: read the params file in model_dir."""
    if not utils.is_of_train(state):
        return fetch_params(model_dir, overrides)
    values, mistakes = utils.read_overrides(overrides)
    if values.setdefault("task", task := state["params"]["task"]) != task:
        mistakes = [*mistakes, f"task: the checkpoint has task {task!r}, found {values.pop('task')!r}"]
    try:
        params_class = fetch_params_class(task)
    except utils.InputError as error:
        raise utils.InputError(f"{path}: {error}") from None
    source = f"{path} with {' '.join(overrides)}" if overrides else str(path)
    params = params_class.from_values({**state["params"], **values}, source, mistakes)
    if changed := params.differences({**state["params"], **{name: getattr(params, name) for name in SIZES}}):
        raise utils.InputError(
            f"{source}: a checkpoint is scored with the hyperparameters that it was trained with "
            f"({'; '.join(changed)}); omit the override: only {', '.join(SIZES)} and settings of the machine may differ"
        )
    return params


def fetch_probabilities(serve: Any, outputs: Any, labels: Any, params: utils.Params) -> list[dict[str, Any]]:
    """Return a row for each example, with the probability of each class from the task's `probabilities`."""
    if not hasattr(serve, "probabilities"):
        raise utils.InputError(
            f"--probabilities: model/{params.task}/serve.py has no probabilities(outputs, labels, params); leave the "
            "flag out, or write the function (the contract is in model/__init__.py)"
        )
    rows = serve.probabilities(outputs, labels, params)
    return [{f"probability_{name}": value for name, value in row.items()} for row in rows]


def fetch_predictions(
    serve: Any, outputs: Any, labels: Any, params: utils.Params, num_examples: int
) -> list[dict[str, Any]]:
    """Return a row for each example from outputs on the CPU; empty rows if the task's serve.py defines none."""
    if not hasattr(serve, "predictions"):
        return [{} for _ in range(num_examples)]
    rows: list[dict[str, Any]] = serve.predictions(outputs, labels, params)
    found = ""
    if taken := sorted({name for row in rows for name in RESERVED_COLUMNS if name in row}):
        found = f"a row has the key {taken[0]!r}, which is the name of a column already; choose another one"
    if len(rows) != num_examples:
        found = f"returned {len(rows)} rows for a batch of {num_examples}; expected one for each example"
    if found:
        raise utils.InputError(f"predictions: {found} (the contract is in model/__init__.py)")
    return rows


def predict(
    model: nn.Module, serve: Any, batches: Iterable[Batch], params: utils.Params, with_all: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield a row for each input: its `id`, and the task's prediction or the `error` that explains why there is none.

    Args:
        model: on its device
        serve: the module of the task that puts predictions into words
        batches: from `fetch_unlabelled`
        params: the hyperparameters, with the dataset's facts
        with_all: whether to add the probability of each class
    """
    import torch

    device = next(model.parameters()).device
    model.eval()
    for rows, inputs, labels in batches:
        predicted: list[dict[str, Any]] = []
        if inputs is not None:
            with torch.inference_mode():
                outputs = to_cpu(model(to_device(inputs, device)))
                num_read = sum("error" not in row for row in rows)
                predicted = fetch_predictions(serve, outputs, labels, params, num_read)
                if with_all:
                    probabilities = fetch_probabilities(serve, outputs, labels, params)
                    predicted = [{**row, **more} for row, more in zip(predicted, probabilities, strict=True)]
        answers = iter(predicted)
        for row in rows:
            answer = {} if "error" in row else next(answers)
            yield {**row, **rounded({key: answer[key] for key in answer if key not in ("label", "loss")})}


def score_examples(batches: Iterable[Any], dataset: Any, task: Task, params: utils.Params) -> ExampleScores:
    """Score batches of (outputs, labels), in the split's order, as `evaluate` does; also keep each example's scores."""
    import torch

    from fiveline.report.scores import ExampleScores

    serve, sums = fetch_serve(params.task), MetricSums(task.metrics)
    if not hasattr(serve, "predictions"):
        missing = f"model/{params.task}/serve.py does not define predictions(outputs, labels, params)"
        logging.info(f"- {missing}, so the table of predictions has ids and losses only")
    scores = ExampleScores(task.loss_fn, task.metrics, getattr(dataset, "ids", None))
    for output_batch, labels_batch in batches:
        with torch.inference_mode():
            sums.add(output_batch, labels_batch, task.loss_fn(output_batch, labels_batch))
            outputs, labels = to_cpu((output_batch, labels_batch))
            scores.add(outputs, labels, fetch_predictions(serve, outputs, labels, params, len(labels)))
    scores.values = sums.result()
    return scores
