"""Checks of the evaluation: eval mode, each example by itself, repeatable, independent of the batch size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import evaluate
import train
from fiveline.device import seed_everything, tensors_of
from fiveline.sanity.context import Context, Finding

NUM_EXAMPLES = 150  # of val
NUM_ALONE = 8
TOLERANCE = 2e-3  # of outputs, over their spread
SMALL_BATCH = 7


def eval_mode(context: Context) -> Finding:
    """Is the net in eval mode while it is evaluated, and does it stay as it is?"""
    model = warm(context)
    model.train()
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    wrong: set[str] = set()

    def note(name: str, module: nn.Module) -> None:
        if module.training:
            wrong.add(f"{name or 'the net'} ({type(module).__name__})")

    handles = [
        module.register_forward_pre_hook(lambda module, _, name=name: note(name, module))
        for name, module in model.named_modules()
    ]
    evaluate.evaluate(model, context.net.loss_fn, _val(context, context.few), context.metrics)
    for handle in handles:
        handle.remove()
    changed = [name for name, entry in model.state_dict().items() if not _equal(entry, before[name])]
    if changed:
        explanation = f"evaluating changes {', '.join(changed[:3])}: batch norm learns from val"
        return Finding("FAIL", explanation, "call model.eval() before evaluating; never batch_norm(..., training=True)")
    if wrong:
        explanation = f"in train mode while it is evaluated: {', '.join(sorted(wrong)[:3])}"
        return Finding(
            "FAIL", explanation, "call model.eval() before evaluating, and let Net.train() reach all modules"
        )
    return Finding("PASS", "all modules are in eval mode, and evaluating leaves them as they are", "nothing to do")


def own_example(context: Context) -> Finding:
    """In eval mode, do outputs depend on the example alone, not on the others of its batch?"""
    model = warm(context).eval()
    indices = context.choose("val", NUM_ALONE + 1)
    distances, tensors_together = [], tensors_of(_outputs(model, context, indices))
    for place, index in enumerate(indices):
        for alone, together in zip(tensors_of(_outputs(model, context, [index])), tensors_together, strict=True):
            region = tuple(slice(0, size) for size in alone[0].shape)  # in a batch it may be padded
            spread = float(together.float().std()) + 1e-12
            distances.append(float((alone[0] - together[place][region]).abs().max()) / spread)
    worst = max(distances) if all(map(math.isfinite, distances)) else math.nan  # max() passes over NaN
    told = f"alone and in a batch, outputs differ by {worst:.1g} of their spread"
    if not worst <= TOLERANCE:
        advice = "look for means over the batch (dim 0), batch norm in train mode, and padding that is looked at"
        return Finding("FAIL", told, advice, {"difference": worst})
    return Finding("PASS", told, "predictions can be made in batches of any kind", {"difference": worst})


def repeatable(context: Context) -> Finding:
    """Does evaluating twice give the same numbers?"""
    model = warm(context)
    found = []
    for seed in (1, 2):
        seed_everything(seed)
        found.append(evaluate.evaluate(model, context.net.loss_fn, _val(context, context.few), context.metrics))
    differing = _differences(found, 1e-6)
    if differing:
        advice = "dropout without self.training? Augmentation of val? Random numbers in loss_fn?"
        return Finding("FAIL", f"a second time, val has other metrics: {differing}", advice)
    told = ", ".join(f"{name} {value:.4f}" for name, value in list(found[0].items())[-3:])
    return Finding("PASS", f"twice the same on val ({told} with random weights)", "nothing to do", found[0])


def batch_size(context: Context) -> Finding:
    """Are metrics the same whatever the batch size?"""
    model = warm(context)
    sizes = (SMALL_BATCH, NUM_EXAMPLES)
    found = [evaluate.evaluate(model, context.net.loss_fn, _val(context, size), context.metrics) for size in sizes]
    differing = _differences(found, TOLERANCE)
    if differing:
        explanation = f"in batches of {sizes[0]} and of {sizes[1]}, val has other metrics: {differing}"
        advice = "a metric returns sums, (numerator, denominator); a loss_fn, the mean over the scored labels"
        return Finding("FAIL", explanation, advice, {"batch_sizes": sizes, "metrics": found})
    told = f"the same metrics in batches of {sizes[0]} and of {sizes[1]}"
    return Finding("PASS", told, "evaluate in batches as large as fit", {"metrics": found})


def warm(context: Context) -> nn.Module:
    """Return a net after a few steps, so that no running mean is what it began as."""
    training = context.fetch_training(learning_rate=min(context.params.learning_rate, 1e-3))
    training.model.train()
    for inputs, labels in context.train_batches(context.choose("train", 256), context.few, 5):
        train.train_step(training.model, training.optimizer, training.loss_fn, inputs, labels)
    return training.model


def _val(context: Context, size: int) -> Any:
    return context.batches("val", context.choose("val", NUM_EXAMPLES), size)


def _outputs(model: nn.Module, context: Context, indices: list[int]) -> Any:
    with torch.inference_mode():
        return model(next(iter(context.batches("val", indices, len(indices))))[0])


def _equal(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.nan_to_num(), second.nan_to_num()) if first.is_floating_point() else first.equal(second)


def _differences(found: list[dict[str, float]], tolerance: float) -> str:
    """Return the metrics that differ between two evaluations, with both values, or ''."""
    first, second = found
    differing = [
        f"{name} {first[name]:.4f} and {second[name]:.4f}"
        for name in first
        if not math.isclose(first[name], second[name], rel_tol=tolerance, abs_tol=1e-6)
        and not (math.isnan(first[name]) and math.isnan(second[name]))
    ]
    return ", ".join(differing[:3])
