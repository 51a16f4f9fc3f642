"""Images that come packed into one file, `<split>.npz`."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.vision.formats import Examples, Mapped, check_range
from utils import InputError

MOST_BYTES = 32 * 2**30  # of an array, once unpacked
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
        _check_images(path, headers["images"])
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays["labels"]
            classes = arrays["classes"].astype(str) if "classes" in arrays else None
            images = _map(path, headers["images"]) or arrays["images"]
    except InputError:
        raise
    except (OSError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, *_NO_ARCHIVE) as error:
        raise InputError(f"{path}: expected arrays `images` and `labels` ({error})") from None
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: labels are {labels.dtype} {labels.shape}; expected one integer for each of {len(images)} images"
        )
    if classes is not None and classes.ndim != 1:
        raise InputError(f"{path}: classes are {classes.dtype} {classes.shape}; expected a name for each class")
    check_range(labels, None if classes is None else len(classes), path)
    names = [str(number) for number in range(labels.max(initial=0) + 1)] if classes is None else classes.tolist()
    if isinstance(images, np.ndarray) and images.shape[3:] == (1,):
        images = images.reshape(images.shape[:3])
    return Examples([f"{path.stem}[{i}]" for i in range(len(labels))], [names[i] for i in labels.tolist()], images)


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
            with archive.open(entry) as file:
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
            if not dtype.hasobject and num_bytes > (entry.file_size if is_plain else min(entry.file_size, MOST_BYTES)):
                raise InputError(
                    f"{path}: {entry.filename} says that it is {num_bytes:,} bytes; it holds {entry.file_size:,}, "
                    f"and {MOST_BYTES:,} are the most that is unpacked; larger sets go into folders of images"
                )
            offset = _start(path, entry) + num_header_bytes if is_plain else None
            headers[name] = _Header(shape, dtype, offset)
    return headers


def _start(path: Path, entry: zipfile.ZipInfo) -> int:
    """Return where the bytes of an archive's entry begin: after a name and more that only its own header knows."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        len_name, len_extra = struct.unpack("<HH", file.read(4))
    return int(entry.header_offset + 30 + len_name + len_extra)


def _check_images(path: Path, header: _Header) -> None:
    shape = header.shape
    is_image = len(shape) == 3 or shape[3:] in ((1,), (3,))
    if header.dtype != np.uint8 or not is_image or 0 in shape[1:]:
        raise InputError(f"{path}: images are {header.dtype} {shape}; expected uint8 (n, height, width[, 3])")


def _map(path: Path, header: _Header) -> Mapped | None:
    """Return an array without reading it, or None if it is small or not in the file as it is."""
    if header.offset is None or math.prod(header.shape) <= LARGE_BYTES:
        return None
    shape = header.shape[:3] if header.shape[3:] == (1,) else header.shape
    return Mapped(path, header.offset, shape)
