"""Decoded images on disk: made once, mapped by every process that trains on them, made anew when a file changes.

They lie in the hidden folder `.decoded` of the dataset or, where that cannot be written, below the user's cache folder
(`$XDG_CACHE_HOME` or `~/.cache`, `fiveline`); either may be removed at any time. One file holds one folder of images:

    a line of JSON, filled up with blanks    what was decoded, how, and from which files
    pixels                                   (n, image_size, image_size, image_channels), uint8
    a CRC-32 of each image                   little-endian, 4 bytes each
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock, Timeout

from model.vision import decode as decode_module
from model.vision import opening
from model.vision.decode import chunks, decode_all, grey_bits, image_shape
from model.vision.formats import Files, Mapped
from model.vision.params import Params
from utils import check_regular

FOLDER = ".decoded"
HEADER_BYTES = 512
ROOM_LEFT = 2**30  # bytes of the disk that are not ours to fill: checkpoints need them
WAIT_SECONDS = 600.0  # for another process that decodes the same images


class Decoded:
    """Decoded images in a file. Each is compared with its checksum when it is first looked at.

    Args:
        path: the file
        shape: (n, image_size, image_size, image_channels)
        images: where they come from; one that the disk has spoilt is decoded from there again
        params: image_size, image_channels
    """

    def __init__(self, path: Path, shape: tuple[int, ...], images: Files, params: Params) -> None:
        self.path, self.shape, self._images, self._params = path, shape, images, params
        self._pixels = Mapped(path, HEADER_BYTES, shape)
        end = HEADER_BYTES + math.prod(shape)
        self._checksums = np.fromfile(path, "<u4", shape[0], offset=end)
        self._is_checked, self._is_told = np.zeros(shape[0], dtype=bool), False

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        pixels = self._pixels[rows]
        for i in np.flatnonzero(~self._is_checked[rows]):
            row = rows[i]
            if zlib.crc32(pixels[i]) == self._checksums[row]:
                self._is_checked[row] = True
            else:  # not marked: it is decoded each time
                self._tell()
                pixels[i] = decode_all(self._images, [row], self._params)[0]
        return pixels

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            logging.warning(f"- WARNING: {self.path} is damaged; what is, is decoded again. The next run makes it anew")
            with contextlib.suppress(OSError):  # Windows keeps what is mapped
                self.path.unlink()  # processes that have it mapped keep it


def open_decoded(images: Files, data_dir: Path, params: Params) -> Decoded | None:
    """Return decoded images, from a file that is there or is made now; None, and a line in the log, if it cannot be.

    Raises:
        InputError: one of the images cannot be read
    """
    name = f"{images.folder.name}_{params.image_size}x{params.image_size}x{params.image_channels}"
    header = _header(images, params)
    paths = [folder / name for folder in _folders(data_dir)]
    for path in paths:
        decoded = _open(path, header, images, params)
        if decoded is not None:
            return decoded
    made = (_try_to_make(path, header, images, params) for path in paths)
    return next((decoded for decoded in made if decoded is not None), None)


def _folders(data_dir: Path) -> Iterator[Path]:
    """Yield where decoded images may lie, the best place first."""
    yield data_dir / FOLDER
    with contextlib.suppress(RuntimeError):  # a user without a home
        place = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()
        yield Path(place, "fiveline", f"{data_dir.resolve().name}-{digest[:16]}")


def _header(images: Files, params: Params) -> bytes:
    """Return what a file of these images begins with: it differs where a file, or the code that reads it, changed."""
    digest = hashlib.sha256(Path(decode_module.__file__).read_bytes() + Path(opening.__file__).read_bytes())
    for i, path in enumerate(images):
        digest.update(os.fsencode(images.name(i)) + f"\0{_size_and_times(path)}\n".encode())
    shape = [len(images), *image_shape(params)]
    about_all = {"format": 1, "pillow": PIL.__version__, "shape": shape, "grey_bits": grey_bits(params)}
    line = json.dumps({**about_all, "images": digest.hexdigest()}).encode()
    return line.ljust(HEADER_BYTES - 1) + b"\n"


def _size_and_times(path: Path) -> str:
    """Return a text that differs where a file changed, even if its size and its time were put back.

    Any program can set st_mtime; st_ctime is the system's, which sets it at each change (not on Windows).
    """
    try:
        status = path.stat()
    except OSError as error:  # the decoder will say more about it
        return str(error.errno)
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _open(path: Path, header: bytes, images: Files, params: Params) -> Decoded | None:
    """Return the images of a file, or None if there is none, or not of these images, or not a whole one."""
    shape = (len(images), *image_shape(params))
    try:
        check_regular(path)
        with path.open("rb") as file:
            is_this = file.read(HEADER_BYTES) == header
            size = file.seek(0, os.SEEK_END)
        if not is_this or size != HEADER_BYTES + math.prod(shape) + 4 * len(images):
            return None
        return Decoded(path, shape, images, params)
    except (OSError, ValueError):  # the latter: a pipe, or another process put a shorter one in its place
        return None


def _try_to_make(path: Path, header: bytes, images: Files, params: Params) -> Decoded | None:
    try:
        return _make(path, header, images, params)
    except (OSError, Timeout, NotImplementedError) as error:  # the last: a file system without locks
        reason = getattr(error, "strerror", None) or str(error)
        logging.info(f"- decoded images cannot be kept in {path.parent} ({reason})")
        return None


def _make(path: Path, header: bytes, images: Files, params: Params) -> Decoded:
    place = path.parent.parent
    if place.is_dir() and not place.stat().st_mode & 0o222:  # root could write there, but somebody did not want it
        raise OSError(errno.EACCES, "it is read-only", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logging.info(f"- waiting for another process, which decodes the images into {path}")
        lock.acquire(timeout=WAIT_SECONDS)
    try:
        decoded = _open(path, header, images, params)  # by the other process
        if decoded is None:
            _write(path, header, images, params)
            decoded = _open(path, header, images, params)
    finally:
        lock.release()
    if decoded is None:
        raise OSError(errno.EIO, "what was written there is not what can be read", str(path))
    return decoded


def _write(path: Path, header: bytes, images: Files, params: Params) -> None:
    """Decode images into a file, which others see when it is whole."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it wrote
        stale.unlink()
    num_bytes = len(images) * math.prod(image_shape(params))
    if shutil.disk_usage(path.parent).free < num_bytes + ROOM_LEFT:
        raise OSError(errno.ENOSPC, f"they take {num_bytes:,} bytes, and the disk is almost full", str(path))
    logging.info(f"- decoding {len(images)} images once, into {path}")
    descriptor, name = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)  # nobody else may read it
    temporary = Path(name)
    checksums: list[int] = []
    try:
        with os.fdopen(descriptor, "wb") as file:  # not mapped: on a full disk, writing to a map kills the process
            file.write(header)
            for positions in chunks(len(images), params):
                pixels = decode_all(images, positions, params)
                checksums += [zlib.crc32(image) for image in pixels]
                file.write(pixels.data)
            file.write(np.array(checksums, "<u4").tobytes())
            file.flush()
            if path.parent.name == FOLDER and os.name != "nt":  # in the user's cache folder it stays private
                _permit(file.fileno(), images)
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _permit(descriptor: int, images: Files) -> None:
    """Let others read a file if they may read all the images that it was made of, and enter all their folders."""
    mode, groups = 0o644, set()
    for path in {images.folder.parent, images.folder, *(path.parent for path in images)}:
        mode &= path.stat().st_mode << 2 | 0o600  # x of the folder lets others enter, r of the file lets them read
    for path in images:
        status = path.stat()
        mode &= status.st_mode | 0o600
        groups.add(status.st_gid)
    with contextlib.suppress(OSError):  # the user is not in that group
        if len(groups) == 1:
            os.fchown(descriptor, -1, groups.pop())
            return os.fchmod(descriptor, mode)
    return os.fchmod(descriptor, mode if mode & 0o004 else 0o600)
