"""Checks of the data: scale of the inputs, labels, augmentation."""

from __future__ import annotations

import collections
from typing import Any

import torch
from torch import Tensor

from fiveline.device import seed_everything, tensors_of
from fiveline.metrics import IGNORED_LABEL
from fiveline.sanity.context import Batches, Context, Finding
from fiveline.sanity.survey import Survey

SMALL_STD, LARGE_STD, HUGE_STD = 0.03, 5.0, 20.0  # of inputs
FAR_MEAN = 3.0  # in standard deviations, or in ones where they are smaller
ONE_SIDED, RARE = 0.8, 50  # share of the most frequent class; how often it may be more frequent than another
MOST_CONTRADICTIONS = 0.01  # share of train
NUM_AUGMENTED = 64


def input_scale(context: Context) -> Finding:
    """Are the inputs finite, neither huge nor tiny, and alike in the splits?"""
    surveys = {split: context.survey(split) for split in context.splits}
    train = surveys["train"]
    if not train.is_float:
        return Finding("PASS", "whole numbers (tokens, categories), which the net looks up", "nothing to scale")
    told = f"mean {train.mean:.3g}, std {train.std:.3g}, from {train.least:.3g} to {train.most:.3g} ({train.told})"
    values = {split: {"mean": s.mean, "std": s.std} for split, s in surveys.items()}
    scale = "scale the inputs in data_loader.py to a mean near 0 and a std near 1, by what train has"
    for split, survey in surveys.items():
        if survey.num_bad:
            advice = "look for empty cells, divisions by 0 and broken files; mend or drop them"
            return Finding("FAIL", f"{survey.num_bad:,} inputs of {split} are NaN or infinite", advice, values)
        if abs(survey.mean - train.mean) > train.std or not 0.5 < (survey.std + 1e-12) / (train.std + 1e-12) < 2:
            explained = f"{split} has mean {survey.mean:.3g} and std {survey.std:.3g}, train {train.mean:.3g} and "
            advice = "scale all splits by the same numbers, those of train"
            return Finding("FAIL", f"{explained}{train.std:.3g}", advice, values)
    if train.std == 0:
        return Finding("FAIL", f"all inputs are {train.mean:.3g}", "look at what the data loader reads", values)
    if train.std > HUGE_STD or abs(train.mean) > HUGE_STD:
        return Finding("FAIL", f"not normalised: {told}", scale, values)
    is_off = abs(train.mean) > FAR_MEAN * max(train.std, 1.0) or not SMALL_STD < train.std < LARGE_STD
    uneven = _uneven(train)
    if is_off or uneven:
        return Finding("WARN", f"{uneven or 'hardly normalised'}: {told}", scale, values)
    return Finding("PASS", told, "print a few inputs as the net sees them, and look", values)


def _uneven(survey: Survey) -> str:
    """Return what to say of columns of very different scales."""
    if survey.numbers is None or survey.is_image or survey.numbers.shape[1] < 2 or len(survey.numbers) < 2:
        return ""
    stds = survey.numbers.std(dim=0)
    stds = stds[stds > 0]  # a column that never changes does no harm
    if len(stds) < 2 or stds.max() < 1000 * stds.median():
        return ""
    return f"the std of one column is {float(stds.max() / stds.median()):,.0f} times that of the median one"


def label_counts(context: Context) -> Finding:
    """Has each split all the classes, in shares that can be learnt and scored? Are quantities alike in the splits?"""
    surveys = {split: context.survey(split) for split in context.splits}
    contradictions = _contradictions(surveys["train"])
    if contradictions:
        explanation = f"{contradictions} train examples have the inputs of another one and other labels"
        if contradictions > MOST_CONTRADICTIONS * len(surveys["train"].positions):
            return Finding("WARN", explanation, "no net can learn both: look at them, and mend the labels")
    is_float = next(iter(context.batches("train", [0], 1)))[1].is_floating_point()
    return _quantities(surveys) if is_float else _classes(context, surveys)


def _contradictions(train: Survey) -> int:
    """Count the examples whose inputs were there before with other labels."""
    known: dict[bytes, list[float]] = {}
    pairs = zip(train.inputs, train.labels, strict=True)
    return sum(known.setdefault(content, labels) != labels for content, labels in pairs)


