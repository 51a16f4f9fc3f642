"""The shapes that image data comes in, told apart by looking at `data_dir`:

    <split>/<class>/*                     folders, any image format; the class is the folder's name
    <split>_signs/<label>_*.jpg           CS230's SIGNS; the label is the number before the first underscore
    <split>.npz                           arrays `images` (n, height, width[, 3]) uint8, `labels` (n,) integers,
                                          optionally `classes` (names); data/digits is such a one
    MNIST/raw, FashionMNIST/raw, cifar-10-batches-py     as torchvision downloads them

Where there is no val split, one is cut from train, the same for every run (params.split_seed, params.val_fraction).
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.vision.formats import Examples, listing, read_folders, read_signs
from model.vision.packed import read_npz, read_torchvision
from model.vision.params import Params
from utils import InputError

MEANT_AS_VAL = ("validation", "valid", "dev")  # what others call it
TORCHVISION = ("MNIST/raw", "FashionMNIST/raw", "cifar-10-batches-py")


def read_split(split: str, data_dir: Path, params: Params) -> Examples:
    """Return the examples of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing, in none of the known shapes, or broken
    """
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: there is no such data directory; --data_dir says where the data is")
    path, has_val = _find(split, data_dir), _find("val", data_dir) is not None
    if path is not None and (split != "train" or has_val):
        return _read(path, split)
    train_path = _find("train", data_dir)
    if train_path is None or split == "test":
        raise InputError(_no_split(split, data_dir))
    whole = _read(train_path, "train")
    train, val = _cut(whole.labels, params.val_fraction, params.split_seed)
    if split == "train":
        return whole.take(train, *whole.notes)
    note = f"{data_dir} has no val split: {len(val)} of {len(whole.labels)} train examples serve as val"
    meant = next((name for name in MEANT_AS_VAL if (data_dir / name).is_dir() and train_path.name == "train"), None)
    return whole.take(val, note + (f"; {data_dir / meant} is not read: rename it to val" if meant else ""))


def _find(split: str, data_dir: Path) -> Path | None:
    """Return the file or folder that holds a split, or None; torchvision's sets hold train and test, but no val."""
    folders = [f"{split}_signs", split, *(TORCHVISION if split != "val" else ())]
    found = [f"{split}.npz"] if (data_dir / f"{split}.npz").is_file() else []
    found += [name for name in folders if (data_dir / name).is_dir()]
    if len(found) > 1:
        raise InputError(f"{data_dir}: it holds {' and '.join(found)}; put each dataset in a folder of its own")
    return data_dir / found[0] if found else None


def _no_split(split: str, data_dir: Path) -> str:
    expected = f"{split}/<class>/*.jpg, {split}_signs/<label>_*.jpg, {split}.npz, {', '.join(TORCHVISION)}"
    there = f"{data_dir}: there is no {split} split in it; it holds {listing(data_dir)}, expected one of {expected}"
    readme = data_dir / "README.md"
    return f"{there}; {readme} may say how to get them" if readme.is_file() else there


def _cut(labels: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Share out positions between train and val, the same fraction of every class; a class of one stays in train."""
    positions: dict[str, list[int]] = collections.defaultdict(list)
    for i, label in enumerate(labels):
        positions[label].append(i)
    generator = np.random.default_rng(seed)
    val: list[int] = []
    for name in sorted(positions):
        size = len(positions[name])
        number = min(max(1, round(size * fraction)), size - 1)
        val += [positions[name][i] for i in generator.permutation(size)[:number]]
    chosen = set(val)
    return [i for i in range(len(labels)) if i not in chosen], sorted(val)


def _read(path: Path, split: str) -> Examples:
    if path.name == f"{split}.npz":
        return read_npz(path)
    if path.name == f"{split}_signs":
        return read_signs(path)
    return read_folders(path) if path.name == split else read_torchvision(path, split)
