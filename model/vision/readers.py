"""The layouts of image data, recognised by the names in `data_dir`. Imports no torch.

    <split>/<class>/*                     folders, any image format; the class is the folder's name
    <split>_signs/<label>_*.jpg           CS230's SIGNS; the label is the number before the first underscore
    <split>.npz                           arrays `images` (n, height, width[, 3]) uint8, `labels` (n,) integers, and
                                          optionally `classes` (names); data/digits has these files
    MNIST/raw, FashionMNIST/raw, cifar-10-batches-py     as torchvision downloads them

If there is no val split, it is cut from train, the same for every run (params.split_seed, params.val_fraction).
"""

from __future__ import annotations

import collections
import dataclasses
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fiveline.loading.pictures import SUFFIXES, UNREAD_SUFFIXES
from model.vision.packed import read_cifar10, read_mnist, read_npz
from model.vision.params import Params
from utils import InputError, files_below, is_hidden

TORCHVISION = {"MNIST/raw": read_mnist, "FashionMNIST/raw": read_mnist, "cifar-10-batches-py": read_cifar10}
NAMES_FOR_VAL = ("validation", "valid", "dev")  # in other projects


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split.

    Args:
        ids: a name for each example, for the predictions' table
        labels: the class name of each example
        images: files, or an array (n, height, width) or (n, height, width, 3), uint8
        notes: what the user should know about the files that were found
        folder: which holds the image files
        part: which of the images the examples are; None for all of them, in order
    """

    ids: list[str]
    labels: list[str]
    images: list[Path] | np.ndarray
    notes: tuple[str, ...] = ()
    folder: Path = Path()
    part: np.ndarray | None = None

    @property
    def rows(self) -> np.ndarray:
        """Which of the images each example is, (num_examples,), int64."""
        return np.arange(len(self.ids)) if self.part is None else self.part

    def images_at(self, positions: Sequence[int] | np.ndarray) -> Sequence[Path] | np.ndarray:
        """Return the images of some of the examples."""
        rows = self.rows[np.asarray(positions)]
        return self.images[rows] if isinstance(self.images, np.ndarray) else [self.images[row] for row in rows]

    def take(self, positions: list[int], *notes: str) -> Examples:
        """Return some of the examples, with notes of their own."""
        ids, labels = [self.ids[i] for i in positions], [self.labels[i] for i in positions]
        return dataclasses.replace(self, ids=ids, labels=labels, notes=notes, part=np.array(positions, dtype=np.int64))


def read_split(split: str, data_dir: Path, params: Params) -> Examples:
    """Return the examples of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing, in none of the known layouts, or broken
    """
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: there is no such data directory; --data_dir says where the data is")
    path, has_val = _find(split, data_dir), _find("val", data_dir) is not None
    if path is not None and (split != "train" or has_val):
        return _read(path, split)
    train_path = _find("train", data_dir)
    if train_path is None or split == "test":
        layouts = [f"{split}/<class>/*.jpg", f"{split}_signs/<label>_*.jpg", f"{split}.npz", *TORCHVISION]
        readme = data_dir / "README.md"
        raise InputError(
            f"{data_dir}: there is no {split} split in it; it holds {_listing(data_dir)}, expected one of "
            + ", ".join(layouts)
            + (f"; {readme} may say how to get them" if readme.is_file() else "")
        )
    whole = _read(train_path, "train")
    train, val = _cut(whole.labels, params.val_fraction, params.split_seed)
    if split == "train":
        return whole.take(train, *whole.notes)
    note = f"{data_dir} has no val split: {len(val)} of {len(whole.labels)} train examples serve as val"
    other = next((name for name in NAMES_FOR_VAL if (data_dir / name).is_dir() and train_path.name == "train"), None)
    return whole.take(val, note + (f"; {data_dir / other} is not read: rename it to val" if other else ""))


def _find(split: str, data_dir: Path) -> Path | None:
    """Return the file or folder that holds a split, or None; torchvision's sets have no val split."""
    folders = [f"{split}_signs", split, *(TORCHVISION if split != "val" else ())]
    found = [f"{split}.npz"] if (data_dir / f"{split}.npz").is_file() else []
    found += [name for name in folders if (data_dir / name).is_dir()]
    if len(found) > 1:
        raise InputError(f"{data_dir}: it holds {' and '.join(found)}; put each dataset in a folder of its own")
    return data_dir / found[0] if found else None


