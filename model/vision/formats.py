"""One reader for each shape of image data. `readers.py` says which of them a folder wants."""

from __future__ import annotations

import dataclasses
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils import InputError

IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split: where the images are, and what they show.

    Args:
        ids: a name for each, for the predictions' table
        labels: the class name of each
        images: a file each, or an array (n, height, width) or (n, height, width, 3), uint8
        notes: what the user should know of how they were found
    """

    ids: list[str]
    labels: list[str]
    images: Sequence[Path] | np.ndarray
    notes: tuple[str, ...] = ()

    def take(self, positions: Sequence[int], *notes: str) -> Examples:
        """Return some of the examples, with notes of their own."""
        images = (
            self.images[list(positions)] if isinstance(self.images, np.ndarray) else [self.images[i] for i in positions]
        )
        return Examples([self.ids[i] for i in positions], [self.labels[i] for i in positions], images, notes)


def listing(folder: Path) -> str:
    """Return the first names in a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def _image_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the image files below a folder and the names of the other files, in an order that every system gives.

    Hidden files and folders do not count. Folders that are links are followed.
    """
    images: list[Path] = []
    others: list[str] = []
    for parent, folders, names in os.walk(folder, followlinks=True):  # does not ask the disk about every single file
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                images.append(Path(parent, name))
            else:
                others.append(name)
    return images, others


def _left_out(folder: Path, others: Sequence[str]) -> tuple[str, ...]:
    return (f"{folder}: {len(others)} file(s) that are no images are left out, {others[0]} first",) if others else ()


def read_folders(folder: Path) -> Examples:
    """Read `<class>/*`; a class is a folder, and what lies in folders below it is of the class too.

    Raises:
        InputError: there are no folders, or no images in them
    """
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    classes = [path for path in entries if path.is_dir()]
    if not classes:
        raise InputError(f"{folder}: expected a folder for each class in it, found {listing(folder)}")
    ids: list[str] = []
    labels: list[str] = []
    images: list[Path] = []
    others = [path.name for path in entries if not path.is_dir()]
    empty = []
    for entry in classes:
        files, no_images = _image_files(entry)
        ids += [path.as_posix().removeprefix(f"{folder.as_posix()}/") for path in files]
        labels += [entry.name] * len(files)
        images += files
        others += no_images
        empty += [entry.name] if not files else []
    notes = _left_out(folder, others) + ((f"{folder}: no images in {', '.join(empty)}",) if empty else ())
    if not images:
        raise InputError("; ".join(notes))
    return Examples(ids, labels, images, notes)


def read_signs(folder: Path) -> Examples:
    """Read `<label>_*.jpg`.

    Raises:
        InputError: a name without a label, or no images
    """
    files, others = _image_files(folder)
    numbers = [path.name.partition("_")[0] for path in files]
    for path, number in zip(files, numbers, strict=True):
        if not number.isdecimal():
            raise InputError(
                f"{path}: expected a name that begins with the label's number and an underscore, 3_photo.jpg"
            )
    if not files:
        raise InputError(f"{folder}: no images in it; it holds {listing(folder)}")
    return Examples([path.name for path in files], [str(int(n)) for n in numbers], files, _left_out(folder, others))


MOST_BYTES = 32 * 2**30  # of an array, once unpacked
_NO_ARCHIVE = (ValueError, TypeError, AttributeError, RuntimeError)  # NumPy's, when a file is not what its name says


def read_npz(path: Path) -> Examples:
    """Read the arrays `images`, `labels` and perhaps `classes`; never unpickles.

    Raises:
        InputError: one of them is missing, of another type or shape, or the file is damaged
    """
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            classes = arrays["classes"].astype(str) if "classes" in arrays else None
    except (OSError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, *_NO_ARCHIVE) as error:
        raise InputError(f"{path}: expected arrays `images` and `labels` ({error})") from None
    is_grey, is_colour = images.ndim == 3 or images.shape[3:] == (1,), images.shape[3:] == (3,)
    if images.dtype != np.uint8 or not (is_grey or is_colour) or 0 in images.shape[1:]:
        raise InputError(f"{path}: images are {images.dtype} {images.shape}; expected uint8 (n, height, width[, 3])")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: labels are {labels.dtype} {labels.shape}; expected one integer for each of {len(images)} images"
        )
    if classes is not None and classes.ndim != 1:
        raise InputError(f"{path}: classes are {classes.dtype} {classes.shape}; expected a name for each class")
    _check_range(labels, None if classes is None else len(classes), path)
    names = [str(number) if classes is None else str(classes[number]) for number in labels.tolist()]
    images = images.reshape(images.shape[:3]) if is_grey else images
    return Examples([f"{path.stem}[{i}]" for i in range(len(labels))], names, images)


def _check_sizes(path: Path) -> None:
    """Raise InputError rather than run out of memory over arrays that are absurdly large, or only say that they are."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                is_old = np.lib.format.read_magic(file) == (1, 0)
                header = np.lib.format.read_array_header_1_0 if is_old else np.lib.format.read_array_header_2_0
                shape, _, dtype = header(file)
            num_bytes = math.prod(shape) * dtype.itemsize
            if num_bytes > min(entry.file_size, MOST_BYTES):
                raise InputError(
                    f"{path}: {entry.filename} says that it is {num_bytes:,} bytes; it holds {entry.file_size:,}, "
                    f"and {MOST_BYTES:,} are the most; larger sets go into folders of images"
                )


def _check_range(labels: np.ndarray, num_classes: int | None, path: Path) -> None:
    """Raise InputError if there are labels without a class."""
    if len(labels) and (labels.min() < 0 or (num_classes is not None and labels.max() >= num_classes)):
        expected = "0 or more" if num_classes is None else f"0 to {num_classes - 1}, a number for each of its classes"
        raise InputError(f"{path}: labels from {labels.min()} to {labels.max()}; expected {expected}")


def read_torchvision(path: Path, split: str) -> Examples:
    """Read `MNIST/raw`, `FashionMNIST/raw` or `cifar-10-batches-py`, through torchvision.

    CIFAR-10 comes as pickles: torchvision compares them with the checksums that it knows before it opens them.

    Raises:
        InputError: files are missing or are not the original ones
    """
    from torchvision import datasets  # here, because it takes more than a second

    name = "CIFAR10" if path.name == "cifar-10-batches-py" else path.parent.name
    root = path.parent if name == "CIFAR10" else path.parent.parent
    try:
        dataset: Any = getattr(datasets, name)(root, train=split == "train", download=False)
    except Exception as error:  # torchvision's readers raise whatever they stumble over
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: {name} is not complete ({reason}); data/build_dataset.py downloads it") from None
    images, numbers = np.asarray(dataset.data), np.asarray(dataset.targets)
    if len(images) != len(numbers):
        raise InputError(f"{path}: {len(images)} images and {len(numbers)} labels in the {split} split of {name}")
    _check_range(numbers, len(dataset.classes), path)
    labels = [dataset.classes[number].partition(" - ")[0] for number in numbers.tolist()]  # MNIST: '3 - three'
    return Examples([f"{split}[{i}]" for i in range(len(labels))], labels, images)
