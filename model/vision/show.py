"""The images behind the ids of a split, for a page that shows them. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.vision.opening import open_picture
from model.vision.params import Params
from model.vision.readers import TORCHVISION, read_split
from utils import InputError, read_bytes

READS = ("split_seed", "val_fraction", "grey_bits", "max_image_pixels")  # the hyperparameters that it looks at
LARGEST_SIDE = 128  # pixels of a picture in a page


def fetch_inputs(ids: Collection[str], split: str, data_dir: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return the images of a split by their id, as {"image": a PIL image of at most LARGEST_SIDE pixels}.

    Where the image has a file of its own, that is its "source".

    Args:
        ids: of the examples wanted; those that the split does not have, or that cannot be read, are left out
        split: 'train', 'val' or 'test'
        data_dir: the dataset
        params: what READS says

    Raises:
        InputError: the data is gone, or broken, or a pickle
    """
    wanted = set(ids)
    sources: dict[str, Path] = {}
    packed = next((data_dir / name for name in TORCHVISION if (data_dir / name).is_dir()), None)
    if packed is not None:  # torchvision's reader would load torch
        arrays = _read_mnist(packed, split)
        named = ((f"{split}[{i}]", image) for i, image in enumerate(arrays))
        thumbnails = {name: _thumbnail(image, params) for name, image in named if name in wanted}
    else:
        examples = read_split(split, data_dir, params)
        found = [i for i, name in enumerate(examples.ids) if name in wanted]
        pairs = zip(found, examples.rows_of(found), strict=True)
        images = {examples.ids[i]: examples.images[row] for i, row in pairs}
        sources = {name: image for name, image in images.items() if isinstance(image, Path)}
        thumbnails = {name: _thumbnail(image, params) for name, image in images.items()}
    return {
        name: {"image": picture} | ({"source": sources[name]} if name in sources else {})
        for name, picture in thumbnails.items()
        if picture is not None
    }


def _read_mnist(folder: Path, split: str) -> np.ndarray:
    """Return the images of `MNIST/raw` or `FashionMNIST/raw`, (n, height, width): bytes behind 16 bytes of header.

    Raises:
        InputError: it is CIFAR-10, which comes as pickles, or the file is gone or broken
    """
    path = folder / f"{'t10k' if split == 'test' else 'train'}-images-idx3-ubyte"
    if folder.name != "raw":
        raise InputError(f"{folder}: its images are pickled, and pickles are not opened for a page")
    try:
        content = read_bytes(path)
        magic, *shape = np.frombuffer(content[:16], dtype=">u4").tolist()
        images = np.frombuffer(content, dtype=np.uint8, offset=16).reshape(shape)
    except (OSError, ValueError) as error:  # the latter: no regular file, too
        raise InputError(f"{path}: expected the images of {split} ({error})") from None
    if magic != 2051:  # the format's mark of bytes in three dimensions
        raise InputError(f"{path}: expected the images of {split}, found another kind of file")
    return images


def _thumbnail(image: Path | np.ndarray, params: Params) -> Image.Image | None:
    """Return a small picture, upright, or None where a file is none that can be read."""
    try:
        if isinstance(image, np.ndarray):
            picture = Image.fromarray(image)
        else:
            picture = open_picture(image, 2 * LARGEST_SIDE, params.max_image_pixels, params.grey_bits or None)
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    except Exception:  # the readers of Pillow's formats raise whatever they stumble over
        return None
    return picture