def _classes(context: Context, surveys: dict[str, Survey]) -> Finding:
    counts = {
        split: collections.Counter(int(value) for labels in survey.labels for value in labels)
        for split, survey in surveys.items()
    }
    train, name = counts["train"], context.class_name
    if not train:
        explanation = f"all labels of train are {IGNORED_LABEL}, which neither the loss nor a metric counts"
        return Finding("FAIL", explanation, f"look at what the dataset returns: {IGNORED_LABEL} is for padding alone")
    for split, survey in surveys.items():
        share = len(survey.positions) / len(surveys["train"].positions)
        missing = [
            number
            for number, n in sorted(train.items())
            if not counts[split][number] and (survey.is_whole or n * share > 10)
        ]
        if missing:
            told = ", ".join(name(number) for number in missing[:5]) + (", ..." if len(missing) > 5 else "")
            explanation = f"{len(missing)} of {len(train)} classes are not in {split}: {told}"
            status = "FAIL" if len(missing) > len(train) / 2 else "WARN"  # half of them: a file that was cut unshuffled
            return Finding(status, explanation, f"split anew so that {split} has some of each; shuffle first")
    (most, number), (least, rare) = train.most_common(1)[0], min(train.items(), key=lambda item: item[1])
    total, is_scalar = sum(train.values()), all(len(labels) == 1 for labels in surveys["train"].labels)
    told = f"{len(train)} classes in each split; {name(most)} is {number / total:.1%} of train, {name(least)} "
    told += f"{rare / total:.1%} ({surveys['train'].told})"
    values = {split: {name(n): count for n, count in sorted(c.items())} for split, c in counts.items()}
    if number > ONE_SIDED * total and context.params.monitor == "accuracy":
        advice = "accuracy says little here: monitor a metric that counts the classes alike, macro_f1 for one"
        return Finding("WARN", told, advice, values)
    if is_scalar and number > RARE * rare:
        return Finding("WARN", told, "weigh rare classes more in the loss (class_weights), or collect more", values)
    return Finding("PASS", told, "read a dozen examples with their labels, and see whether you agree", values)


def _quantities(surveys: dict[str, Survey]) -> Finding:
    targets = {s: torch.tensor([v for labels in survey.labels for v in labels]) for s, survey in surveys.items()}
    values = {split: {"mean": float(t.mean()), "std": float(t.std())} for split, t in targets.items()}
    train = targets["train"]
    for split, target in targets.items():
        if not target.isfinite().all():
            return Finding("FAIL", f"labels of {split} are NaN or infinite", "mend them, or drop the examples", values)
        gap = float((target.mean() - train.mean()).abs() / train.std())
        if gap > 0.5 and gap > 5 / len(target) ** 0.5:
            explanation = f"the mean of {split} is {gap:.1f} standard deviations from that of train"
            return Finding(
                "WARN", explanation, "are the splits of one kind, and shuffled before they were cut?", values
            )
    told = f"quantities with mean {float(train.mean()):.3g} and std {float(train.std()):.3g} in train"
    return Finding("PASS", f"{told} ({surveys['train'].told}), alike in the splits", "plot them once", values)


def augmentation(context: Context) -> Finding:
    """Does augmentation change inputs of train, from epoch to epoch, and neither labels nor anything of val?"""
    for split in context.splits:
        if split != "train" and not _same(*_twice(context, context.plain[split], split, 1, 2)):
            explanation = f"{split} is not the same when it is read twice"
            return Finding("FAIL", explanation, "in fetch_dataset, augment only where split is 'train'")
    plain, again = _twice(context, context.plain["train"], "train", 1, 2)
    first, second = _twice(context, context.augmented, "train", 1, 2)
    for batches in (again, first, second):
        num_changed = sum(
            int((a != b).sum()) for (_, a), (_, b) in zip(plain, batches, strict=True) if a.shape == b.shape
        )
        if num_changed or any(a.shape != b.shape for (_, a), (_, b) in zip(plain, batches, strict=True)):
            explanation = f"{num_changed} labels of {NUM_AUGMENTED} train examples change with the augmentation"
            return Finding("FAIL", explanation, "augment inputs only; or what moves labels must move them rightly")
    if not _same(plain, again):
        advice = "let the dataset have an `augment` that switches it off, as model/__init__.py says"
        return Finding("WARN", "train is augmented even where it is only evaluated", advice)
    if _same(first, second):
        if _same(plain, first):
            return Finding("PASS", "nothing is augmented", "more kinds of examples come cheap where labels allow it")
        advice = "draw with the epoch as a key: example_draws, and set_epoch of the dataset"
        return Finding("WARN", "augmentation does the same in each epoch", advice)
    return Finding("PASS", "changes inputs of train in each epoch; no labels, and no other split", "look at some")


def _twice(context: Context, dataset: Any, split: str, *epochs: int) -> list[list[tuple[Any, Tensor]]]:
    """Return examples as batches, once for each epoch, with other random numbers each time."""
    found = []
    for epoch in epochs:
        seed_everything(context.params.seed, epoch)
        indices = context.choose(split, NUM_AUGMENTED)
        chosen = [(epoch, indices[start : start + context.few]) for start in range(0, len(indices), context.few)]
        found.append(list(Batches(dataset, chosen, torch.device("cpu"))))
    return found


def _same(first: list[tuple[Any, Tensor]], second: list[tuple[Any, Tensor]]) -> bool:
    """Return whether two lists of batches are the same to the bit."""
    pairs = zip(tensors_of(first), tensors_of(second), strict=True)
    return all(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)
