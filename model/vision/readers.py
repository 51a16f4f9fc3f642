"""The layouts of image data, recognised by the names in `data_dir`. Imports no torch.

    <split>/<class>/*                folders, any image format; the class is the folder's name
    <split>_signs/<label>_*.jpg      CS230's SIGNS; the label is the number before the first underscore
    <split>.npz                      arrays `images` (n, height, width[, 3]) uint8, `labels` (n,) integers, and, if you
                                     like, `classes` (names); data/digits has these files

If there is no val split, it is cut from train, the same for every run (params.split_seed, params.val_fraction).
"""

from __future__ import annotations

import collections
import dataclasses
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fiveline.loading.pictures import find_images, left_out
from model.vision.npz import read_npz
from model.vision.params import Params
from utils import InputError, is_hidden

NAMES_FOR_VAL = ("validation", "valid", "dev")  # in other projects


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split.

    Args:
        ids: a name for each example, for the predictions' table
        labels: the class name of each example
        images: files, or an array (n, height, width) or (n, height, width, 3), uint8
        rows: which of the images each example is, (num_examples,), int64
        notes: what the user should know about the files that were found
        folder: which holds the image files
    """

    ids: list[str]
    labels: list[str]
    images: list[Path] | np.ndarray
    rows: np.ndarray
    notes: tuple[str, ...] = ()
    folder: Path = Path()

    def images_at(self, positions: Sequence[int] | np.ndarray) -> list[Path] | np.ndarray:
        """Return the images of some of the examples."""
        rows = self.rows[np.asarray(positions)]
        return self.images[rows] if isinstance(self.images, np.ndarray) else [self.images[row] for row in rows]

    def take(self, positions: list[int], *notes: str) -> Examples:
        """Return some of the examples, with notes of their own."""
        ids, labels = [self.ids[i] for i in positions], [self.labels[i] for i in positions]
        return dataclasses.replace(self, ids=ids, labels=labels, rows=self.rows[positions], notes=notes)


def read_split(split: str, data_dir: Path, params: Params) -> Examples:
    """Return the examples of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing, in none of the known layouts, or broken
    """
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: there is no such data directory; --data_dir says where the data is")
    path, has_val = _find(split, data_dir), _find("val", data_dir) is not None
    if path is not None and (split != "train" or has_val):
        return _read(path, split)
    train_path = _find("train", data_dir)
    if train_path is None or split == "test":
        expected = f"{split}/<class>/*.jpg, {split}_signs/<label>_*.jpg or {split}.npz"
        readme = f"; {data_dir / 'README.md'} may say how to get it" if (data_dir / "README.md").is_file() else ""
        found = f"there is no {split} split in it; it holds {_listing(data_dir)}"
        raise InputError(f"{data_dir}: {found}, expected {expected}{readme}")
    whole = _read(train_path, "train")
    train, val = _cut(whole.labels, params.val_fraction, params.split_seed)
    if split == "train":
        return whole.take(train, *whole.notes)
    note = f"{data_dir} has no val split: {len(val)} of {len(whole.labels)} train examples serve as val"
    other = next((name for name in NAMES_FOR_VAL if (data_dir / name).is_dir() and train_path.name == "train"), None)
    return whole.take(val, note + (f"; {data_dir / other} is not read: rename it to val" if other else ""))


def _find(split: str, data_dir: Path) -> Path | None:
    """Return the file or folder that holds a split, or None."""
    found = [name for name in (f"{split}_signs", split) if (data_dir / name).is_dir()]
    found += [f"{split}.npz"] if (data_dir / f"{split}.npz").is_file() else []
    if len(found) > 1:
        raise InputError(f"{data_dir}: it holds {' and '.join(found)}; put each dataset in a folder of its own")
    return data_dir / found[0] if found else None


def _cut(labels: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide positions between train and val, the same fraction of every class; a class of one stays in train."""
    positions: dict[str, list[int]] = collections.defaultdict(list)
    for i, label in enumerate(labels):
        positions[label].append(i)
    generator, val = np.random.default_rng(seed), set()
    for _, places in sorted(positions.items()):
        number = min(max(1, round(len(places) * fraction)), len(places) - 1)
        val |= {places[i] for i in generator.permutation(len(places))[:number]}
    return [i for i in range(len(labels)) if i not in val], sorted(val)


def _read(path: Path, split: str) -> Examples:
    if path.suffix == ".npz":
        labels, pixels = read_npz(path)
        ids, rows = [f"{split}[{i}]" for i in range(len(labels))], np.arange(len(labels))
        return Examples(ids, [normal(label) for label in labels], pixels, rows)
    images, others, errors = find_images(path)
    if errors:
        raise errors[0]
    return (_read_folders if path.name == split else _read_signs)(path, images, others)


def _read_folders(folder: Path, images: list[str], others: list[str]) -> Examples:
    """Read `<class>/*`; a class is a folder, and the images in folders below it belong to it."""
    classes = {normal(path.name) for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir()}
    if not classes:
        raise InputError(f"{folder}: expected a folder for each class in it, found {_listing(folder)}")
    ids = [name for name in images if "/" in name]
    labels = [sys.intern(normal(name.partition("/")[0])) for name in ids]
    empty = classes - set(labels)
    notes = left_out(folder, [*others, *(name for name in images if "/" not in name)])
    if empty:
        notes += (f"{folder}: no images in {', '.join(sorted(empty))}",)
    unread = {normal(name.partition("/")[0]) for name in others if "/" in name}
    if not ids or unread & empty:  # else the net would not know the class
        raise InputError("; ".join(notes))
    return Examples(ids, labels, [folder / name for name in ids], np.arange(len(ids)), notes, folder)


def _read_signs(folder: Path, images: list[str], others: list[str]) -> Examples:
    """Read `<label>_*.jpg`."""
    notes = left_out(folder, others)
    if not images:
        raise InputError("; ".join((f"{folder}: no images in it; it holds {_listing(folder)}", *notes)))
    ids = [name.rpartition("/")[2] for name in images]
    labels = [name.partition("_")[0] for name in ids]
    for name, label in zip(images, labels, strict=True):
        if not label.isdecimal():
            expected = "a name that begins with the label's number and an underscore, 3_photo.jpg"
            raise InputError(f"{folder / name}: expected {expected}")
    labels, files = [str(int(label)) for label in labels], [folder / name for name in images]
    return Examples(ids, labels, files, np.arange(len(ids)), notes, folder)


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def normal(name: str) -> str:
    """Return a class name with composed letters: macOS writes an accent as a character of its own in file names."""
    return unicodedata.normalize("NFC", name)
