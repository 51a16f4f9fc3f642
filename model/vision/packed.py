"""Images that come packed into files of many: `<split>.npz`, MNIST's IDX files, CIFAR-10's batches.

Each reader returns (the class name of each image, images (n, height, width[, 3]), uint8). Imports no torch by itself.
"""

from __future__ import annotations

import collections
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from utils import InputError, read_bytes

UNSUSPICIOUS_BYTES = 2**31  # of an array, once unpacked, however small it is in the file
MAX_DENSITY = 100  # how many times larger than in the file an array may be: photos are 2 times, drawings perhaps 50
# NumPy's errors, when a file is not what its name says
NPZ_ERRORS = (OSError, LookupError, EOFError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError)
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    """Read the arrays `images`, `labels` and perhaps `classes`; never unpickles.

    Raises:
        InputError: one of them is missing, of another type or shape, or the file is damaged
    """
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as arrays:
            if not {"images", "labels"} <= set(arrays.files):
                found = ", ".join(arrays.files) or "none"
                raise InputError(f"{path}: expected arrays `images` and `labels`, found {found}")
            images, labels = _array(arrays, "images", path), _array(arrays, "labels", path)
            classes = _array(arrays, "classes", path).astype(str) if "classes" in arrays else None
    except InputError:
        raise
    except (*NPZ_ERRORS, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: expected arrays `images` and `labels` ({str(error) or 'cut off'})") from None
    shape = images.shape
    if images.dtype != np.uint8 or not (len(shape) == 3 or shape[3:] in ((1,), (3,))) or 0 in shape[1:]:
        raise InputError(f"{path}: images are {images.dtype} {shape}; expected uint8 (n, height, width[, 3])")
    if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        found = f"{labels.dtype} {labels.shape}"
        raise InputError(f"{path}: labels are {found}; expected one integer for each of {shape[0]} images")
    if classes is not None and classes.ndim != 1:
        raise InputError(f"{path}: classes are {classes.dtype} {classes.shape}; expected a name for each class")
    names = None if classes is None else classes.tolist()
    if names is not None and len(set(names)) < len(names):
        twice = collections.Counter(names).most_common(1)[0][0]
        raise InputError(f"{path}: classes has {twice!r} twice; expected a name of its own for each class")
    return _class_names(labels, names, path), images.reshape(shape[:3]) if shape[3:] == (1,) else images


def _check_sizes(path: Path) -> None:
    """Refuse arrays that would fill the memory although the file is small."""
    file_bytes = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > max(UNSUSPICIOUS_BYTES, MAX_DENSITY * min(entry.compress_size, file_bytes)):
                raise InputError(
                    f"{path}: {entry.filename} claims {entry.file_size:,} bytes, of which the file holds "
                    f"{min(entry.compress_size, file_bytes):,}, compressed at most {MAX_DENSITY}-fold; expected that "
                    "much in the file, as np.savez saves it, or folders of images"
                )


def _array(arrays: Any, name: str, path: Path) -> np.ndarray:
    try:
        return arrays[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        expected = "text, dtype=str" if name == "classes" else "numbers"
        raise InputError(f"{path}: {name} are Python objects; expected {expected}") from None


def _class_names(labels: np.ndarray, names: list[str] | None, path: Path) -> list[str]:
    """Return the class name of each label; without names, the number.

    Raises:
        InputError: there are labels without a class
    """
    is_wrong = (labels < 0) if names is None else (labels < 0) | (labels >= len(names))
    if is_wrong.any():
        expected = "0 or more" if names is None else f"0 to {len(names) - 1}, a number for each of its classes"
        first = int(is_wrong.argmax())
        raise InputError(
            f"{path}: labels from {labels.min()} to {labels.max()}; expected {expected}; "
            f"labels[{first}] is {labels[first]}, the first of {is_wrong.sum()} wrong ones"
        )
    return [str(number) if names is None else names[number] for number in labels.tolist()]


def read_mnist(folder: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Read `MNIST/raw` or `FashionMNIST/raw`, the files of torchvision.

    Raises:
        InputError: files are missing or damaged
    """
    prefix, name = "t10k" if split == "test" else "train", folder.parent.name
    try:
        images = _read_idx(folder / f"{prefix}-images-idx3-ubyte", 3)
        labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte", 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: {name} is not complete ({error}); data/build_dataset.py downloads it") from None
    if len(images) != len(labels):
        raise InputError(f"{folder}: {len(images)} images and {len(labels)} labels in the {split} split of {name}")
    return _class_names(labels, FASHION if name == "FashionMNIST" else [str(i) for i in range(10)], folder), images


def _read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Return the array of an IDX file: four bytes (0, 0, 8 for uint8, the number of axes), the sizes, the values."""
    content = read_bytes(path)
    start = 4 + 4 * num_axes
    shape = np.frombuffer(content[4:start], dtype=">u4").tolist()
    if content[:4] != bytes([0, 0, 8, num_axes]) or len(content) != start + math.prod(shape):
        raise ValueError(f"{path.name}: expected an IDX file of bytes with {num_axes} axes")
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(shape)  # bytearray: so it can be written


def read_cifar10(folder: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Read `cifar-10-batches-py`, whose pickles torchvision compares with its own checksums before it opens them.

    Raises:
        InputError: files are missing or are not the original ones
    """
    from torchvision import datasets  # here, because it takes more than a second

    try:
        dataset: Any = datasets.CIFAR10(folder.parent, train=split == "train", download=False)
    except Exception as error:  # torchvision's readers raise errors of many kinds
        reason = str(error).partition("\n")[0]
        raise InputError(f"{folder}: CIFAR10 is not complete ({reason}); data/build_dataset.py downloads it") from None
    return _class_names(np.asarray(dataset.targets), dataset.classes, folder), np.asarray(dataset.data)
