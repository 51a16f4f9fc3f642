"""One pass over a split's examples that keeps a few numbers of each; and the check for leaks, which compares them."""

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
from fiveline.sanity import Finding
from fiveline.sanity.context import Context
from fiveline.sanity.tokens import MAX_EXAMPLES, MAX_LEAKED, are_next_tokens, passages

CHUNK = 64  # examples fetched together, where all have one shape
THUMBNAIL = 16  # pixels of the side to which an image is reduced
MAX_LABELS = 1000  # kept for each example
MIN_WORDS = 4  # shorter sentences match by chance
NEAR_IMAGES = 0.004  # squared distance of thumbnails of length 1


@dataclasses.dataclass
class Survey:
    """What is known of a split."""

    num_all: int  # examples in the split
    positions: list[int]  # the surveyed examples
    inputs: list[bytes] = dataclasses.field(default_factory=list)  # a hash of each example's inputs
    labels: list[list[float]] = dataclasses.field(default_factory=list)  # each example's scored labels
    thumbnails: Tensor | None = None  # (num_examples, THUMBNAIL**2); None where the inputs are not images
    texts: list[str] | None = None  # each sentence, normalised; None where there are no sentences
    mean: float = math.nan  # over all floating-point inputs; NaN if there are none
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
    thumbnails: list[Tensor] = []
    sums = torch.zeros(3, dtype=torch.float64)  # number, sum, and sum of squares of the inputs
    for place, (inputs, label) in enumerate(_examples(context, split, found.positions)):
        tensors = tensors_of(inputs)
        # compare words if they are known: sentences of unknown words can be the same to the net
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
            if len(floats) == 1 and floats[0].dim() == 3 and min(floats[0].shape[1:]) >= 4:
                thumbnails.append(_thumbnail(floats[0]))
    found.mean, square = (sums[1:] / sums[0]).tolist()  # 0 / 0 is NaN
    found.std = max(square - found.mean**2, 0.0) ** 0.5
    found.thumbnails = torch.stack(thumbnails) if len(thumbnails) == len(found.inputs) else None
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


def normalised(tokens: Sequence[str]) -> str:
    """Return a sentence in lower case, without punctuation, each digit as 0; '' for a short one."""
    words = [re.sub(r"\d", "0", token.lower()) for token in tokens if any(c.isalnum() for c in token)]
    return " ".join(words) if len(words) >= MIN_WORDS else ""


def leaks(context: Context) -> Finding:
    """Is an example in two splits: exactly, or, as an image or a sentence, nearly?"""
    if not context.has_lengths and are_next_tokens(context.sample("train", 8)):
        return passages(context)
    train = survey(context, "train")
    known, found, status, values = set(train.inputs), [], "PASS", dict[str, Any]()
    repeats = 1 - len(known) / len(train.inputs)  # rows of few categories repeat by themselves
    for split in [split for split in context.datasets if split != "train"]:
        other, ids = survey(context, split), context.datasets[split].ids
        is_exact = torch.tensor([content in known for content in other.inputs])
        is_near = _near(other, train) & ~is_exact
        exact, near = int(is_exact.sum()), int(is_near.sum())
        positions = [other.positions[i] for i in torch.nonzero(is_exact | is_near).flatten().tolist()]
        names = [position if ids is None else ids[position] for position in positions]
        values[split] = {"exact": exact, "near": near, "examples": names[:100]}
        if names:
            kinds = [f"{number} {how}" for number, how in ((exact, "exactly"), (near, "nearly")) if number]
            found.append(f"{' and '.join(kinds)}, of {other.size} of {split} (example {names[0]})")
            is_bad = exact > max(MAX_LEAKED, repeats) * len(other.positions)
            status = "FAIL" if is_bad or status == "FAIL" else "WARN"
    notes = f"; within train, {repeats:.1%} repeat" if repeats > MAX_LEAKED else ""
    notes += f"; test was not checked ({context.no_test_reason})" if context.no_test_reason else ""
    if not found:
        how = "exactly" if train.thumbnails is None and train.texts is None else "exactly or nearly"
        summary = f"no example of {' or '.join(values)} is in train, {how} ({train.size} of train)"
        return Finding("PASS", f"{summary}{notes}", values=values)
    advice = "take them out of train or of the other split: scores on them measure memorisation (--json names them)"
    return Finding(status, f"also in train: {'; '.join(found)}{notes}", advice, values)


def _near(other: Survey, train: Survey) -> Tensor:
    """Return which examples are nearly one of train: (num_examples,), bool."""
    if other.texts is not None and train.texts is not None:
        texts = set(train.texts) - {""}
        return torch.tensor([each in texts for each in other.texts])
    if other.thumbnails is not None and train.thumbnails is not None:
        return torch.cdist(other.thumbnails, train.thumbnails).amin(dim=1).square() < NEAR_IMAGES
    return torch.zeros(len(other.inputs), dtype=torch.bool)
