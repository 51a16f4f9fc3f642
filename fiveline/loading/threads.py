"""Many items decoded at once, such as image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fiveline.record.errors import InputError

CHUNK = 32  # items that one thread decodes at a time
MAX_NAMED = 20  # unreadable items in one message


def decode_in_threads(
    items: Sequence[Any] | np.ndarray, decode: Callable[[Any], np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    """Return the decoded items, (len(items), *shape), uint8.

    Args:
        items: files, or an array, which is decoded in one thread
        decode: returns one item, `shape`, or raises an InputError
        shape: of one item

    Raises:
        InputError: names all items that cannot be read
    """
    import torch

    values = np.empty((len(items), *shape), dtype=np.uint8)
    errors: dict[int, str] = {}

    def fill(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(items))):
            try:
                values[i] = decode(items[i])
            except InputError as error:  # noqa: PERF203  so that all of them are named
                errors[i] = str(error)

    # Pillow decodes files outside the interpreter's lock, but not arrays, which are small.
    # In a data loading process, torch's number of threads is 1, because there are other such processes.
    num_threads = 1 if isinstance(items, np.ndarray) else torch.get_num_threads()
    starts = range(0, len(items), CHUNK)
    if num_threads == 1 or len(starts) == 1:
        for start in starts:
            fill(start)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(fill, starts))
    if errors:
        lines = [errors[i] for i in sorted(errors)]
        more = [f"and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
        title = f"{len(lines)} images cannot be read:\n  " if len(lines) > 1 else ""
        raise InputError(title + "\n  ".join(lines[:MAX_NAMED] + more))
    return values
