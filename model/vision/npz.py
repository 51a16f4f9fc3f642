"""Images that come packed into one file of NumPy arrays, `<split>.npz`."""

from __future__ import annotations

import collections
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from utils import InputError

UNSUSPICIOUS_BYTES = 2**31  # of an array, once unpacked, however small it is in the file
MAX_DENSITY = 100  # how many times larger than in the file an array may be: photos are 2 times, drawings perhaps 50
LARGE_BYTES = 2**28  # larger images that `np.savez` stored uncompressed are mapped from the file, not read
EXPECTED = "expected `images`, uint8 (n, height, width[, 3]), `labels`, an integer for each, perhaps `classes`, text"
# NumPy's errors, if a file is not what its name says
ERRORS = (OSError, LookupError, EOFError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError)


def read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    """Read the arrays `images`, `labels` and perhaps `classes`; never unpickles.

    Returns:
        the class name of each image; the images, uint8, (n, height, width) or (n, height, width, 3)

    Raises:
        InputError: an array is missing, of another type or shape, or the file is damaged
    """
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as arrays:
            if not {"images", "labels"} <= set(arrays.files):
                raise ValueError(", ".join(arrays.files) or "no arrays")
            labels = arrays["labels"]
            names = arrays["classes"].astype(str) if "classes" in arrays else None
            images = _map_images(path) if path.stat().st_size > LARGE_BYTES else None
            images = arrays["images"] if images is None else images
    except InputError:
        raise
    except (*ERRORS, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: {EXPECTED}; found {str(error) or 'a file that is cut off'}") from None
    shape = images.shape
    is_right = images.dtype == np.uint8 and (len(shape) == 3 or shape[3:] in ((1,), (3,))) and 0 not in shape[1:]
    if not is_right or labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        found = f"images {images.dtype} {shape} and labels {labels.dtype} {labels.shape}"
        raise InputError(f"{path}: {EXPECTED}; found {found}")
    return _class_names(labels, names, path), images.reshape(shape[:3]) if shape[3:] == (1,) else images


def _check_sizes(path: Path) -> None:
    """Refuse arrays that would fill the memory although the file is small."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            packed = min(entry.compress_size, path.stat().st_size)
            if entry.file_size > max(UNSUSPICIOUS_BYTES, MAX_DENSITY * packed):
                raise InputError(
                    f"{path}: {entry.filename} claims {entry.file_size:,} bytes, of which the file holds {packed:,}; "
                    "save it with np.savez, uncompressed, or as folders of images"
                )


def _map_images(path: Path) -> np.ndarray | None:
    """Return the images mapped from the file (their checksum is not compared), or None if they are compressed."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entry = archive.getinfo("images.npy")
        file.seek(entry.header_offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)  # skip a name, and extra data
        if entry.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if is_fortran or dtype != np.uint8:
            return None
        return np.memmap(path, np.uint8, "c", file.tell(), shape)


def _class_names(labels: np.ndarray, names: np.ndarray | None, path: Path) -> list[str]:
    """Return the class name of each label; without names, the number."""
    if names is not None and names.ndim != 1:
        raise InputError(f"{path}: {EXPECTED}; found classes of shape {names.shape}")
    known = None if names is None else names.tolist()
    if known and (twice := collections.Counter(known).most_common(1)[0])[1] > 1:
        raise InputError(f"{path}: classes has {twice[0]!r} twice; expected a name of its own for each class")
    is_wrong = (labels < 0) if known is None else (labels < 0) | (labels >= len(known))
    if is_wrong.any():
        expected = "0 or more" if known is None else f"0 to {len(known) - 1}, a number for each of its classes"
        first = int(is_wrong.argmax())
        raise InputError(
            f"{path}: labels from {labels.min()} to {labels.max()}; expected {expected}; "
            f"labels[{first}] is {labels[first]}, the first of {is_wrong.sum()} wrong ones"
        )
    return [str(number) if known is None else known[number] for number in labels.tolist()]
