"""Checks of the evaluation: eval mode, each example by itself, repeatable, any batch size, unscored labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fiveline.device import map_tensors, seed_everything, tensors_of
from fiveline.metrics import IGNORED_LABEL
from fiveline.sanity import Finding, guesses
from fiveline.sanity.context import Batches, Context, outputs_of

NUM_EXAMPLES, NUM_ALONE, SMALL_BATCH = 150, 8, 7  # examples of val
TOLERANCE = 2e-3  # largest difference of outputs, over their spread


def eval_mode(context: Context) -> Finding:
    """Is the net in eval mode while it is evaluated, and does evaluation leave its weights and buffers as they are?"""
    model = warm(context)
    model.train()
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    wrong: set[str] = set()

    def note(module: nn.Module, *_: Any) -> None:
        if module.training:
            wrong.add(type(module).__name__)

    for module in model.modules():
        module.register_forward_pre_hook(note)
    context.evaluate(model, context.sample("val", NUM_EXAMPLES))
    after = {name: entry.nan_to_num() for name, entry in model.state_dict().items()}
    changed = [name for name, entry in after.items() if not torch.equal(entry, before[name].nan_to_num())]
    advice = "call model.eval() before evaluating, and let Net.train() reach all modules"
    if changed:
        return Finding("FAIL", f"evaluating changes {', '.join(changed[:3])}: batch norm learns from val", advice)
    if wrong:
        return Finding("FAIL", f"in train mode while it is evaluated: {', '.join(sorted(wrong)[:3])}", advice)
    return Finding("PASS", "all modules are in eval mode, and evaluating leaves them as they are")


def own_example(context: Context) -> Finding:
    """In eval mode, do outputs depend on the example alone, not on the others in its batch?"""
    model = warm(context).eval()
    indices = context.choose("val", NUM_ALONE + 1)
    distances = []
    [(together, _)] = outputs_of(model, context.batches("val", indices, len(indices)))
    for place, (outputs, _) in enumerate(outputs_of(model, context.batches("val", indices, 1))):
        for alone, every in zip(tensors_of(outputs), tensors_of(together), strict=True):
            region = tuple(slice(0, size) for size in alone[0].shape)  # in a batch it may be padded
            difference = (alone[0] - every[place][region]).abs().max()
            distances.append(float(difference / (every.float().std() + 1e-12)))
    worst = float(torch.tensor(distances).max())  # NaN if one of them is NaN
    summary, values = f"alone and in a batch, outputs differ by {worst:.1g} of their spread", {"difference": worst}
    if worst <= TOLERANCE:
        return Finding("PASS", summary, values=values)
    advice = "look for means over the batch (dim 0), batch norm in train mode, and padding that changes outputs"
    return Finding("FAIL", summary, advice, values)


def repeatable(context: Context) -> Finding:
    """Does evaluating twice give the same numbers?"""
    model, found = warm(context), []
    for seed in (1, 2):
        seed_everything(seed)
        found.append(context.evaluate(model, context.sample("val", NUM_EXAMPLES)))
    if differing := _differing(found, 1e-6):
        advice = "dropout without self.training? Augmentation of val? Random numbers in loss_fn?"
        return Finding("FAIL", f"a second time, val has other metrics: {differing}", advice)
    return Finding("PASS", "a second evaluation of val gives the same metrics", values=found[0])


def batch_size(context: Context) -> Finding:
    """Are metrics the same whatever the batch size?"""
    model, indices = warm(context), context.choose("val", NUM_EXAMPLES)
    uneven = [part for part in (indices[:SMALL_BATCH], indices[SMALL_BATCH:]) if part]
    val, sizes = context.datasets["val"], f"in batches of {' and '.join(str(len(part)) for part in uneven)}"
    found = [context.evaluate(model, Batches(val, chosen, context.device)) for chosen in (uneven, [indices])]
    if differing := _differing(found, TOLERANCE):
        explanation = f"{sizes}, val has other metrics than in one of {len(indices)}: {differing}"
        advice = "a metric returns sums, (numerator, denominator); a loss_fn, the mean over the scored labels"
        return Finding("FAIL", explanation, advice, {"metrics": found})
    return Finding("PASS", f"the same metrics {sizes} as in one of {len(indices)}", values={"metrics": found})


def unscored_labels(context: Context) -> Finding:
    """Do losses and metrics leave out labels of -100?"""
    inputs, labels = next(iter(context.sample("val", context.small_batch_size)))
    half = len(labels) // 2
    if labels.dim() < 2 or labels.is_floating_point() or not half:
        return Finding("PASS", "each example has one label: there are none to leave out")
    trainer = context.fetch_trainer()
    [(outputs, labels)] = outputs_of(trainer.model.eval(), [(inputs, labels)])
    first = map_tensors(lambda tensor: tensor[:half], outputs), labels[:half]
    hidden = torch.cat([labels[:half], torch.full_like(labels[half:], IGNORED_LABEL)])
    found = []
    for batch in (first, (outputs, hidden)):
        scores = guesses.score(context.loss_fn, [batch], context.metrics)
        found.append({**scores, "train loss": guesses.score(trainer.loss_fn, [batch])["loss"]})
    if differing := _differing(found, TOLERANCE):
        explanation = f"labels of {IGNORED_LABEL} (padding) are counted: with and without them, {differing}"
        advice = f"leave {IGNORED_LABEL} out of the sum and of the number: labels != {IGNORED_LABEL}"
        return Finding("FAIL", explanation, advice, {"metrics": found})
    return Finding("PASS", f"labels of {IGNORED_LABEL} change neither a loss nor a metric")


def warm(context: Context) -> nn.Module:
    """Return a net after a few steps, whose running means have moved away from their initial values."""
    trainer = context.fetch_trainer(learning_rate=min(context.params.learning_rate, 1e-3))
    for inputs, labels in context.train_batches(context.choose("train", 256), context.small_batch_size, 5):
        trainer.step(inputs, labels)
    return trainer.model


def _differing(found: list[dict[str, float]], tolerance: float) -> str:
    """Return the metrics that differ between two evaluations, with both values, or ''."""
    first, second = found
    are_close = np.isclose(list(first.values()), list(second.values()), tolerance, 1e-6, equal_nan=True)
    names = [name for name, is_close in zip(first, are_close, strict=True) if not is_close]
    return ", ".join(f"{name} {first[name]:.4f} and {second[name]:.4f}" for name in names[:3])
