"""Checks of the data: scale of the inputs, labels, augmentation."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fiveline.device import seed_everything, tensors_of
from fiveline.metrics import IGNORED_LABEL
from fiveline.sanity import Finding
from fiveline.sanity.context import Context
from fiveline.sanity.leaks import Survey, survey
from fiveline.sanity.tokens import are_next_tokens

SMALL_STD, LARGE_STD, HUGE_STD = 0.03, 5.0, 20.0  # limits for the std of inputs
FAR_MEAN = 3.0  # a mean farther from 0, in units of max(std, 1), gets a warning
ONE_SIDED, RARE = 0.8, 50  # share of the most frequent class; how much more frequent than another it may be
MAX_CONTRADICTIONS = 0.01  # share of train
NUM_AUGMENTED = 64


def input_scale(context: Context) -> Finding:
    """Are the inputs finite, neither huge nor tiny, and similar in the splits?"""
    surveys = {split: survey(context, split) for split in context.datasets}
    train = surveys["train"]
    if math.isnan(train.mean):
        return Finding("PASS", "whole numbers (tokens, categories), which the net looks up: there is nothing to scale")
    summary = f"mean {train.mean:.3g}, std {train.std:.3g}, from {train.least:.3g} to {train.most:.3g} ({train.size})"
    values = {split: {"mean": s.mean, "std": s.std} for split, s in surveys.items()}
    scale = "scale the inputs in data_loader.py to a mean near 0 and a std near 1, by what train has"
    for split, s in surveys.items():
        if s.num_bad:
            advice = "look for empty cells, divisions by 0 and broken files; correct or drop them"
            return Finding("FAIL", f"{s.num_bad:,} inputs of {split} are NaN or infinite", advice, values)
        if abs(s.mean - train.mean) > train.std or not 0.5 < (s.std + 1e-12) / (train.std + 1e-12) < 2:
            found = f"mean {s.mean:.3g} and std {s.std:.3g}, train {train.mean:.3g} and {train.std:.3g}"
            return Finding("FAIL", f"{split} has {found}", "scale all splits by the mean and std of train", values)
    if train.std == 0:
        return Finding("FAIL", f"all inputs are {train.mean:.3g}", "look at what the data loader reads", values)
    if train.std > HUGE_STD or abs(train.mean) > HUGE_STD:
        return Finding("FAIL", f"not normalised: {summary}", scale, values)
    if abs(train.mean) > FAR_MEAN * max(train.std, 1.0) or not SMALL_STD < train.std < LARGE_STD:
        return Finding("WARN", f"poorly normalised: {summary}", scale, values)
    return Finding("PASS", summary, values=values)


def label_counts(context: Context) -> Finding:
    """Does each split have all classes, often enough to learn and score? Are quantities similar in the splits?"""
    surveys = {split: survey(context, split) for split in context.datasets}
    train, known = surveys["train"], dict[bytes, list[float]]()
    pairs = zip(train.inputs, train.labels, strict=True)
    num_contradictions = sum(known.setdefault(content, labels) != labels for content, labels in pairs)
    if num_contradictions > MAX_CONTRADICTIONS * len(train.positions):
        explanation = f"{num_contradictions} train examples have the same inputs as another one, but other labels"
        return Finding("WARN", explanation, "no net can learn both: look at them, and correct the labels")
    return _quantities(surveys) if context.first_labels().is_floating_point() else _classes(context, surveys)


def _classes(context: Context, surveys: dict[str, Survey]) -> Finding:
    counts = {split: collections.Counter(int(v) for each in s.labels for v in each) for split, s in surveys.items()}
    train, name = counts["train"], context.class_name
    if not train:
        explanation = f"all labels of train are {IGNORED_LABEL}, which neither the loss nor a metric counts"
        return Finding("FAIL", explanation, f"look at what the dataset returns: {IGNORED_LABEL} is for padding alone")
    for split, s in surveys.items():
        share, is_whole = len(s.positions) / len(surveys["train"].positions), len(s.positions) == s.num_all
        # a sample may lack a rare class by chance
        missing = [c for c, n in sorted(train.items()) if not counts[split][c] and (is_whole or n * share > 10)]
        if len(missing) < len(train) / 2 and are_next_tokens(context.sample("train", 8)):
            continue  # a text lacks some of the rare tokens
        if missing:
            names = ", ".join(map(name, missing[:5])) + (", ..." if len(missing) > 5 else "")
            # if half of them are missing, a file was cut without shuffling
            status = "FAIL" if len(missing) > len(train) / 2 else "WARN"
            explanation = f"{len(missing)} of {len(train)} classes are not in {split}: {names}"
            return Finding(status, explanation, f"split again so that {split} has some of each; shuffle first")
    (most, number), (least, rare) = train.most_common(1)[0], train.most_common()[-1]
    share, is_scalar = number / train.total(), all(len(labels) == 1 for labels in surveys["train"].labels)
    summary = f"{len(train)} classes in each split; {name(most)} is {share:.1%} of train, {name(least)} "
    summary += f"{rare / train.total():.1%} ({surveys['train'].size})"
    values = {split: {name(n): count for n, count in sorted(c.items())} for split, c in counts.items()}
    if share > ONE_SIDED and context.params.monitor == "accuracy":
        advice = "accuracy says little here: monitor a metric that weighs all classes equally, such as macro_f1"
        return Finding("WARN", summary, advice, values)
    if is_scalar and number > RARE * rare:
        return Finding("WARN", summary, "weigh rare classes more in the loss (class_weights), or collect more", values)
    return Finding("PASS", summary, values=values)


def _quantities(surveys: dict[str, Survey]) -> Finding:
    targets = {split: torch.tensor([v for labels in s.labels for v in labels]) for split, s in surveys.items()}
    values = {split: {"mean": float(t.mean()), "std": float(t.std())} for split, t in targets.items()}
    train = targets["train"]
    for split, target in targets.items():
        if not target.isfinite().all():
            return Finding("FAIL", f"labels of {split} are NaN or infinite", "correct or drop these examples", values)
        gap = float((target.mean() - train.mean()).abs() / train.std())
        if gap > max(0.5, 5 / len(target) ** 0.5):
            explanation = f"the mean of {split} is {gap:.1f} standard deviations from that of train"
            return Finding("WARN", explanation, "are they from one source, and shuffled before they were cut?", values)
    summary = f"quantities with mean {float(train.mean()):.3g} and std {float(train.std()):.3g} in train"
    return Finding("PASS", f"{summary} ({surveys['train'].size}), similar in the splits", values=values)


def augmentation(context: Context) -> Finding:
    """Does augmentation change inputs of train, from epoch to epoch, and neither labels nor anything of val?"""

    def read(split: str, seed: int, is_augmented: bool = False) -> list[tuple[Any, Tensor]]:
        seed_everything(context.params.seed, seed)
        if is_augmented:
            return list(context.augmented_batches(context.choose(split, NUM_AUGMENTED), epoch=seed))
        return list(context.sample(split, NUM_AUGMENTED))

    for split in context.datasets:
        if split != "train" and not _same(read(split, 1), read(split, 2)):
            explanation = f"{split} is not the same when it is read twice"
            return Finding("FAIL", explanation, "in fetch_dataset, augment only where split is 'train'")
    plain, again = read("train", 1), read("train", 2)
    first, second = read("train", 1, is_augmented=True), read("train", 2, is_augmented=True)
    for batches in (again, first, second):
        if are_next_tokens(plain) and are_next_tokens(batches):
            continue  # windows of a text at other places have other labels
        pairs = [(a, b) for (_, a), (_, b) in zip(plain, batches, strict=True)]
        num_changed = sum(int((a != b).sum()) if a.shape == b.shape else a.numel() for a, b in pairs)
        if num_changed:
            explanation = f"{num_changed} labels of {NUM_AUGMENTED} train examples change with the augmentation"
            return Finding("FAIL", explanation, "augment inputs only, or transform the labels in the same way")
    if not _same(plain, again):
        advice = "augment only after set_epoch was called, as model/__init__.py says"
        return Finding("WARN", "train is augmented even where it is only evaluated", advice)
    if not _same(first, second):
        return Finding("PASS", "changes inputs of train in each epoch; no labels, and no other split")
    if _same(plain, first):
        return Finding("PASS", "nothing is augmented")
    advice = "draw random numbers that depend on the epoch, in the dataset's set_epoch"
    return Finding("WARN", "augmentation does the same in each epoch", advice)


def _same(first: Iterable[Any], second: Iterable[Any]) -> bool:
    pairs = zip(tensors_of(first), tensors_of(second), strict=True)
    return all(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)
