"""New inputs as batches: read only as they are needed, and collated by the task's own code."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import utils

Collate = Callable[[Sequence[Any]], tuple[Any, Any]]
Batch = tuple[list[dict[str, Any]], Any, Any]


def check_input(path: Path) -> None:
    """Refuse an --input that is missing, or a pipe or device, which may have no end, unless the shell made it."""
    if str(path) != "-" and not path.exists():
        raise utils.InputError(f"--input {path}: there is no such file or folder")
    is_from_shell = path.is_fifo() and path.parent in (Path("/dev/fd"), Path("/proc/self/fd"))  # `<(command)`
    if str(path) != "-" and not path.is_dir() and not is_from_shell:
        utils.check_regular(path)


def fetch_unlabelled(paths: Sequence[Path], serve: Any, params: utils.Params) -> Iterator[Batch]:
    """Yield (rows, inputs, labels) for params.batch_size new inputs at a time.

    `rows` has an entry for each input: its `id`, and an `error` if it cannot be read. `inputs` is the batch of the rows
    without an error, or None. `labels` is -100 at padding; None without padding.
    """
    if not hasattr(serve, "fetch_unlabelled"):
        missing = f"model/{params.task}/serve.py has no fetch_unlabelled(paths, params), which reads new inputs"
        raise utils.InputError(f"{missing}; write it as the example in docs/your_own_task.md does")
    if Path("-") in paths and not getattr(serve, "READS_STDIN", False):
        raise utils.InputError(f"--input -: {params.task} does not read standard input; name files or folders instead")

    from torch.utils.data import default_collate

    collate = getattr(serve, "collate_unlabelled", lambda examples, _: (default_collate(examples), None))
    show: Callable[[Any], dict[str, Any]] = getattr(serve, "show_unlabelled", lambda example: {})
    examples = iter(serve.fetch_unlabelled(paths, params))
    chunks = iter(lambda: list(itertools.islice(examples, params.batch_size)), [])
    return (_make_batch(chunk, lambda readable: collate(readable, params), show) for chunk in chunks)


def _make_batch(chunk: list[tuple[str, Any]], collate: Collate, show: Callable[[Any], dict[str, Any]]) -> Batch:
    """Collate the readable examples; the other examples become rows with an error."""
    try:
        inputs, labels = _collate_readable(chunk, collate)
    except utils.InputError:  # at least one example is broken: try each alone
        chunk = [(name, _checked(example, collate)) for name, example in chunk]
        inputs, labels = _collate_readable(chunk, collate)
    rows = [
        {"id": name, "error": str(example)} if isinstance(example, utils.InputError) else {"id": name, **show(example)}
        for name, example in chunk
    ]
    return rows, inputs, labels


def _collate_readable(chunk: list[tuple[str, Any]], collate: Collate) -> tuple[Any, Any]:
    examples = [example for _, example in chunk if not isinstance(example, utils.InputError)]
    return collate(examples) if examples else (None, None)


def _checked(example: Any, collate: Collate) -> Any:
    try:
        _collate_readable([("", example)], collate)
    except utils.InputError as error:
        return error
    return example
