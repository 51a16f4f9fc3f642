"""The check for examples that are in two splits: as they are, by a hash of their content, or nearly so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sanity.context import Context, Finding
from sanity.survey import Survey

NEAR_IMAGES, NEAR_ROWS = 0.004, 0.0004  # squared distance of thumbnails of length 1; of rows, in stds, by feature
MOST_LEAKED = 0.01  # share of a split that may be in train before that is a failure


def leaks(context: Context) -> Finding:
    """Is an example in two splits, as it is or nearly so?"""
    surveys = {split: context.survey(split) for split in context.splits}
    known, found, status = set(surveys["train"].inputs), [], "PASS"
    values: dict[str, Any] = {}
    twins = 1 - len(known) / len(surveys["train"].inputs)  # rows of few categories are alike by themselves
    for split in [split for split in context.splits if split != "train"]:
        survey = surveys[split]
        is_exact = torch.tensor([content in known for content in survey.inputs])
        is_near = _near(survey, surveys["train"]) & ~is_exact
        exact, near = int(is_exact.sum()), int(is_near.sum())
        ids = context.plain[split].ids
        positions = [survey.positions[i] for i in torch.nonzero(is_exact | is_near).flatten().tolist()]
        names = [ids[position] if ids is not None else position for position in positions]
        values[split] = {"exact": exact, "near": near, "examples": names[:100]}
        if exact or near:
            kinds = ([f"{exact} as they are"] if exact else []) + ([f"{near} nearly so"] if near else [])
            found.append(f"{' and '.join(kinds)} of {survey.told} of {split} (example {names[0]})")
            is_bad = exact > max(MOST_LEAKED, twins) * len(survey.positions)
            status = "FAIL" if is_bad or status == "FAIL" else "WARN"
    repeats = f"; within train, {twins:.1%} repeat, too" if twins > MOST_LEAKED else ""
    if context.without_test:
        repeats += f"; not looked at: test ({context.without_test})"
    if not found:
        told = f"no example of {' or '.join(values)} is in train, exactly or nearly ({surveys['train'].told} of train)"
        told += repeats
        advice = "examples of one source (a person, a document) should be in one split: only you know"
        return Finding("PASS", told, advice, values)
    advice = "take them out of train or out of the other split: their scores are those of memory (--json names them)"
    return Finding(status, f"in train, too: {'; '.join(found)}{repeats}", advice, values)


def _near(survey: Survey, train: Survey) -> Tensor:
    """Return which examples are nearly one of train: (num_examples,), bool."""
    if survey.texts is not None and train.texts is not None:
        texts = set(train.texts) - {""}
        return torch.tensor([text in texts for text in survey.texts])
    ours, theirs = survey.numbers, train.numbers
    if ours is None or theirs is None or ours.shape[1:] != theirs.shape[1:]:
        return torch.zeros(len(survey.inputs), dtype=torch.bool)
    if survey.is_image:
        return torch.cdist(ours, theirs).amin(dim=1).square() < NEAR_IMAGES
    mean, scale = theirs.mean(dim=0), theirs.std(dim=0).clamp(min=1e-6) * theirs.shape[1] ** 0.5
    distances = torch.cdist((ours - mean) / scale, (theirs - mean) / scale)
    return distances.amin(dim=1).square() < NEAR_ROWS
