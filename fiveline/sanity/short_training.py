"""Checks of a short training: the baseline to beat, and whether the labels belong to the inputs."""

from __future__ import annotations

import collections
import functools
import itertools
import math

import torch
from torch import nn

import utils
from fiveline.device import tensors_of
from fiveline.sanity import Finding
from fiveline.sanity.context import Batches, Context, outputs_of
from fiveline.sanity.first_steps import NOT_BY_HEART, learn_by_heart
from fiveline.sanity.guesses import Constant, score
from fiveline.sanity.hyperparameters import range_test
from fiveline.serving.interface import find_class_axis

NUM_TRAIN, NUM_HELD_OUT, NUM_OTHER = 3000, 200, 400  # examples of train, set apart from it, of another split
ROUND_STEPS, NUM_STEPS = 30, 300
# shares of the best constant's loss: below them, a net has learnt something, clearly something, enough to stop
LEARNT, CLEARLY_LEARNT, WELL_LEARNT = 0.95, 0.8, 0.4
SWAPPED, MIN_OF_CLASS = 0.3, 4  # share of a class that is taken for one other; examples that it needs
MIXED_UP = "look at inputs and labels: same order, same number, shuffled together, images not mirrored or rotated?"


def baseline(context: Context) -> Finding:
    """Which metrics does the best constant output reach, which ignores the inputs?"""
    batches = outputs_of(context.fetch_trainer().model.eval(), context.sample("val", NUM_OTHER))
    scores = fit_constant(context).score(batches, context.metrics)
    summary = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    return Finding("PASS", f"the best constant output has {summary} on val", values=scores)


@functools.lru_cache(maxsize=1)
def fit_constant(context: Context) -> Constant:
    """Return the constant with the least loss on train."""
    model = context.fetch_trainer().model.eval()
    return Constant(context.loss_fn, outputs_of(model, context.sample("train", NUM_TRAIN // 4)))


def labels_fit(context: Context) -> Finding:
    """Does a net that is trained on train also do well on held-out examples of train, and on the other splits?"""
    model, values = fit_shortly(context)
    held_out, others = values["held_out"], [split for split in context.datasets if split != "train"]
    shares = "".join(f"{values[split]:.0%} on {split}, " for split in others)
    summary = f"after {values['steps']} steps, {held_out:.0%} of the baseline's loss on examples of train set apart, "
    summary += f"{shares}{values['train']:.0%} on the examples trained on"
    shifts = (-1, 1) if context.first_labels().dim() == 1 else ()
    for split in others:
        if max(held_out, values[split]) < LEARNT:
            if swapped := _swapped(context, model, split):
                return Finding("FAIL", f"in {split}, labels of {swapped} look swapped: {summary}", MIXED_UP, values)
            if 1 - values[split] < 0.4 * (1 - held_out) - 0.1:
                return Finding("WARN", f"much less holds on {split}: {summary}", MIXED_UP, values)
        elif held_out < CLEARLY_LEARNT:
            explanation = f"nothing holds on {split}, whose labels do not belong to its inputs"
            neighbours = [context.sample(split, NUM_OTHER, shift) for shift in shifts]
            if any(_share_of_loss(context, model, batches) < LEARNT for batches in neighbours):
                explanation += " but to those beside them (shifted by one)"
            return Finding("FAIL", f"{explanation}: {summary}", MIXED_UP, values)
    if max(held_out, *(values[split] for split in others)) < LEARNT:
        return Finding("PASS", summary, values=values)
    if learn_by_heart(context) > NOT_BY_HEART:
        return Finding("WARN", f"nothing is learnt: {summary}", "fix what overfit_batch found first", values)
    for shift in shifts:
        if fit_shortly(context, shift)[1]["held_out"] < min(CLEARLY_LEARNT, held_out - 0.1):
            explanation = f"labels fit the inputs of the example {'after' if shift < 0 else 'before'} theirs"
            return Finding("FAIL", f"shifted by one: {explanation}; {summary}", MIXED_UP, values)
    status = "WARN" if min(held_out, values["val"]) < LEARNT else "FAIL"
    explanation = f"the net can overfit a few examples, but nothing holds on others: {summary}"
    return Finding(status, explanation, f"do the inputs decide the labels? If they should, {MIXED_UP}", values)


def fit_shortly(context: Context, shift: int = 0) -> tuple[nn.Module, dict[str, float]]:
    """Train for a few hundred steps at most, without augmentation, on labels that are shifted by `shift` examples.

    Returns:
        the net; the number of `steps`, and the least losses, as shares of the best constant's, on examples of `train`
        that it was trained on, on those that were `held_out`, on `val`, and on `test` if there is one
    """
    chosen = context.choose("train", NUM_TRAIN)
    generator = torch.Generator().manual_seed(context.params.seed + 1)
    order = [chosen[i] for i in torch.randperm(len(chosen), generator=generator).tolist()]
    num_held_out = min(NUM_HELD_OUT, len(order) // 5)
    held_out, rest = sorted(order[:num_held_out]), sorted(order[num_held_out:])
    curve, learning_rate = range_test(context), context.params.learning_rate
    if not curve["steepest"] / 30 <= learning_rate <= curve["least"]:  # the check learning_rate reports that
        learning_rate = curve["steepest"]
    size = max(2, min(context.params.batch_size, 64, len(rest) // 4))
    trainer = context.fetch_trainer(learning_rate=learning_rate)
    sets = {split: context.sample(split, NUM_OTHER) for split in context.datasets if split != "train"}
    sets["train"] = context.batches("train", rest[:: max(1, len(rest) // NUM_HELD_OUT)], size, shift)
    sets["held_out"] = context.batches("train", held_out, size, shift)
    found = dict.fromkeys(sets, math.inf)
    batches = iter(context.train_batches(rest, size, NUM_STEPS, shift))
    steps = 0
    while steps < NUM_STEPS and max(found[name] for name in sets if name != "train") >= WELL_LEARNT:
        try:
            for inputs, labels in itertools.islice(batches, ROUND_STEPS):
                trainer.step(inputs, labels)
        except utils.DivergedError:
            break
        steps += ROUND_STEPS
        found = {name: min(found[name], _share_of_loss(context, trainer.model, sets[name])) for name in sets}
    return trainer.model, {**found, "steps": steps}


def _share_of_loss(context: Context, model: nn.Module, batches: Batches) -> float:
    """Return the loss of a net as a share of the best constant's."""
    outputs = outputs_of(model.eval(), batches)
    return score(context.loss_fn, outputs)["loss"] / max(fit_constant(context).score(outputs)["loss"], 1e-9)


def _swapped(context: Context, model: nn.Module, split: str) -> str:
    """Return two classes that are taken for each other more often than they are recognised, or ''."""
    totals, pairs = collections.Counter[int](), collections.Counter[tuple[int, int]]()
    for outputs, labels in outputs_of(model.eval(), context.sample(split, NUM_OTHER)):
        axis = find_class_axis(outputs, labels)
        if axis is None:
            return ""
        totals.update(labels.flatten().tolist())
        predicted = tensors_of(outputs)[0].argmax(axis)
        pairs.update(zip(labels.flatten().tolist(), predicted.flatten().tolist(), strict=True))
    often = {
        (label, other)
        for (label, other), number in pairs.items()
        if totals[label] >= MIN_OF_CLASS and number > max(SWAPPED * totals[label], pairs[label, label])
    }
    for label, other in sorted(often):
        if 0 <= label < other and (other, label) in often:
            return f"{context.class_name(label)} and {context.class_name(other)}"
    return ""
