"""Images as arrays of one size: whatever the format, the colours, the orientation and the shape of the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.vision.formats import Files, Pixels
from model.vision.opening import open_picture
from model.vision.params import Params
from utils import InputError

CHUNK = 32  # images that one thread decodes at a time
CHUNK_BYTES = 64 * 2**20  # of decoded images, where a whole split is gone through a part at a time


def decode(image: Path | np.ndarray, params: Params) -> np.ndarray:
    """Return one image, resized to a square: its sides are stretched, nothing is cut off.

    A photo is turned upright as its EXIF entry says, transparent parts show white, and of an animation the first
    picture counts.

    Args:
        image: a file, or an array (height, width) or (height, width, 3), uint8
        params: image_size, image_channels, max_image_pixels, and the fact grey_bits

    Returns:
        (image_size, image_size, image_channels), uint8

    Raises:
        InputError: the file is missing, damaged, no image, or one that claims absurdly many pixels
    """
    if isinstance(image, np.ndarray):
        return _to_square(Image.fromarray(image), params)
    try:
        picture = open_picture(image, draft_side(params), params.max_image_pixels, grey_bits(params))
        return _to_square(picture, params)
    except Exception as error:  # the readers of Pillow's formats raise whatever they stumble over
        raise InputError(f"{image}: not a readable image ({error}); repair it or take it out") from None


def draft_side(params: Params) -> int:
    """Return the side down to which a JPEG may be made smaller while it is decoded, which is much faster."""
    return 8 * params.image_size


def grey_bits(params: Params) -> int:
    """Return how many bits the values of 16-bit grey images use, in every split."""
    return int(params.facts.get("grey_bits", 16))  # runs from before this fact used all 16


def _to_square(picture: Image.Image, params: Params) -> np.ndarray:
    mode, size = ("RGB" if params.image_channels == 3 else "L"), (params.image_size, params.image_size)
    if picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(*size, params.image_channels)


def image_shape(params: Params) -> tuple[int, int, int]:
    """Return (image_size, image_size, image_channels)."""
    return params.image_size, params.image_size, params.image_channels


def chunks(num_images: int, params: Params) -> Iterator[range]:
    """Yield positions, as many at a time as may be in memory at once."""
    size = max(1, CHUNK_BYTES // math.prod(image_shape(params)))
    for start in range(0, num_images, size):
        yield range(start, min(start + size, num_images))


def is_decoded(images: Files | Pixels, params: Params) -> bool:
    """Return whether images are arrays that are as they should be already."""
    return not isinstance(images, Files) and (*images.shape[1:], 1)[:3] == image_shape(params)


def decode_all(images: Files | Pixels, positions: Sequence[int] | np.ndarray, params: Params) -> np.ndarray:
    """Return some of the images, (len(positions), image_size, image_size, image_channels), uint8.

    Raises:
        InputError: as `decode` says
    """
    shape = image_shape(params)
    if not isinstance(images, Files) and is_decoded(images, params):
        return images[np.asarray(positions)].reshape(-1, *shape)
    pixels = np.empty((len(positions), *shape), dtype=np.uint8)

    def fill(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(positions))):
            pixels[i] = decode(images[positions[i]], params)

    starts = range(0, len(positions), CHUNK)
    # Pillow decodes files outside the interpreter's lock; small arrays are quicker in one thread.
    # torch's number of threads is 1 in a worker process, whose neighbours have the other cores.
    num_threads = torch.get_num_threads() if isinstance(images, Files) else 1
    if num_threads == 1 or len(starts) == 1:
        for start in starts:
            fill(start)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(fill, starts))
    return pixels