def _cut(labels: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide positions between train and val, the same fraction of every class; a class of one stays in train."""
    positions: dict[str, list[int]] = collections.defaultdict(list)
    for i, label in enumerate(labels):
        positions[label].append(i)
    generator = np.random.default_rng(seed)
    val: list[int] = []
    for name in sorted(positions):
        size = len(positions[name])
        number = min(max(1, round(size * fraction)), size - 1)
        val += [positions[name][i] for i in generator.permutation(size)[:number]]
    chosen = set(val)
    return [i for i in range(len(labels)) if i not in chosen], sorted(val)


def _read(path: Path, split: str) -> Examples:
    if path.name == f"{split}_signs":
        return _read_signs(path)
    if path.name == split:
        return _read_folders(path)
    read = next((read for name, read in TORCHVISION.items() if path.match(name)), None)
    labels, images = read_npz(path) if read is None else read(path, split)
    return Examples([f"{split}[{i}]" for i in range(len(labels))], [normal(label) for label in labels], images)


def _read_folders(folder: Path) -> Examples:
    """Read `<class>/*`; a class is a folder, and the images in folders below it belong to it."""
    classes = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())
    if not classes:
        raise InputError(f"{folder}: expected a folder for each class in it, found {_listing(folder)}")
    files, others, _ = find_images(folder, is_strict=True)
    ids = [name for name in files if "/" in name]
    others += [name for name in files if "/" not in name]
    labels = [sys.intern(normal(name.partition("/")[0])) for name in ids]
    empty = sorted({normal(name) for name in classes} - set(labels))
    notes = left_out(folder, others) + ((f"{folder}: no images in {', '.join(empty)}",) if empty else ())
    unread = {normal(name.partition("/")[0]) for name in others if "/" in name and _is_unread(name)}
    if not ids or unread & set(empty):  # else the net would not know the class
        raise InputError("; ".join(notes).replace("WARNING: ", ""))
    return Examples(ids, labels, [folder / name for name in ids], notes, folder)


def _read_signs(folder: Path) -> Examples:
    """Read `<label>_*.jpg`."""
    files, others, _ = find_images(folder, is_strict=True)
    notes = left_out(folder, others)
    if not files:
        listed = f"{folder}: no images in it; it holds {_listing(folder)}"
        raise InputError("; ".join((listed, *notes)).replace("WARNING: ", ""))
    names = [file.rpartition("/")[2] for file in files]
    numbers = [name.partition("_")[0] for name in names]
    for file, number in zip(files, numbers, strict=True):
        if not number.isdecimal():
            expected = "a name that begins with the label's number and an underscore, 3_photo.jpg"
            raise InputError(f"{folder / file}: expected {expected}")
    return Examples(names, [str(int(n)) for n in numbers], [folder / file for file in files], notes, folder)


def find_images(folder: Path, is_strict: bool) -> tuple[list[str], list[str], list[InputError]]:
    """Return the image files below a folder, the other files, and an error for each folder that cannot be read.

    Args:
        folder: the names that are returned are relative to it
        is_strict: whether to raise the first of these errors
    """
    errors: list[InputError] = []

    def note(error: OSError) -> None:
        reason = f"this folder cannot be read ({error.strerror}); chmod it, or take it out"
        errors.append(InputError(f"{error.filename}: {reason}"))

    images: list[str] = []
    others: list[str] = []
    for name in files_below(folder, note):
        (images if Path(name).suffix.lower() in SUFFIXES else others).append(name)
    if errors and is_strict:
        raise errors[0]
    return images, others, errors


def left_out(folder: Path, others: Sequence[str]) -> tuple[str, ...]:
    """Return notes about the files in a folder that are not read."""
    kinds = collections.Counter(Path(name).suffix.lower() for name in others if _is_unread(name))
    rest = [name.rpartition("/")[2] for name in others if not _is_unread(name)]
    notes: tuple[str, ...] = (
        (f"{folder}: {len(rest)} file(s) that are no images are left out, {rest[0]} first",) if rest else ()
    )
    if kinds:
        counts = ", ".join(f"{number} {suffix}" for suffix, number in sorted(kinds.items()))
        notes += (f"WARNING: {folder}: images of formats that are not read are left out ({counts}); save them as PNG",)
    return notes


def _is_unread(name: str) -> bool:
    return Path(name).suffix.lower() in UNREAD_SUFFIXES


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def normal(name: str) -> str:
    """Return a class name with composed letters: macOS writes an accent as a character of its own in file names."""
    return unicodedata.normalize("NFC", name)
