"""Images that come packed into files of many: `<split>.npz`, and those that torchvision downloads."""

from __future__ import annotations

import collections
import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.vision.formats import Examples, Mapped, normal
from utils import InputError

MOST_BYTES = 32 * 2**30  # of an array, once unpacked
UNSUSPICIOUS_BYTES = 2**31  # of an array, once unpacked, however densely it is packed
MOST_DENSE = 100  # times that a larger array is smaller in the file: photos are 2 times, drawings perhaps 50
HEADER_BYTES = 2**14  # NumPy refuses an array's header of more than 10,000
LARGE_BYTES = 2**28  # an array up to here is read, and its checksum looked at
_NO_ARCHIVE = (ValueError, TypeError, AttributeError, RuntimeError)  # NumPy's, when a file is not what its name says


def read_npz(path: Path) -> Examples:
    """Read the arrays `images`, `labels` and perhaps `classes`; never unpickles.

    Large images that `np.savez` wrote, uncompressed, are left in the file and mapped into memory; their checksum is not
    looked at, because that would mean to read them all.

    Raises:
        InputError: one of them is missing, of another type or shape, or the file is damaged
    """
    try:
        headers = _read_headers(path)
        if not {"images", "labels"} <= headers.keys():
            raise InputError(f"{path}: expected arrays `images` and `labels`, found {', '.join(headers) or 'none'}")
        _check(path, headers)
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays["labels"]
            classes = arrays["classes"].astype(str) if "classes" in arrays else None
            images = _map(path, headers["images"]) or arrays["images"]
    except InputError:
        raise
    except (OSError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, *_NO_ARCHIVE) as error:
        raise InputError(f"{path}: expected arrays `images` and `labels` ({str(error) or 'cut off'})") from None
    check_range(labels, None if classes is None else len(classes), path)
    names = [] if classes is None else classes.tolist()
    if len(set(names)) < len(names):
        twice = collections.Counter(names).most_common(1)[0][0]
        raise InputError(f"{path}: classes has {twice!r} twice; expected a name of its own for each class")
    if isinstance(images, np.ndarray) and images.shape[3:] == (1,):
        images = images.reshape(images.shape[:3])
    names = [normal(name) for name in names]
    found = [str(number) if classes is None else names[number] for number in labels.tolist()]
    return Examples([f"{path.stem}[{i}]" for i in range(len(labels))], found, images)


class _Header(NamedTuple):
    """What the file says of an array; `offset` is where its bytes begin, None where they are not there as they are."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None


def _read_headers(path: Path) -> dict[str, _Header]:
    """Return the arrays of a file by their names.

    Raises:
        InputError: rather than to run out of memory over arrays that are absurdly large, or only say that they are
    """
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as unpacking:
                file = io.BytesIO(unpacking.read(HEADER_BYTES))  # a header may claim to be gigabytes long
                is_old = np.lib.format.read_magic(file) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if is_old else np.lib.format.read_array_header_2_0
                shape, is_fortran, dtype = read(file)
                num_header_bytes = file.tell()
            name = entry.filename.removesuffix(".npy")
            if dtype.hasobject and name in ("images", "labels", "classes"):
                kind = "text, dtype=str" if name == "classes" else "numbers"
                raise InputError(f"{path}: {name} are Python objects {shape}; expected {kind}")
            is_plain = entry.compress_type == zipfile.ZIP_STORED and not is_fortran
            num_bytes = math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and num_bytes > min(entry.file_size, _most_bytes(path, entry)):
                raise InputError(
                    f"{path}: {entry.filename} claims {num_bytes:,} bytes, of which the file holds "
                    f"{entry.compress_size:,}, compressed at most {MOST_DENSE}-fold; expected that much in the file, "
                    "as np.savez saves it, or folders of images"
                )
            offset = _start(path, entry) + num_header_bytes if is_plain else None
            headers[name] = _Header(shape, dtype, offset)
    return headers


def _most_bytes(path: Path, entry: zipfile.ZipInfo) -> int:
    """Return how large an array may be, so that a small file does not fill the memory."""
    if entry.compress_type == zipfile.ZIP_STORED:
        return path.stat().st_size
    return min(max(UNSUSPICIOUS_BYTES, MOST_DENSE * entry.compress_size), MOST_BYTES)


def _start(path: Path, entry: zipfile.ZipInfo) -> int:
    """Return where the bytes of an archive's entry begin: after a name and more that only its own header knows."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        len_name, len_extra = struct.unpack("<HH", file.read(4))
    return int(entry.header_offset + 30 + len_name + len_extra)


def _check(path: Path, headers: dict[str, _Header]) -> None:
    """Check types and shapes, before anything is unpacked."""
    images, labels, classes = headers["images"], headers["labels"], headers.get("classes")
    shape = images.shape
    is_image = len(shape) == 3 or shape[3:] in ((1,), (3,))
    if images.dtype != np.uint8 or not is_image or 0 in shape[1:]:
        raise InputError(f"{path}: images are {images.dtype} {shape}; expected uint8 (n, height, width[, 3])")
    if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: labels are {labels.dtype} {labels.shape}; expected one integer for each of {shape[0]} images"
        )
    if classes is not None and len(classes.shape) != 1:
        raise InputError(f"{path}: classes are {classes.dtype} {classes.shape}; expected a name for each class")


def _map(path: Path, header: _Header) -> Mapped | None:
    """Return an array without reading it, or None if it is small or not in the file as it is."""
    if header.offset is None or math.prod(header.shape) <= LARGE_BYTES:
        return None
    shape = header.shape[:3] if header.shape[3:] == (1,) else header.shape
    return Mapped(path, header.offset, shape)


def check_range(labels: np.ndarray, num_classes: int | None, path: Path) -> None:
    """Raise InputError if there are labels without a class."""
    is_wrong = (labels < 0) if num_classes is None else (labels < 0) | (labels >= num_classes)
    if is_wrong.any():
        expected = "0 or more" if num_classes is None else f"0 to {num_classes - 1}, a number for each of its classes"
        first = int(is_wrong.argmax())
        found = f"labels from {labels.min()} to {labels.max()}; expected {expected}"
        raise InputError(
            f"{path}: {found}; labels[{first}] is {labels[first]}, the first of {is_wrong.sum()} wrong ones"
        )


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
    check_range(numbers, len(dataset.classes), path)
    labels = [dataset.classes[number].partition(" - ")[0] for number in numbers.tolist()]  # MNIST: '3 - three'
    return Examples([f"{split}[{i}]" for i in range(len(labels))], labels, images)
