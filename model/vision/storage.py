"""Where the images of a split are kept, as the hyperparameter `cache` says."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.vision.cache import Decoded, open_decoded
from model.vision.decode import decode, decode_all, image_shape, is_decoded
from model.vision.formats import Examples, Files, Mapped
from model.vision.params import Params
from utils import InputError

MOST_NAMED = 20  # unreadable images that one message names
SMALL_BYTES = 2 * 2**30  # of decoded images; larger sets are decoded when they are needed, unless somebody says more


def keep_on_disk(examples: Examples, data_dir: Path, params: Params) -> Examples:
    """Return the examples with their images decoded in a file, if `cache` wants that and it is possible.

    The whole folder is decoded, whichever of it the examples are: so runs that cut off another val share the file.

    Raises:
        InputError: an image cannot be read
    """
    if not isinstance(examples.images, Files) or params.cache in ("memory", "none"):
        return examples
    if params.cache == "auto" and num_bytes(len(examples.images), params) > SMALL_BYTES:
        return examples
    with _naming_all_unreadable(examples.images, range(len(examples.images)), params):
        decoded = open_decoded(examples.images, data_dir, params)
    return examples if decoded is None else dataclasses.replace(examples, images=decoded)


def keep_in_memory(examples: Examples, params: Params) -> Examples:
    """Return the examples with their images decoded in memory, unless they are on disk, too large or not to be kept.

    Raises:
        InputError: an image cannot be read
    """
    images, is_small = examples.images, num_bytes(len(examples.ids), params) <= SMALL_BYTES
    if params.cache == "none" or not (is_small or params.cache == "memory"):
        return examples
    is_mapped = isinstance(images, Decoded | Mapped) and params.cache != "memory"
    is_there = isinstance(images, np.ndarray) and examples.rows is None
    if is_decoded(images, params) and (is_mapped or is_there):
        return examples
    rows = examples.rows_of(range(len(examples.ids)))
    with _naming_all_unreadable(images, rows, params):
        return dataclasses.replace(examples, images=decode_all(images, rows, params), rows=None)


@contextlib.contextmanager
def _naming_all_unreadable(images: Any, rows: Iterable[int], params: Params) -> Iterator[None]:
    """Raise one InputError for all images that cannot be read, where the work within stops at the first one."""
    try:
        yield
    except InputError:
        found = [message for row in rows if (message := _why_unreadable(images[row], params))]
        if len(found) < 2:
            raise
        more = f"\n  and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        listed = "\n  ".join(found[:MOST_NAMED])
        raise InputError(f"{len(found)} images cannot be read:\n  {listed}{more}") from None


def _why_unreadable(image: Any, params: Params) -> str:
    try:
        decode(image, params)
    except InputError as error:
        return str(error)
    return ""


def is_ready(examples: Examples, params: Params) -> bool:
    """Return whether loading costs so little that data loading processes would not help."""
    if params.cache == "none" or not is_decoded(examples.images, params):
        return False
    return isinstance(examples.images, np.ndarray) or num_bytes(len(examples.ids), params) <= SMALL_BYTES


def describe(examples: Examples, params: Params) -> str:
    """Return where the images are, for the log."""
    images = examples.images
    told = f"{len(examples.ids)} images, {num_bytes(len(examples.ids), params) / 2**20:,.1f} MB"
    if params.cache != "none" and is_decoded(images, params):
        return f"{told}, " + (f"mapped from {images.path}" if isinstance(images, Decoded | Mapped) else "in memory")
    hint = "" if params.num_workers else "; num_workers=... does so in advance, in processes of their own"
    return f"{told}, each decoded when it is needed{hint}"


def num_bytes(num_images: int, params: Params) -> int:
    """Return how many bytes so many decoded images take."""
    return num_images * math.prod(image_shape(params))
