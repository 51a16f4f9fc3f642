"""One reader for each shape of image data. `readers.py` says which of them a folder wants."""

from __future__ import annotations

import collections
import dataclasses
import math
import mmap
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from model.vision.opening import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from utils import InputError, files_below, is_hidden

READ_AHEAD_BYTES = 2**30  # mapped files up to here are small enough for the system to read ahead as it likes


class Files(Sequence[Path]):
    """Files below a folder; a million of them take tens of megabytes, and none is copied by a data loading process.

    (A list of paths would be: whoever reads one of Python's objects counts that in it, and so writes to its memory.)

    Args:
        folder: what the names are relative to
        names: with forward slashes
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        encoded = [os.fsencode(name) for name in names]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[Path]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, position: Any) -> Any:
        return self.folder / self.name(position)

    def name(self, position: int) -> str:
        """Return a file's name as it was given."""
        position = range(len(self))[position]
        return os.fsdecode(self._text[self._ends[position] : self._ends[position + 1]])


class Pixels(Protocol):
    """Images as an array (n, height, width) or (n, height, width, 3), uint8: NumPy's, or one that stays on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, positions: Any, /) -> Any: ...


class Mapped:
    """An array of bytes in a file, mapped into memory: what is not looked at is not read. Processes share it.

    Args:
        path: the file
        offset: of the first byte
        shape: (n, ...)

    Raises:
        ValueError: the file is too short
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...]) -> None:
        self.path, self.offset, self.shape = path, offset, shape
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        num_bytes = math.prod(shape)
        self._array = np.frombuffer(self._map, np.uint8, num_bytes, offset).reshape(shape)
        self._is_large = num_bytes > READ_AHEAD_BYTES and hasattr(mmap, "MADV_RANDOM")  # not on Windows
        if self._is_large:  # else a system reads megabytes around each image that is looked at
            self._map.madvise(mmap.MADV_RANDOM)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a process that this is sent to map the file by itself."""
        return Mapped, (self.path, self.offset, self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: Any) -> np.ndarray:
        if self._is_large:  # the disk finds the images of a batch all at once, not one page after the other
            num_bytes = math.prod(self.shape[1:])
            for position in np.atleast_1d(positions).tolist():
                start = self.offset + position * num_bytes
                first = start // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, first, start + num_bytes - first)
        return self._array[positions]


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split: where the images are, and what they show.

    Args:
        ids: a name for each, for the predictions' table
        labels: the class name of each
        images: a file each, or an array (n, height, width) or (n, height, width, 3), uint8
        notes: what the user should know of how they were found
        rows: which of the images each example is, where they are some of them; None for one each, in order
    """

    ids: list[str]
    labels: list[str]
    images: Files | Pixels
    notes: tuple[str, ...] = ()
    rows: np.ndarray | None = None

    def take(self, positions: Sequence[int], *notes: str) -> Examples:
        """Return some of the examples, with notes of their own."""
        ids, labels = [self.ids[i] for i in positions], [self.labels[i] for i in positions]
        return Examples(ids, labels, self.images, notes, self.rows_of(positions))

    def rows_of(self, positions: Sequence[int]) -> np.ndarray:
        """Return where the images of some of the examples are in `images`."""
        return np.asarray(positions, dtype=np.int64) if self.rows is None else self.rows[positions]


def listing(folder: Path) -> str:
    """Return the first names in a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def walk_files(folder: Path, tell: Callable[[InputError], None]) -> Iterator[tuple[str, bool]]:
    """Yield the files below a folder, as `utils.files_below` does, and whether they are images.

    `tell` is called with what there is to say of each folder that cannot be read.
    """

    def tell_of(error: OSError) -> None:
        tell(InputError(f"{error.filename}: this folder cannot be read ({error.strerror}); chmod it, or take it out"))

    for name in files_below(folder, tell_of):
        yield name, Path(name).suffix.lower() in IMAGE_SUFFIXES


def _image_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the image files below a folder, and the others, relative to it; InputError if it cannot be read."""
    images: list[str] = []
    others: list[str] = []
    unreadable: list[InputError] = []
    for name, is_image in walk_files(folder, unreadable.append):
        (images if is_image else others).append(name)
    if unreadable:
        raise unreadable[0]
    return images, others


def is_unread(name: str) -> bool:
    """Return whether a file is an image of a format that is not read."""
    return Path(name).suffix.lower() in UNREAD_SUFFIXES


def left_out(folder: Path, others: Sequence[str]) -> tuple[str, ...]:
    """Return notes of the files in a folder that are not read."""
    kinds = collections.Counter(Path(name).suffix.lower() for name in others if is_unread(name))
    rest = [name for name in others if not is_unread(name)]
    notes: tuple[str, ...] = ()
    if rest:
        first = rest[0].rpartition("/")[2]
        notes += (f"{folder}: {len(rest)} file(s) that are no images are left out, {first} first",)
    if kinds:
        counts = ", ".join(f"{number} {suffix}" for suffix, number in sorted(kinds.items()))
        notes += (f"WARNING: {folder}: images of formats that are not read are left out ({counts}); save them as PNG",)
    return notes


def normal(name: str) -> str:
    """Return a class name with composed letters: macOS writes an accent as a character of its own in file names."""
    return unicodedata.normalize("NFC", name)


def read_folders(folder: Path) -> Examples:
    """Read `<class>/*`; a class is a folder, and what lies in folders below it is of the class too.

    Raises:
        InputError: there are no folders, or no images in them
    """
    entries = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    classes = [path for path in entries if path.is_dir()]
    if not classes:
        raise InputError(f"{folder}: expected a folder for each class in it, found {listing(folder)}")
    files, others = _image_files(folder)
    ids = [name for name in files if "/" in name]
    labels = [sys.intern(normal(name.partition("/")[0])) for name in ids]
    others += [name for name in files if "/" not in name]
    empty = sorted({normal(path.name) for path in classes} - set(labels))
    notes = left_out(folder, others) + ((f"{folder}: no images in {', '.join(empty)}",) if empty else ())
    unread = {normal(name.partition("/")[0]) for name in others if "/" in name and is_unread(name)}
    if not ids or unread & set(empty):  # else the net would not know the class
        raise InputError("; ".join(notes).replace("WARNING: ", ""))
    return Examples(ids, labels, Files(folder, ids), notes)


def read_signs(folder: Path) -> Examples:
    """Read `<label>_*.jpg`.

    Raises:
        InputError: a name without a label, or no images
    """
    files, others = _image_files(folder)
    names = [file.rpartition("/")[2] for file in files]
    numbers = [name.partition("_")[0] for name in names]
    for file, number in zip(files, numbers, strict=True):
        if not number.isdecimal():
            raise InputError(
                f"{folder / file}: expected a name that begins with the label's number and an underscore, 3_photo.jpg"
            )
    if not files:
        notes = (f"{folder}: no images in it; it holds {listing(folder)}", *left_out(folder, others))
        raise InputError("; ".join(notes).replace("WARNING: ", ""))
    return Examples(names, [str(int(n)) for n in numbers], Files(folder, files), left_out(folder, others))
