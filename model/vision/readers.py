"""The layouts of image data, recognised by the names in `data_dir`. Imports no torch.

    <split>/<class>/*                folders, any image format; the class is the folder's name
    <split>_signs/<label>_*.jpg      CS230's SIGNS; the label is the number before the first underscore
    <split>.npz                      arrays `images` (n, height, width[, 3]) uint8, `labels` (n,) integers, and
                                     optionally `classes` (names); data/digits has these files

If there is no val split, it is cut from train, the same for every run (params.split_seed, params.val_fraction).
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fiveline.loading.pictures import find_images, left_out
from model.vision.params import Params
from utils import InputError, is_hidden

NAMES_FOR_VAL = ("validation", "valid", "dev")  # other projects use these names
UNSUSPICIOUS_BYTES = 2**31  # an unpacked array of this size is accepted, however small the file is
MAX_DENSITY = 100  # how many times larger than in the file an array may be: photos are 2 times, drawings perhaps 50
EXPECTED = "expected `images`, uint8 (n, height, width[, 3]), `labels`, an integer for each, perhaps `classes`, text"
# NumPy's errors, if a file is not what its name says
ERRORS = (OSError, LookupError, EOFError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError)


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split."""

    ids: list[str]  # a name for each example, for the predictions' table
    labels: list[str]  # the class name of each example
    images: list[Path] | np.ndarray  # files, or an array (n, height, width) or (n, height, width, 3), uint8
    rows: np.ndarray  # the position of each example in `images`, (num_examples,), int64
    notes: tuple[str, ...] = ()  # what the user should know about the files that were found
    folder: Path = Path()  # the folder of the image files

    def images_at(self, positions: Sequence[int] | np.ndarray) -> list[Path] | np.ndarray:
        """Return the images of some of the examples."""
        rows = self.rows[np.asarray(positions, dtype=np.int64)]  # int64 also if there are none
        return self.images[rows] if isinstance(self.images, np.ndarray) else [self.images[row] for row in rows]

    def take(self, is_taken: np.ndarray, *notes: str) -> Examples:
        """Return some of the examples, with notes of their own."""
        ids, labels = (list(itertools.compress(column, is_taken)) for column in (self.ids, self.labels))
        return dataclasses.replace(self, ids=ids, labels=labels, rows=self.rows[is_taken], notes=notes)


def read_split(split: str, data_dir: Path, params: Params) -> Examples:
    """Return the examples of 'train', 'val' or 'test'; InputError if they are missing, broken or in another layout."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: there is no such data directory; --data_dir says where the data is")
    path, has_val = _find(split, data_dir), _find("val", data_dir) is not None
    if path is not None and (split != "train" or has_val):
        return _read(path, split)
    train_path = _find("train", data_dir)
    if train_path is None or split == "test":
        expected = f"{split}/<class>/*.jpg, {split}_signs/<label>_*.jpg or {split}.npz"
        found = f"there is no {split} split in it; it holds {_listing(data_dir)}, expected {expected}"
        raise InputError(f"{data_dir}: {found}")
    whole = _read(train_path, "train")
    is_val = _cut(whole.labels, params.val_fraction, params.split_seed)
    if split == "train":
        return whole.take(~is_val, *whole.notes)
    note = f"{data_dir} has no val split: {is_val.sum()} of {len(is_val)} train examples serve as val"
    other = next((name for name in NAMES_FOR_VAL if (data_dir / name).is_dir() and train_path.name == "train"), None)
    return whole.take(is_val, note + (f"; {data_dir / other} is not read: rename it to val" if other else ""))


def _find(split: str, data_dir: Path) -> Path | None:
    """Return the file or folder that holds a split, or None."""
    found = [name for name in (f"{split}_signs", split) if (data_dir / name).is_dir()]
    found += [f"{split}.npz"] if (data_dir / f"{split}.npz").is_file() else []
    if len(found) > 1:
        raise InputError(f"{data_dir}: it holds {' and '.join(found)}; put each dataset in a folder of its own")
    return data_dir / found[0] if found else None


def _cut(labels: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Return which examples become val, bool: the same fraction of every class; a class of one stays in train."""
    numbers = np.unique(labels, return_inverse=True)[1]  # in the order of the sorted names
    is_val, generator = np.zeros(len(labels), dtype=bool), np.random.default_rng(seed)
    for i in range(numbers.max(initial=-1) + 1):
        positions = np.flatnonzero(numbers == i)
        number = min(max(1, round(len(positions) * fraction)), len(positions) - 1)
        is_val[positions[generator.permutation(len(positions))[:number]]] = True
    return is_val


def _read(path: Path, split: str) -> Examples:
    if path.suffix == ".npz":
        labels, pixels = _read_npz(path)
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
    labels = [normal(name.partition("/")[0]) for name in ids]
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
            raise InputError(f"{folder / name}: expected a name that begins with the label's number and _, 3_photo.jpg")
    labels = [str(int(label)) for label in labels]
    return Examples(ids, labels, [folder / name for name in images], np.arange(len(ids)), notes, folder)


def _read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the class name of each image, and the images, (n, height, width) or (n, height, width, 3); no pickles."""
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as arrays:
            if not {"images", "labels"} <= set(arrays.files) <= {"images", "labels", "classes"}:  # a misspelt name
                raise ValueError(", ".join(arrays.files) or "no arrays")
            images, labels = arrays["images"], arrays["labels"]
            classes = arrays["classes"].astype(str).tolist() if "classes" in arrays else None
    except (*ERRORS, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: {EXPECTED}; found {str(error) or 'a file that is cut off'}") from None
    shape = images.shape
    is_right = images.dtype == np.uint8 and (len(shape) == 3 or shape[3:] in ((1,), (3,))) and 0 not in shape[1:]
    if not is_right or labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        found = f"images {images.dtype} {shape} and labels {labels.dtype} {labels.shape}"
        raise InputError(f"{path}: {EXPECTED}; found {found}")
    return _class_names(labels, classes, path), images.reshape(shape[:3]) if shape[3:] == (1,) else images


def _check_sizes(path: Path) -> None:
    """Refuse arrays that would fill the memory although the file is small."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            packed = min(entry.compress_size, path.stat().st_size)
            if entry.file_size > max(UNSUSPICIOUS_BYTES, MAX_DENSITY * packed):
                claim = f"{entry.filename} claims {entry.file_size:,} bytes, of which the file holds {packed:,}"
                raise ValueError(f"{claim}; save it with np.savez, uncompressed, or as folders of images")


def _class_names(labels: np.ndarray, classes: list[str] | None, path: Path) -> list[str]:
    """Return the class name of each label; without names, the number."""
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise InputError(f"{path}: {EXPECTED}; found classes of another shape, {classes!r:.60}")
    if classes and (twice := collections.Counter(classes).most_common(1)[0])[1] > 1:
        raise InputError(f"{path}: classes has {twice[0]!r} twice; expected a name of its own for each class")
    is_wrong = (labels < 0) if classes is None else (labels < 0) | (labels >= len(classes))
    if is_wrong.any():
        expected = "0 or more" if classes is None else f"0 to {len(classes) - 1}, a number for each of its classes"
        first = int(is_wrong.argmax())
        place = f"labels[{first}] is {labels[first]}, the first of {is_wrong.sum()} wrong ones"
        raise InputError(f"{path}: labels from {labels.min()} to {labels.max()}; expected {expected}; {place}")
    return [str(number) if classes is None else classes[number] for number in labels.tolist()]


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def normal(name: str) -> str:
    """Return a class name with composed letters: macOS writes an accent as a character of its own in file names."""
    return unicodedata.normalize("NFC", name)
