"""Images as arrays of one size, whatever the format, the colours, the orientation and the shape of the file.

They are kept in memory, in a file, or nowhere, as the hyperparameter `cache` says.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from fiveline.loading import cached_array, files_key, pictures
from model.vision.params import Params
from model.vision.readers import Examples
from utils import InputError

SMALL_BYTES = 2 * 2**30  # of decoded images; larger sets are decoded when they are needed, unless `cache` says more
CHUNK = 32  # images that one thread decodes at a time
MAX_NAMED = 20  # unreadable images in one message


def decode(image: Path | np.ndarray, params: Params) -> np.ndarray:
    """Return one image, resized to a square: its sides are stretched, nothing is cut off.

    Args:
        image: a file, or an array (height, width) or (height, width, 3), uint8
        params: image_size, image_channels, max_image_pixels, and the fact grey_bits

    Returns:
        (image_size, image_size, image_channels), uint8

    Raises:
        InputError: the file is missing, damaged, no image, or one that claims absurdly many pixels
    """
    side, mode = params.image_size, "RGB" if params.image_channels == 3 else "L"
    try:
        if isinstance(image, np.ndarray):
            picture = Image.fromarray(image)
        else:
            picture = pictures.open_picture(image, params.draft_side, params.max_image_pixels, params.known_grey_bits)
        if picture.mode != mode:
            picture = picture.convert(mode)
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(params.image_shape)
    except Exception as error:  # Pillow's readers raise errors of many kinds
        raise InputError(f"{image}: not a readable image ({error}); repair it or take it out") from None


def decode_all(images: Sequence[Path] | np.ndarray, params: Params) -> np.ndarray:
    """Return images as `decode` does, (num_images, image_size, image_size, image_channels), uint8.

    Raises:
        InputError: names all images that cannot be read
    """
    if isinstance(images, np.ndarray) and is_decoded(images, params):
        return images.reshape(-1, *params.image_shape)
    pixels = np.empty((len(images), *params.image_shape), dtype=np.uint8)
    errors: dict[int, str] = {}

    def fill(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(images))):
            try:
                pixels[i] = decode(images[i], params)
            except InputError as error:  # noqa: PERF203  so that all of them are named
                errors[i] = str(error)

    # Pillow decodes files outside the interpreter's lock; small arrays are faster in one thread.
    # torch's number of threads is 1 in a data loading process, because there are others.
    num_threads = 1 if isinstance(images, np.ndarray) else torch.get_num_threads()
    starts = range(0, len(images), CHUNK)
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
    return pixels


def is_decoded(images: Sequence[Path] | np.ndarray, params: Params) -> bool:
    """Return whether images are an array of the right size and colours already."""
    return isinstance(images, np.ndarray) and (*images.shape[1:], 1)[:3] == params.image_shape


def load_pixels(examples: Examples, data_dir: Path, params: Params) -> tuple[np.ndarray | None, np.ndarray]:
    """Return decoded images in memory or in a mapped file, and which of them the examples are, as params.cache says.

    Returns:
        uint8, (n, image_size, image_size, image_channels), or None if each is to be decoded when it is needed;
        int64, (num_examples,)

    Raises:
        InputError: names all images that cannot be read
    """
    images = examples.images
    if isinstance(images, np.ndarray) and is_decoded(images, params):
        return decode_all(images, params), examples.rows
    shape = (len(images), *params.image_shape)
    is_large = math.prod(shape) > SMALL_BYTES
    if params.cache == "none" or (params.cache == "auto" and is_large):
        return None, examples.rows
    if isinstance(images, list) and params.cache != "memory":
        # the whole folder, whichever part the examples are: runs that cut off another val share the file
        sources = b"".join(Path(name).read_bytes() for name in (__file__, pictures.__file__))
        code = hashlib.sha256(sources).hexdigest()
        key = f"{files_key(images, examples.folder)} {code} {PIL.__version__} {params.known_grey_bits}"
        name = f"{examples.folder.name}_{'x'.join(map(str, params.image_shape))}"
        pixels = cached_array(
            data_dir, name, key, shape, lambda part: decode_all(images[part.start : part.stop], params)
        )
        if pixels is not None or is_large:
            return pixels, examples.rows
    num_examples = len(examples.ids)
    return decode_all(examples.images_at(range(num_examples)), params), np.arange(num_examples)
