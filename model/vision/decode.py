"""Images as arrays of one size, kept in memory, in a file, or nowhere, as the hyperparameter `cache` says."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from fiveline.loading import cached_array, files_key, pictures
from model.vision.params import Params
from model.vision.readers import Examples
from utils import InputError

CHUNK_BYTES = 2**24  # decoded images that are handled at a time, while a file or pixel statistics are made
SMALL_BYTES = 2 * 2**30  # decoded images; larger sets are decoded when they are needed, unless `cache` is set


def decode(image: Path | np.ndarray, params: Params) -> np.ndarray:
    """Return one image, (image_size, image_size, image_channels), uint8: its sides are stretched, nothing is cut off.

    `image` is a file, or an array (height, width) or (height, width, 3), uint8. InputError: the file is missing,
    damaged, not an image, or an image that claims far too many pixels.
    """
    side, mode = params.image_size, "RGB" if params.image_channels == 3 else "L"
    try:
        picture = pictures.open_picture(image, 8 * side, params.max_image_pixels, params.known_grey_bits)
        if picture.mode != mode:
            picture = picture.convert(mode)
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(params.image_shape)
    except Exception as error:  # Pillow's readers raise errors of many kinds
        raise InputError(f"{image}: not a readable image ({error}); repair it or take it out") from None


def decode_all(images: list[Path] | np.ndarray, params: Params) -> np.ndarray:
    """Return images as `decode` does, (num_images, ...), uint8; an InputError names all that cannot be read."""
    if isinstance(images, np.ndarray) and (*images.shape, 1)[1:4] == params.image_shape:
        return images.reshape(-1, *params.image_shape)
    return pictures.decode_in_threads(images, lambda image: decode(image, params), params.image_shape)


def load_pixels(examples: Examples, data_dir: Path, params: Params) -> tuple[np.ndarray | None, np.ndarray]:
    """Return decoded images, in memory or in a mapped file, and which of them the examples are, (num_examples,).

    Images are (n, image_size, image_size, image_channels), uint8, or None if each is decoded when it is needed.
    """
    images, shape = examples.images, (len(examples.images), *params.image_shape)
    is_large = math.prod(shape) > SMALL_BYTES
    if isinstance(images, np.ndarray) and (*images.shape, 1)[:4] == shape:  # it needs no decoding
        return decode_all(images, params), examples.rows
    if params.cache == "none" or (params.cache == "auto" and is_large):
        return None, examples.rows
    if isinstance(images, list) and params.cache != "memory":
        # the file holds the whole folder, not only the split: runs with another val split share the file
        name = f"{examples.folder.name}_{'x'.join(map(str, params.image_shape))}"
        code = hashlib.sha256(b"".join(Path(path).read_bytes() for path in (__file__, pictures.__file__))).hexdigest()
        key = f"{files_key(images, examples.folder)} {code} {PIL.__version__} {params.known_grey_bits}"
        chunks = np.array_split(np.arange(len(images)), math.prod(shape) // CHUNK_BYTES + 1)
        pixels = cached_array(data_dir, name, key, lambda: (decode_all([images[i] for i in c], params) for c in chunks))
        if pixels is not None or is_large:
            return pixels, examples.rows
    positions = np.arange(len(examples.ids))
    return decode_all(examples.images_at(positions), params), positions
