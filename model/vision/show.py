"""The images behind the ids of a split, for a page that shows them. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fiveline.loading.pictures import open_picture
from model.vision.params import Params
from model.vision.readers import read_split
from utils import InputError

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
    if (data_dir / "cifar-10-batches-py").is_dir():
        raise InputError(f"{data_dir}: its images are pickled, and pickles are not opened for a page")
    examples, shown = read_split(split, data_dir, params), {}
    wanted = set(ids)
    for i, name in enumerate(examples.ids):
        picture = _thumbnail(image := examples.images_at([i])[0], params) if name in wanted else None
        if picture is not None:
            shown[name] = {"image": picture, **({"source": image} if isinstance(image, Path) else {})}
    return shown


def _thumbnail(image: Path | np.ndarray, params: Params) -> Image.Image | None:
    """Return a small picture, upright, or None if the file cannot be read."""
    try:
        if isinstance(image, np.ndarray):
            picture = Image.fromarray(image)
        else:
            picture = open_picture(image, 2 * LARGEST_SIDE, params.max_image_pixels, params.grey_bits or None)
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    except Exception:  # Pillow's readers raise errors of many kinds
        return None
    return picture
