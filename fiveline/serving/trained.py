"""Load a trained net from its checkpoint, and make its predictions readable."""

from __future__ import annotations

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
    """Return a checkpoint's hyperparameters with their facts, its task, and its net on the CPU, in eval mode."""
    state = utils.read_checkpoint(checkpoint_path)
    if utils.is_of_train(state):
        params = _run_params(state, checkpoint_path, overrides).with_facts(state["facts"])
    else:  # a checkpoint of CS230: weights alone
        params = fetch_params(model_dir, overrides)
        if "data_dir" not in params.model_fields_set:
            raise utils.InputError(f"{checkpoint_path}: does not name the data it was trained on; give --data_dir")
        params = fetch_facts(Path(params.data_dir or ""), params)
    with utils.blaming_checkpoint(checkpoint_path, "facts"):
        task = fetch_task(params)
        model = task.Net(params)
    utils.load_weights(state, model, checkpoint_path)
    return params, task, model.eval()


def _run_params(state: Mapping[str, Any], path: Path, overrides: list[str]) -> utils.Params:
    """Return a checkpoint's hyperparameters; refuse overrides that would change its scores."""
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


def fetch_predictions(
    serve: Any, outputs: Any, labels: Any, params: utils.Params, num_examples: int
) -> list[dict[str, Any]]:
    """Return a row for each example from outputs on the CPU; empty rows if the task's serve.py defines none."""
    if not hasattr(serve, "predictions"):
        return [{} for _ in range(num_examples)]
    rows: list[dict[str, Any]] = serve.predictions(outputs, labels, params)
    if len(rows) != num_examples:
        found = f"returned {len(rows)} rows for a batch of {num_examples}; expected one for each example"
        raise utils.InputError(f"predictions: {found} (the contract is in model/__init__.py)")
    if taken := sorted({name for row in rows for name in RESERVED_COLUMNS if name in row}):
        raise utils.InputError(f"predictions: a row has the key {taken[0]!r}, which is the name of a column already")
    return rows


def predict(
    model: nn.Module, serve: Any, batches: Iterable[Batch], params: utils.Params, with_all: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield a row for each input: its `id`, and the task's prediction or the `error` that explains why there is none.

    `batches` are from `fetch_unlabelled`; `with_all` adds the probability of each class.
    """
    import torch

    if with_all and not hasattr(serve, "probabilities"):
        missing = f"model/{params.task}/serve.py has no probabilities(outputs, labels, params)"
        raise utils.InputError(f"--probabilities: {missing}; leave the flag out, or write the function")
    device = next(model.parameters()).device
    model.eval()
    for rows, inputs, labels in batches:
        whole = [row for row in rows if "error" not in row]
        if inputs is not None:
            with torch.inference_mode():
                outputs = to_cpu(model(to_device(inputs, device)))
                predicted = fetch_predictions(serve, outputs, labels, params, len(whole))
                probabilities = serve.probabilities(outputs, labels, params) if with_all else [{} for _ in whole]
            for row, answer, more in zip(whole, predicted, probabilities, strict=True):
                shown = {key: answer[key] for key in answer if key not in ("label", "loss")}
                row |= rounded({**shown, **{f"probability_{name}": value for name, value in more.items()}})
        yield from rows


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
