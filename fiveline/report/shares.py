"""What each example contributed to a metric: its numerators and denominators, from which scores can be tested.

evaluate.py saves them as `shares_<split>_<checkpoint>.npz`, `--compare` reads them. They need no torch.
"""

from __future__ import annotations

import dataclasses
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils import check_regular

MOST_BYTES = 2**31  # in memory: a million examples with 100 classes take this many
FINISHES: dict[str, Callable[[float], Any]] = {"": float, "sqrt": np.sqrt, "exp": np.exp, "log": np.log}


@dataclasses.dataclass(frozen=True)
class Shares:
    """What each example contributed to a metric, which is a mean of ratios of sums.

    Args:
        numerators: (num_examples, num_classes or 1)
        denominators: the same
        occurs: whether an example counts for a class, in labels or predictions; the same shape
        finish: function of the mean ratio, such as the root of a root-mean-square error
    """

    numerators: np.ndarray
    denominators: np.ndarray
    occurs: np.ndarray
    finish: Callable[[float], Any] = float

    def mean_ratio(self) -> float:
        """Return the mean ratio over the classes that occur: the metric, but for `finish`."""
        sums = (part.sum(axis=0, keepdims=True) for part in (self.numerators, self.denominators, self.occurs))
        return float(mean_ratios(*sums)[0])

    def value(self) -> float:
        """Return the metric."""
        return float(self.finish(self.mean_ratio()))

    def of(self, positions: Sequence[int] | np.ndarray) -> Shares:
        """Return the shares of some examples; one may come several times."""
        return Shares(self.numerators[positions], self.denominators[positions], self.occurs[positions], self.finish)


def mean_ratios(numerators: np.ndarray, denominators: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """Return the mean ratio of each row of sums, over the classes that occur; NaN where none does. 0 / 0 is 0.

    Args:
        numerators: sums, (num_rows, num_classes or 1)
        denominators: the same
        occurs: the same; larger than 0 for a class that occurs

    Returns:
        (num_rows,)
    """
    is_there = (occurs > 0) | (numerators.shape[1] == 1)
    quotient = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators != 0)
    total, count = np.where(is_there, quotient, 0).sum(axis=1), is_there.sum(axis=1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def with_occurrence(
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]], finishes: Mapping[str, Callable[[float], Any]]
) -> dict[str, Shares]:
    """Return the shares of all metrics: a class occurs in an example where any metric of that length counts it.

    Args:
        parts: name -> numerators and denominators, both (num_examples, num_classes or 1)
        finishes: name -> function of the mean ratio
    """
    masks: dict[int | str, np.ndarray] = {}
    keys = {name: pair[0].shape[1] if pair[0].shape[1] > 1 else name for name, pair in parts.items()}
    for name, (numerators, denominators) in parts.items():
        is_counted = (numerators != 0) | (denominators != 0)
        masks[keys[name]] = masks.get(keys[name], is_counted) | is_counted
    return {name: Shares(*pair, masks[keys[name]], finishes[name]) for name, pair in parts.items()}


def finish_name(finish: Callable[[float], Any]) -> str:
    """Return the name in FINISHES of the function that gives the same numbers; "?" if there is none."""
    for name, known in FINISHES.items():
        if all(math.isclose(known(value), finish(value), rel_tol=1e-9) for value in (0.25, 0.5, 3.0)):
            return name
    return "?"


def to_npz(shares: Mapping[str, Shares], finishes: Mapping[str, str]) -> bytes:
    """Return shares as a file; `finishes` are names, of FINISHES where the function is known by one."""
    arrays: dict[str, Any] = {"names": np.array(list(shares), dtype=str)}
    arrays["finishes"] = np.array([finishes[name] for name in shares], dtype=str)
    for i, each in enumerate(shares.values()):
        arrays[f"numerators_{i}"], arrays[f"denominators_{i}"] = each.numerators, each.denominators
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def read_npz(path: Path) -> dict[str, Shares]:
    """Return the shares in a file, without those of metrics whose `finish` has no name.

    Raises:
        FileNotFoundError: there is no such file
        ValueError: it is not a file of shares
        OSError: it cannot be read
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as file:
            num_bytes = sum(info.file_size for info in file.infolist())
        if num_bytes > MOST_BYTES:
            raise ValueError(f"{num_bytes:,} bytes of numbers; expected at most {MOST_BYTES:,}")
        with np.load(path, allow_pickle=False) as arrays:
            known = [
                (i, str(name), FINISHES[str(finish)])
                for i, (name, finish) in enumerate(zip(arrays["names"], arrays["finishes"], strict=True))
                if str(finish) in FINISHES
            ]
            parts = {name: (arrays[f"numerators_{i}"], arrays[f"denominators_{i}"]) for i, name, _ in known}
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    shapes = {part.shape for pair in parts.values() for part in pair}
    if any(a.shape != b.shape or a.ndim != 2 or a.dtype != float or b.dtype != float for a, b in parts.values()) or (
        len({shape[0] for shape in shapes}) > 1
    ):
        raise ValueError(f"arrays of the shapes {sorted(shapes)}; expected pairs of (num_examples, num_classes)")
    return with_occurrence(parts, {name: finish for _, name, finish in known})
