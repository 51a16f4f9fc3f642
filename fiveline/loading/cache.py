"""Cache an array that takes long to make, such as decoded images: make it once, and map its file in every process.

The file is an ordinary `.npy` in the hidden folder `.decoded` of the dataset or, if that is not writable, below
`~/.cache/fiveline`. You may delete it; only its owner can read it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from fiveline.record.atomic import open_atomically
from fiveline.record.files import check_regular

FOLDER = ".decoded"
SPARE_BYTES = 2**30  # disk space to leave free for checkpoints


def cached_array(data_dir: Path, name: str, key: str, parts: Callable[[], Iterable[np.ndarray]]) -> np.ndarray | None:
    """Return an array, mapped from its file, which the first call makes; None if no folder can be written.

    Args:
        data_dir: the dataset that the array is made from
        name: the file name begins with it, such as `train_64x64x3`; a file with this name and another key is replaced
        key: text that changes when the values would change, for example `files_key(...)`
        parts: returns the parts of the array along its first axis, in order
    """
    file_name = f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    paths = [folder / file_name for folder in _folders(data_dir)]
    for path in paths:
        if (array := _open(path)) is not None:
            return array
    for path in paths:
        try:
            _make_file(path, name, parts)
            return _open(path)
        except (OSError, Timeout, NotImplementedError) as error:  # noqa: PERF203  NotImplementedError: no file locks
            logging.info(f"- {name} cannot be kept in {path.parent} ({getattr(error, 'strerror', None) or error})")
    return None


def files_key(paths: Iterable[Path], folder: Path) -> str:
    """Return a digest that changes when a file in `folder` does, whatever that is called; no file is read."""
    digest, start = hashlib.sha256(), len(os.fsencode(folder))
    for path in paths:
        state = ""
        with contextlib.suppress(OSError):  # `make` will report a missing file
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"  # programs can fake only st_mtime
        digest.update(os.fsencode(path)[start:] + f"\0{state}\n".encode())
    return digest.hexdigest()


def _folders(data_dir: Path) -> Iterator[Path]:
    """Yield the folders that may hold the file, the best one first."""
    yield data_dir / FOLDER
    with contextlib.suppress(RuntimeError):  # the user has no home directory
        place = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()
        yield Path(place, "fiveline", f"{data_dir.resolve().name}-{digest[:16]}")


def _open(path: Path) -> np.ndarray | None:
    """Return the array in a file, or None if there is no such file or it is incomplete."""
    with contextlib.suppress(OSError, ValueError):
        check_regular(path)
        array = np.lib.format.open_memmap(path, mode="c")
        if path.stat().st_size == array.offset + array.nbytes:
            return array
    return None


def _make_file(path: Path, name: str, parts: Callable[[], Iterable[np.ndarray]]) -> None:
    """Make the file; other processes see it only when it is complete. Delete older files with the same `name`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{name}.lock"), timeout=600):  # seconds, if another process makes the same file
        if _open(path) is not None:
            return
        logging.info(f"- decoding {name} once, into {path}")
        with open_atomically(path, mode=0o600) as file:  # a memory map crashes on a full disk
            length = 0
            for part in parts():
                if shutil.disk_usage(path.parent).free < part.nbytes + SPARE_BYTES:
                    raise OSError(errno.ENOSPC, "the disk is almost full")
                length += len(part)
                header = {"descr": part.dtype.str, "fortran_order": False, "shape": (length, *part.shape[1:])}
                if file.tell() == 0:
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(part.data)
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header)  # NumPy leaves room for a longer length
        stale = path.parent.glob(f".{glob.escape(name)}-*.tmp")  # of a process that was killed
        for old in {*stale, *path.parent.glob(f"{glob.escape(name)}-*.npy")} - {path}:
            with contextlib.suppress(OSError):  # Windows cannot delete a file that is mapped
                old.unlink()
