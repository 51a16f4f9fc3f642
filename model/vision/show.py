"""The images behind the ids of a split, for a page that shows them. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from model.vision.params import Params
from model.vision.readers import TORCHVISION, read_split
from utils import InputError

READS = ("split_seed", "val_fraction")  # the hyperparameters that decide which examples a split has
LARGEST_SIDE = 128  # pixels of a picture in a page


def fetch_inputs(ids: Collection[str], split: str, data_dir: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return the images of a split by their id, as {"image": a PIL image of at most LARGEST_SIDE pixels}.

    Args:
        ids: of the examples wanted; those that the split does not have, or that cannot be read, are left out
        split: 'train', 'val' or 'test'
        data_dir: the dataset
        params: what READS says

    Raises:
        InputError: the data is gone, or broken, or in a shape that only torchvision reads
    """
    if any((data_dir / name).is_dir() for name in TORCHVISION):
        raise InputError(f"{data_dir}: images that torchvision unpacks are not shown; folders and .npz are")
    examples = read_split(split, data_dir, params)
    wanted = set(ids)
    found = [i for i, name in enumerate(examples.ids) if name in wanted]
    rows = examples.rows_of(found)
    thumbnails = {examples.ids[i]: _thumbnail(examples.images[row]) for i, row in zip(found, rows, strict=True)}
    return {name: {"image": picture} for name, picture in thumbnails.items() if picture is not None}


def _thumbnail(image: Path | np.ndarray) -> Image.Image | None:
    """Return a small picture, upright, or None where a file is none that can be read."""
    try:
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image)
        picture.draft(None, (2 * LARGEST_SIDE, 2 * LARGEST_SIDE))
        picture = ImageOps.exif_transpose(picture)
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    except Exception:  # the readers of Pillow's formats raise whatever they stumble over
        return None
    return picture
