"""A look through a split's examples, one by one, that keeps a few numbers of each: bounded time and memory."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fiveline.device import map_tensors, pieces, tensors_of
from fiveline.metrics import IGNORED_LABEL

MOST_SECONDS = 8.0  # for a split
CHUNK = 64  # examples fetched at once, where they are all of one shape
THUMBNAIL = 16  # pixels of the side of what is kept of an image
MOST_LABELS = 1000  # that are kept of an example
MOST_FEATURES = 256  # numbers that are kept of a row
FEWEST_WORDS = 4  # shorter sentences are alike by chance


@dataclasses.dataclass
class Survey:
    """What a look through a split showed.

    Args:
        positions: of the examples looked at
        num_all: how many the split has
        inputs: a hash of each example's inputs
        labels: each example's scored labels, as numbers
        numbers: the non-integer inputs of each example as one short row, (num_examples, num_numbers); None for others
        is_image: whether these rows are thumbnails
        texts: each sentence in lower case, without punctuation, digits as 0; None where there are no sentences, and
            an empty text for a short one
        is_float: whether some inputs are no whole numbers
        mean, std: over all non-integer inputs, and `least`, `most`: their range
        num_bad: how many of them are not finite
    """

    positions: list[int]
    num_all: int
    inputs: list[bytes]
    labels: list[list[float]]
    numbers: Tensor | None
    is_image: bool
    texts: list[str] | None
    is_float: bool
    mean: float
    std: float
    least: float
    most: float
    num_bad: int

    @property
    def told(self) -> str:
        """How much was looked at: `269 examples`, or `a sample of 4,000 of 50,000`."""
        number = len(self.positions)
        return f"{number:,} examples" if number == self.num_all else f"a sample of {number:,} of {self.num_all:,}"

    @property
    def is_whole(self) -> bool:
        """Whether all examples were looked at."""
        return len(self.positions) == self.num_all


def look_through(dataset: Any, indices: Sequence[int], texts: list[list[str]] | None) -> Survey:
    """Look at examples of a split, unaugmented, for MOST_SECONDS at most.

    Args:
        dataset: of a dataloader: it fetches (epoch, indices)
        indices: which examples
        texts: their tokens, where they are sentences and known
    """
    hashes: list[bytes] = []
    labels: list[list[float]] = []
    rows: list[Tensor] = []
    is_image = is_float = False
    num_numbers, total, squares, num_bad, least, most = 0, 0.0, 0.0, 0, float("inf"), float("-inf")
    for inputs, label in _one_by_one(dataset, indices):
        tensors = tensors_of(inputs)
        # by their words where they are known: of sentences with unknown ones, many are the same to the net
        hashes.append(_hash(tensors) if texts is None else " ".join(texts[len(hashes)]).encode())
        some = label.flatten()[:: 1 + label.numel() // MOST_LABELS].tolist()  # a mask has one for each pixel
        labels.append([value for value in some if value != IGNORED_LABEL])
        floats = [tensor.float() for tensor in tensors if tensor.is_floating_point()]
        if floats:
            is_float = True
            flat = torch.cat([tensor.flatten() for tensor in floats]).double()
            finite = flat[flat.isfinite()]
            num_bad += len(flat) - len(finite)
            if len(finite):
                num_numbers, total = num_numbers + len(finite), total + float(finite.sum())
                squares += float(finite.square().sum())
                least, most = min(least, float(finite.min())), max(most, float(finite.max()))
            is_image = len(floats) == 1 and floats[0].dim() == 3 and min(floats[0].shape[1:]) >= 4
            rows.append(_thumbnail(floats[0]) if is_image else _short(flat.float()))
    mean = total / max(num_numbers, 1)
    is_rows = len(rows) == len(hashes) and len({row.shape for row in rows}) == 1
    return Survey(
        positions=list(indices[: len(hashes)]),
        num_all=len(dataset),
        inputs=hashes,
        labels=labels,
        numbers=torch.stack(rows) if is_rows else None,
        is_image=is_image,
        texts=[normalised(tokens) for tokens in texts[: len(hashes)]] if texts is not None else None,
        is_float=is_float,
        mean=mean,
        std=max(squares / max(num_numbers, 1) - mean**2, 0.0) ** 0.5,
        least=least,
        most=most,
        num_bad=num_bad,
    )


def _one_by_one(dataset: Any, indices: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
    """Yield inputs and label of each example; where examples differ in length, without padding."""
    end = time.monotonic() + MOST_SECONDS
    size = 1 if hasattr(dataset.dataset, "lengths") else CHUNK
    for start in range(0, len(indices), size):
        batch = dataset.__getitems__((1, list(indices[start : start + size])))
        for inputs, label in pieces((batch[0], batch[1]), 1):
            yield map_tensors(lambda tensor: tensor[0], inputs), label[0]
        if time.monotonic() > end:
            return


def _hash(tensors: Sequence[Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _thumbnail(image: Tensor) -> Tensor:
    """Return a small grey image as a row of length 1 around 0: brightness and contrast do not count."""
    grey = F.adaptive_avg_pool2d(image.mean(dim=0, keepdim=True).unsqueeze(0), THUMBNAIL).flatten()
    return F.normalize(grey - grey.mean(), dim=0)


def _short(row: Tensor) -> Tensor:
    """Return a row, of many numbers only their means in small groups."""
    return row if len(row) <= MOST_FEATURES else F.adaptive_avg_pool1d(row[None, None], MOST_FEATURES).flatten()


def normalised(tokens: Sequence[str]) -> str:
    """Return a sentence as it is compared: in lower case, without punctuation, each digit a 0; '' if it is short."""
    words = [re.sub(r"\d", "0", token.lower()) for token in tokens if any(c.isalnum() for c in token)]
    return " ".join(words) if len(words) >= FEWEST_WORDS else ""
