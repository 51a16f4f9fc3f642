"""The check for leaks: examples of one split in another one, exactly or nearly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fiveline.sanity import Finding
from fiveline.sanity.context import Context
from fiveline.sanity.survey import Survey, survey

NEAR_IMAGES, NEAR_ROWS = 0.004, 0.0004  # squared distance of thumbnails of length 1; of rows, in stds, by feature
MAX_LEAKED = 0.01  # share of a split that may be in train before that is a failure


def leaks(context: Context) -> Finding:
    """Is an example in two splits, exactly or nearly?"""
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
        summary = f"no example of {' or '.join(values)} is in train, exactly or nearly ({train.size} of train)"
        return Finding("PASS", f"{summary}{notes}", values=values)
    advice = "take them out of train or of the other split: scores on them measure memorisation (--json names them)"
    return Finding(status, f"also in train: {'; '.join(found)}{notes}", advice, values)


def _near(other: Survey, train: Survey) -> Tensor:
    """Return which examples are nearly one of train: (num_examples,), bool."""
    if other.texts is not None and train.texts is not None:
        texts = set(train.texts) - {""}
        return torch.tensor([each in texts for each in other.texts])
    ours, theirs = other.numbers, train.numbers
    if ours is None or theirs is None or ours.shape[1:] != theirs.shape[1:]:
        return torch.zeros(len(other.inputs), dtype=torch.bool)
    if other.is_image:
        return torch.cdist(ours, theirs).amin(dim=1).square() < NEAR_IMAGES
    mean, scale = theirs.mean(dim=0), theirs.std(dim=0).clamp(min=1e-6) * theirs.shape[1] ** 0.5
    distances = torch.cdist((ours - mean) / scale, (theirs - mean) / scale)
    return distances.amin(dim=1).square() < NEAR_ROWS
