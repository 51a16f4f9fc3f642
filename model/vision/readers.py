"""The shapes that image data comes in, told apart by looking at `data_dir`:

    <split>/<class>/*                     folders, any image format; the class is the folder's name
    <split>_signs/<label>_*.jpg           CS230's SIGNS; the label is the number before the first underscore
    <split>.npz                           arrays `images` (n, height, width[, 3]) uint8, `labels` (n,) integers,
                                          optionally `classes` (names); data/digits is such a one
    MNIST/raw, FashionMNIST/raw, cifar-10-batches-py     as torchvision downloads them

Where there is no val split, one is cut from train, the same for every run (params.split_seed, params.val_fraction).
"""

from __future__ import annotations

import dataclasses
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.vision.params import Params
from utils import InputError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split: where the images are, and what they show.

    Args:
        ids: a name for each, for the predictions' table
        labels: the class name of each
        images: a file each, or an array (n, height, width) or (n, height, width, 3), uint8
    """

    ids: list[str]
    labels: list[str]
    images: Sequence[Path] | np.ndarray

    def take(self, positions: Sequence[int]) -> Examples:
        """Return some of the examples."""
        images = (
            self.images[list(positions)] if isinstance(self.images, np.ndarray) else [self.images[i] for i in positions]
        )
        return Examples([self.ids[i] for i in positions], [self.labels[i] for i in positions], images)


def read_split(split: str, data_dir: Path, params: Params) -> Examples:
    """Return the examples of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing, in none of the known shapes, or broken
    """
    examples = _read(split, data_dir)
    if examples is not None and (split != "train" or _read_exists("val", data_dir)):
        return examples
    whole = _read("train", data_dir)
    if whole is None or split == "test":
        raise InputError(f"{data_dir}: there is no {split} split in it; it holds {_listing(data_dir)}")
    train, val = _cut(whole.labels, params.val_fraction, params.split_seed)
    logging.info(f"- {data_dir} has no val split: {len(val)} of {len(whole.labels)} train examples serve as val")
    return whole.take(train if split == "train" else val)


def _cut(labels: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Share out positions between train and val, the same fraction of every class; a class of one stays in train."""
    generator = np.random.default_rng(seed)
    val: list[int] = []
    for name in sorted(set(labels)):
        positions = [i for i, label in enumerate(labels) if label == name]
        number = min(max(1, round(len(positions) * fraction)), len(positions) - 1)
        val += [positions[i] for i in generator.permutation(len(positions))[:number]]
    chosen = set(val)
    return [i for i in range(len(labels)) if i not in chosen], sorted(val)


def _read_exists(split: str, data_dir: Path) -> bool:
    return any((data_dir / name).exists() for name in (f"{split}.npz", f"{split}_signs", split))


def _read(split: str, data_dir: Path) -> Examples | None:
    """Return a split as the files have it, or None where they do not have it."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: there is no such data directory; --data_dir says where the data is")
    if (data_dir / f"{split}.npz").is_file():
        return _read_npz(data_dir / f"{split}.npz")
    if (data_dir / f"{split}_signs").is_dir():
        return _read_signs(data_dir / f"{split}_signs")
    if (data_dir / split).is_dir():
        return _read_folders(data_dir / split)
    for name in ("MNIST", "FashionMNIST"):
        if (data_dir / name / "raw").is_dir():
            return _read_torchvision(name, split, data_dir)
    if (data_dir / "cifar-10-batches-py").is_dir():
        return _read_torchvision("CIFAR10", split, data_dir)
    if not _read_exists("train", data_dir):
        raise InputError(
            f"{data_dir}: no images in a known shape; it holds {_listing(data_dir)}, expected train/<class>/*.jpg, "
            "train_signs/<label>_*.jpg, train.npz, MNIST/raw, FashionMNIST/raw or cifar-10-batches-py"
        )
    return None


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def _image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if len(images) < len(files):
        logging.info(f"- {folder}: {len(files) - len(images)} files that are no images are left out")
    return images


def _read_folders(folder: Path) -> Examples:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise InputError(f"{folder}: expected a folder for each class in it, found {_listing(folder)}")
    files = [(path, entry.name) for entry in classes for path in _image_files(entry)]
    ids = [path.relative_to(folder).as_posix() for path, _ in files]
    return Examples(ids, [name for _, name in files], [path for path, _ in files])


def _read_signs(folder: Path) -> Examples:
    files = _image_files(folder)
    for path in files:
        if not path.name.partition("_")[0].isdecimal():
            raise InputError(
                f"{path}: expected a name that begins with the label's number and an underscore, 3_photo.jpg"
            )
    return Examples([path.name for path in files], [str(int(path.name.partition("_")[0])) for path in files], files)


def _read_npz(path: Path) -> Examples:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            classes = arrays.get("classes")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected arrays `images` and `labels` ({error})") from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise InputError(f"{path}: images are {images.dtype} {images.shape}; expected uint8 (n, height, width[, 3])")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: labels are {labels.dtype} {labels.shape}; expected one integer for each of {len(images)} images"
        )
    if classes is not None and len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise InputError(
            f"{path}: labels from {labels.min()} to {labels.max()}; expected 0 to {len(classes) - 1}, by `classes`"
        )
    names = [str(number) if classes is None else str(classes[number]) for number in labels.tolist()]
    return Examples(
        [f"{path.stem}[{i}]" for i in range(len(labels))],
        names,
        images.squeeze(3) if images.shape[3:] == (1,) else images,
    )


def _read_torchvision(name: str, split: str, data_dir: Path) -> Examples | None:
    """Read what torchvision downloaded. These sets have no val split of their own."""
    if split == "val":
        return None
    from torchvision import datasets  # here, because it takes more than a second

    try:
        dataset: Any = getattr(datasets, name)(data_dir, train=split == "train", download=False)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        raise InputError(
            f"{data_dir}: {name} is not complete ({error}); build_dataset.py beside it downloads it"
        ) from None
    labels = [dataset.classes[number].split(" - ")[0] for number in dataset.targets]  # MNIST: '3 - three'
    return Examples([f"{split}[{i}]" for i in range(len(labels))], labels, np.asarray(dataset.data))
