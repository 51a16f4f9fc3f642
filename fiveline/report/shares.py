"""The contribution of each example to a metric: numerators and denominators, for intervals and tests.

evaluate.py saves them as `shares_<split>_<checkpoint>.npz`; `--compare` reads them. This module needs no torch.
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

from fiveline.record.files import check_regular

MOST_BYTES = 2**31  # in memory: a million examples with 100 classes take this many
Finish = Callable[[float], Any]  # applied to a mean ratio, such as the root in a root-mean-square error
FINISHES: dict[str, Finish] = {"": float, "sqrt": np.sqrt, "exp": np.exp, "log": np.log}


@dataclasses.dataclass(frozen=True)
class Shares:
    """The contributions of examples to a metric, a mean of ratios of sums; each (num_examples, num_classes or 1)."""

    numerators: np.ndarray
    denominators: np.ndarray
    occurs: np.ndarray  # whether an example counts for a class, in labels or predictions
    finish: Finish = float

    def mean_ratio(self) -> float:
        """Return the mean ratio over the classes that occur: the metric before `finish`."""
        sums = (part.sum(axis=0, keepdims=True) for part in (self.numerators, self.denominators, self.occurs))
        return float(mean_ratios(*sums)[0])

    def value(self) -> float:
        """Return the metric."""
        return float(self.finish(self.mean_ratio()))

    def class_ratios(self) -> np.ndarray:
        """Return the ratio of each class before averaging, (num_classes or 1,); NaN for a class that does not occur."""
        ratios = divided(self.numerators.sum(axis=0), self.denominators.sum(axis=0))
        return np.where(self.occurs.any(axis=0), ratios, np.nan)

    def of(self, positions: Sequence[int] | np.ndarray) -> Shares:
        """Return the shares of some examples, which may be repeated."""
        return Shares(self.numerators[positions], self.denominators[positions], self.occurs[positions], self.finish)


def divided(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Return the quotients, 0 where the denominator is 0."""
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators != 0)


def mean_ratios(numerators: np.ndarray, denominators: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """Return the mean ratio over the classes that occur for each row of sums, all (num_rows, num_classes or 1).

    0 / 0 is 0. A row where no class occurs gives NaN.
    """
    is_there = (occurs > 0) | (numerators.shape[1] == 1)
    total, count = np.where(is_there, divided(numerators, denominators), 0).sum(axis=1), is_there.sum(axis=1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def with_occurrence(parts: Mapping[str, tuple[np.ndarray, np.ndarray, Finish]]) -> dict[str, Shares]:
    """Return the shares of all metrics: a class occurs in an example where any metric of that length counts it."""
    masks: dict[int | str, np.ndarray] = {}
    keys = {name: part[0].shape[1] if part[0].shape[1] > 1 else name for name, part in parts.items()}
    for name, (numerators, denominators, _) in parts.items():
        masks[keys[name]] = masks.get(keys[name], False) | (numerators != 0) | (denominators != 0)
    return {name: Shares(*part[:2], masks[keys[name]], part[2]) for name, part in parts.items()}


def finish_name(finish: Finish) -> str:
    """Return the name in FINISHES of the function that gives the same numbers; "?" if there is none."""
    for name, known in FINISHES.items():
        if all(math.isclose(known(value), finish(value), rel_tol=1e-9) for value in (0.25, 0.5, 3.0)):
            return name
    return "?"


def to_npz(shares: Mapping[str, Shares]) -> bytes:
    """Return shares as a file."""
    finishes, buffer = [finish_name(each.finish) for each in shares.values()], io.BytesIO()
    arrays: dict[str, Any] = {"names": np.array(list(shares), dtype=str), "finishes": np.array(finishes, dtype=str)}
    for i, each in enumerate(shares.values()):
        arrays |= {f"numerators_{i}": each.numerators, f"denominators_{i}": each.denominators}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def read_npz(path: Path) -> dict[str, Shares]:
    """Return the shares in a file, except metrics whose `finish` has no name; a ValueError if it holds no shares."""
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as file:
            num_bytes = sum(info.file_size for info in file.infolist())
        if num_bytes > MOST_BYTES:
            raise ValueError(f"{num_bytes:,} bytes of numbers; expected at most {MOST_BYTES:,}")
        parts: dict[str, tuple[np.ndarray, np.ndarray, Finish]] = {}
        with np.load(path, allow_pickle=False) as arrays:
            for i, (name, finish) in enumerate(zip(arrays["names"].tolist(), arrays["finishes"].tolist(), strict=True)):
                if finish in FINISHES:
                    parts[name] = arrays[f"numerators_{i}"], arrays[f"denominators_{i}"], FINISHES[finish]
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"not a file of evaluate.py: {error}") from error
    pairs = [part[:2] for part in parts.values()]
    is_alike = all(a.shape == b.shape and a.ndim == 2 and a.dtype.kind == b.dtype.kind == "f" for a, b in pairs)
    if not is_alike or len({len(a) for a, _ in pairs}) > 1:
        found = [(a.shape, a.dtype, b.shape, b.dtype) for a, b in pairs]
        raise ValueError(f"arrays {found}; expected pairs of floats of the shape (num_examples, num_classes)")
    return with_occurrence(parts)
