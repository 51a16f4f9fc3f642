"""New inputs as batches, for every task: made by the code that makes evaluation's, and read only as they are needed."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

import utils

Example = tuple[str, Any]  # its name, and what the task makes a batch of, or the InputError that says why it cannot


@dataclasses.dataclass(frozen=True)
class UnlabelledBatch:
    """Some new inputs.

    Args:
        ids: their names, in order
        errors: position in `ids` -> why there is no input for it
        inputs: of the others, as the net takes them; None where there are none
        labels: of the others, to tell padding by: -100 there, anything elsewhere; None where the task has no padding
        shown: position in `ids` -> columns that show the input beside its prediction
    """

    ids: list[str]
    errors: dict[int, str]
    inputs: Any = None
    labels: Any = None
    shown: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)


def fetch_unlabelled(paths: Sequence[Path], params: utils.Params) -> Iterator[UnlabelledBatch]:
    """Yield new inputs in batches of params.batch_size; no more than two batches are in memory at once.

    They are divided as `EpochBatches` divides a split: the same examples give the same batches, and so the same bits.

    Args:
        paths: what the user named
        params: with facts

    Raises:
        InputError: the task has no code for inputs without labels, or none for those that come on standard input
    """
    module = importlib.import_module(f"model.{params.task}.data_loader")
    if not hasattr(module, "fetch_unlabelled"):
        raise utils.InputError(
            f"model/{params.task}/data_loader.py: has no fetch_unlabelled(paths, params), which reads new inputs; "
            "model/__init__.py says what it returns, docs/your_own_task.md has an example"
        )
    if Path("-") in paths and not getattr(module, "READS_STDIN", False):
        raise utils.InputError(f"--input -: {params.task} reads no standard input; name files or folders in its place")

    def collate(examples: Sequence[Any]) -> tuple[Any, Any]:
        if hasattr(module, "collate_unlabelled"):
            return module.collate_unlabelled(examples, params)
        return default_collate(list(examples)), None

    show: Callable[[Any], dict[str, Any]] = getattr(module, "show_unlabelled", lambda example: {})
    examples = module.fetch_unlabelled(paths, params)
    return (_make_batch(chunk, collate, show) for chunk in _chunks(examples, params.batch_size))


def _chunks(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    """Yield `size` examples at a time; a single one left over at the end joins those before it."""
    waiting: list[Example] = []
    for example in examples:
        waiting.append(example)
        if len(waiting) == size + 2:
            yield waiting[:size]
            del waiting[:size]
    while waiting:
        number = 1 if size == 1 else len(waiting)
        yield waiting[:number]
        del waiting[:number]


def _make_batch(
    chunk: Sequence[Example],
    collate: Callable[[Sequence[Any]], tuple[Any, Any]],
    show: Callable[[Any], dict[str, Any]],
) -> UnlabelledBatch:
    """Put examples together, but for those that cannot be."""
    errors = {i: str(example) for i, (_, example) in enumerate(chunk) if isinstance(example, utils.InputError)}
    ids = [name for name, _ in chunk]
    try:
        batch = _collate_others(chunk, errors, collate)
    except utils.InputError:  # of one of them, at least: each is tried alone
        told = {i: _mistake_in(example, collate) for i, (_, example) in enumerate(chunk) if i not in errors}
        errors |= {i: message for i, message in told.items() if message is not None}
        batch = _collate_others(chunk, errors, collate)
    shown = {i: show(example) for i, (_, example) in enumerate(chunk) if i not in errors}
    return UnlabelledBatch(ids, errors, *batch, shown)


def _collate_others(
    chunk: Sequence[Example], errors: dict[int, str], collate: Callable[[Sequence[Any]], tuple[Any, Any]]
) -> tuple[Any, Any]:
    examples = [example for i, (_, example) in enumerate(chunk) if i not in errors]
    return collate(examples) if examples else (None, None)


def _mistake_in(example: Any, collate: Callable[[Sequence[Any]], tuple[Any, Any]]) -> str | None:
    try:
        collate([example])
    except utils.InputError as error:
        return str(error)
    return None
