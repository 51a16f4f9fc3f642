"""One pass over a split's examples that keeps a few numbers of each, in bounded memory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fiveline.device import map_tensors, pieces, tensors_of, to_device
from fiveline.metrics import IGNORED_LABEL
from fiveline.sanity.context import Context

MAX_EXAMPLES = 4000  # of a split; a sample of a larger one
CHUNK = 64  # examples fetched together, where all have one shape
THUMBNAIL = 16  # pixels of the side to which an image is reduced
MAX_LABELS = 1000  # that are kept of an example
MAX_FEATURES = 256  # numbers that are kept of a row
MIN_WORDS = 4  # shorter sentences are alike by chance


@dataclasses.dataclass
class Survey:
    """What is known of a split."""

    num_all: int  # examples in the split
    positions: list[int]  # of the examples in the survey
    inputs: list[bytes] = dataclasses.field(default_factory=list)  # a hash of each example's inputs
    labels: list[list[float]] = dataclasses.field(default_factory=list)  # each example's scored labels
    # the floating-point inputs of each example as one short row, (num_examples, num_numbers); None where there are none
    numbers: Tensor | None = None
    is_image: bool = False  # whether these rows are thumbnails
    texts: list[str] | None = None  # each sentence, normalised; None where there are no sentences
    mean: float = math.nan  # of all floating-point inputs; NaN where there are none
    std: float = math.nan
    least: float = math.inf
    most: float = -math.inf
    num_bad: int = 0  # inputs that are not finite

    @property
    def size(self) -> str:
        """The number of examples: `269 examples`, or `a sample of 4,000 of 50,000`."""
        number = len(self.positions)
        return f"{number:,} examples" if number == self.num_all else f"a sample of {number:,} of {self.num_all:,}"


@functools.lru_cache(maxsize=3)
def survey(context: Context, split: str) -> Survey:
    """Look through the examples of a split, without augmentation."""
    found = Survey(len(context.datasets[split]), context.choose(split, MAX_EXAMPLES))
    tokens = context.tokens(split, found.positions)
    found.texts = None if tokens is None else [normalised(words) for words in tokens]
    rows: list[Tensor] = []
    sums = torch.zeros(3, dtype=torch.float64)  # of ones, of the inputs, and of their squares
    for place, (inputs, label) in enumerate(_examples(context, split, found.positions)):
        tensors = tensors_of(inputs)
        # by the words where they are known: sentences of unknown words can be the same to the net
        found.inputs.append(_hash(tensors) if tokens is None else " ".join(tokens[place]).encode())
        some = label.flatten()[:: 1 + label.numel() // MAX_LABELS].tolist()  # a mask has one for each pixel
        found.labels.append([value for value in some if value != IGNORED_LABEL])
        floats = [tensor.float() for tensor in tensors if tensor.is_floating_point()]
        if floats:
            flat = torch.cat([tensor.flatten() for tensor in floats]).double()
            found.num_bad += int((~flat.isfinite()).sum())
            flat = flat.nan_to_num(0.0, 0.0, 0.0)
            sums += torch.stack([torch.tensor(len(flat)), flat.sum(), flat.square().sum()])
            found.least, found.most = min(found.least, float(flat.min())), max(found.most, float(flat.max()))
            found.is_image = len(floats) == 1 and floats[0].dim() == 3 and min(floats[0].shape[1:]) >= 4
            rows.append(_thumbnail(floats[0]) if found.is_image else _short(flat.float()))
    found.mean, square = (sums[1:] / sums[0]).tolist()  # 0 / 0 is NaN
    found.std = max(square - found.mean**2, 0.0) ** 0.5 if rows else math.nan
    if len(rows) == len(found.inputs) and len({row.shape for row in rows}) == 1:
        found.numbers = torch.stack(rows)
    return found


def _examples(context: Context, split: str, indices: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
    """Yield inputs and label of each example on the CPU, without padding."""
    size = 1 if context.has_lengths else CHUNK
    for batch in context.batches(split, indices, size):
        for inputs, label in pieces(to_device(batch, torch.device("cpu")), 1):
            yield map_tensors(lambda tensor: tensor[0], inputs), label[0]


def _hash(tensors: Sequence[Tensor]) -> bytes:
    parts = [str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes() for tensor in tensors]
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def _thumbnail(image: Tensor) -> Tensor:
    """Return a small grey image as a row of length 1 around 0: brightness and contrast do not count."""
    grey = F.adaptive_avg_pool2d(image.mean(dim=0, keepdim=True).unsqueeze(0), THUMBNAIL).flatten()
    return F.normalize(grey - grey.mean(), dim=0)


def _short(row: Tensor) -> Tensor:
    """Return a row; a long one as the means of small groups."""
    return row if len(row) <= MAX_FEATURES else F.adaptive_avg_pool1d(row[None, None], MAX_FEATURES).flatten()


def normalised(tokens: Sequence[str]) -> str:
    """Return a sentence in lower case, without punctuation, each digit as 0; '' for a short one."""
    words = [re.sub(r"\d", "0", token.lower()) for token in tokens if any(c.isalnum() for c in token)]
    return " ".join(words) if len(words) >= MIN_WORDS else ""
