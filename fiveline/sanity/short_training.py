"""Checks of a short training: the baseline to beat, and whether the labels belong to the inputs."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import utils
from fiveline.device import map_tensors, to_device
from fiveline.metrics import MetricSums
from fiveline.sanity import Finding
from fiveline.sanity.context import Batches, Context
from fiveline.sanity.first_steps import NOT_BY_HEART, learn_by_heart
from fiveline.sanity.guesses import Constant
from fiveline.sanity.rate import range_test
from fiveline.sanity.survey import survey

NUM_TRAIN, NUM_HELD_OUT, NUM_VAL = 3000, 200, 400
ROUND_STEPS, NUM_ROUNDS = 30, 10
LEARNT = 0.95  # of the loss of the best constant: a net below it has learnt something
CLEARLY_LEARNT = 0.8  # the same; less may be chance
WELL_LEARNT = 0.4  # the same; enough to stop
SWAPPED, MIN_OF_CLASS = 0.3, 4  # share of a class that is taken for one other; examples that it needs
CLEARLY_BETTER = 0.8  # of the loss: a split whose images were all turned by mistake
TURNS: dict[str, Callable[[Tensor], Tensor]] = {  # of images, (batch_size, channels, height, width)
    "mirrored": lambda images: images.flip(3),
    "upside down": lambda images: images.flip(2),
    "turned by 180 degrees": lambda images: images.flip(2, 3),
    "transposed": lambda images: images.mT,
    "with red and blue swapped": lambda images: images.flip(1),
}
MIXED_UP = "look at inputs with their labels: are they sorted alike, is one list longer, was only one shuffled?"


@dataclasses.dataclass
class Fit:
    """The result of a short training.

    Args:
        model: at the end
        steps: how many were taken
        losses: of `train` (examples trained on), `held_out` (examples of train set apart) and `val`, the least of
            all rounds, as a share of the loss of the best constant
        metrics: of val, at the end
    """

    model: nn.Module
    steps: int
    losses: dict[str, float]
    metrics: dict[str, float]

    @property
    def summary(self) -> str:
        """The losses, in words."""
        train, held_out, val = (f"{self.losses[name]:.0%}" for name in ("train", "held_out", "val"))
        return (
            f"after {self.steps} steps, {held_out} of the baseline's loss on examples of train set apart, "
            f"{val} on val, {train} on the examples trained on"
        )


def baseline(context: Context) -> Finding:
    """Which metrics does the best answer reach that ignores the inputs?"""
    sums, constant = MetricSums(context.metrics), fit_constant(context)
    for outputs, labels in _outputs(context, context.batches("val", context.choose("val", NUM_VAL), context.few)):
        guess = map_tensors(lambda tensor: tensor.detach().clone(), constant.like(outputs))
        sums.add(guess, labels, context.loss_fn(guess, labels))
    scores = sums.result()
    summary = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    return Finding("PASS", f"always the same answer has {summary} on val", values=scores)


@functools.lru_cache(maxsize=1)
def fit_constant(context: Context) -> Constant:
    """Return the constant with the least loss on train."""
    batches = context.batches("train", context.choose("train", NUM_TRAIN // 4), context.few)
    return Constant(context.loss_fn, _outputs(context, batches))


def _outputs(context: Context, batches: Batches, model: nn.Module | None = None) -> list[tuple[Any, Tensor]]:
    """Return (outputs, labels) of each batch, on the CPU, in eval mode."""
    model = (context.fetch_trainer().model if model is None else model).eval()
    with torch.no_grad():
        return [to_device((model(inputs), labels), torch.device("cpu")) for inputs, labels in batches]


def labels_fit(context: Context) -> Finding:
    """Does what is learnt from train hold on examples of train that were set apart, and on val?"""
    fit = fit_shortly(context)
    held_out, val, summary, values = fit.losses["held_out"], fit.losses["val"], fit.summary, {**fit.losses}
    values["steps"] = fit.steps
    if held_out < LEARNT and (turned := _turned(context, fit.model)):
        advice = "look at images of both splits, as the data loader gives them; read all splits in the same way"
        return Finding("FAIL", f"{turned} than as they are: {summary}", advice, values)
    if max(held_out, val) < LEARNT:
        if swapped := _swapped(context, fit.model):
            return Finding("FAIL", f"in val, labels of {swapped} look swapped: {summary}", MIXED_UP, values)
        if 1 - val < 0.4 * (1 - held_out) - 0.1:
            return Finding("WARN", f"much less holds on val: {summary}", f"another kind of data? Or {MIXED_UP}", values)
        shown = {name: fit.metrics[name] for name in fit.metrics if name in (context.params.monitor, "loss")}
        return Finding("PASS", f"{summary} ({utils.format_metrics(shown)})", values=values)
    shifts = (-1, 1) if context.first_labels().dim() == 1 else ()
    if held_out < CLEARLY_LEARNT:
        explanation = "nothing holds on val, whose labels do not belong to its inputs"
        if any(_fits_shifted(context, fit.model, shift) for shift in shifts):
            explanation += " but to those beside them (shifted by one)"
        return Finding("FAIL", f"{explanation}: {summary}", MIXED_UP, values)
    if learn_by_heart(context) > NOT_BY_HEART:
        return Finding("WARN", f"nothing is learnt: {summary}", "fix what overfit_batch found first", values)
    for shift in shifts:
        if fit_shortly(context, shift).losses["held_out"] < min(CLEARLY_LEARNT, held_out - 0.1):
            explanation = f"labels fit the inputs of the example {'after' if shift < 0 else 'before'} theirs"
            return Finding("FAIL", f"shifted by one: {explanation}; {summary}", MIXED_UP, values)
    status = "WARN" if min(held_out, val) < LEARNT else "FAIL"
    explanation = f"a few examples can be learnt by heart, but nothing holds on others: {summary}"
    advice = f"the labels belong to other inputs, or the inputs do not decide them; {MIXED_UP}"
    return Finding(status, explanation, advice, values)


def fit_shortly(context: Context, shift: int = 0) -> Fit:
    """Train for a few hundred steps at most, without augmentation.

    Args:
        context: the run
        shift: give each train example the label of the one this many positions later
    """
    chosen = context.choose("train", NUM_TRAIN)
    generator = torch.Generator().manual_seed(context.params.seed + 1)
    order = [chosen[i] for i in torch.randperm(len(chosen), generator=generator).tolist()]
    num_held_out = min(NUM_HELD_OUT, len(order) // 5)
    held_out, rest = sorted(order[:num_held_out]), sorted(order[num_held_out:])
    curve, learning_rate = range_test(context), context.params.learning_rate
    if not curve["steepest"] / 30 <= learning_rate <= curve["least"]:  # learning_rate reports that
        learning_rate = curve["steepest"]
    size = max(2, min(context.params.batch_size, 64, len(rest) // 4))
    trainer = context.fetch_trainer(learning_rate=learning_rate, batch_size=size)
    sets = {
        "train": context.batches("train", rest[:: max(1, len(rest) // NUM_HELD_OUT)], size, shift),
        "held_out": context.batches("train", held_out, size, shift),
        "val": context.batches("val", context.choose("val", NUM_VAL), size),
    }
    baselines = {name: _baseline_loss(context, batches) for name, batches in sets.items()}
    fit = Fit(trainer.model, 0, dict.fromkeys(sets, math.inf), {})
    batches = iter(context.train_batches(rest, size, ROUND_STEPS * NUM_ROUNDS, shift))
    while fit.steps < ROUND_STEPS * NUM_ROUNDS and max(fit.losses["held_out"], fit.losses["val"]) >= WELL_LEARNT:
        try:
            for inputs, labels in itertools.islice(batches, ROUND_STEPS):
                trainer.step(inputs, labels)
        except utils.DivergedError:
            break
        fit.steps += ROUND_STEPS
        for name, each in sets.items():
            fit.metrics = context.evaluate(trainer.model, each)  # at the end of val, the last
            fit.losses[name] = min(fit.losses[name], fit.metrics["loss"] / max(baselines[name], 1e-9))
    return fit


def _baseline_loss(context: Context, batches: Batches) -> float:
    return fit_constant(context).loss(_outputs(context, batches))


def _fits_shifted(context: Context, model: nn.Module, shift: int) -> bool:
    batches = context.batches("val", context.choose("val", NUM_VAL), context.few, shift)
    return context.evaluate(model, batches)["loss"] < LEARNT * _baseline_loss(context, batches)


def _turned(context: Context, model: nn.Module) -> str:
    """Return a split whose images fit clearly better when all are turned in one way, and that way; or ''."""

    def turned(batches: Batches, turn: Callable[[Tensor], Tensor]) -> Iterator[tuple[Any, Tensor]]:
        for inputs, labels in batches:
            images = turn(inputs)
            yield (images if images.shape == inputs.shape else inputs), labels

    def loss(batches: Iterable[Any]) -> float:
        return context.evaluate(model, batches, {})["loss"]

    for split in [split for split in context.datasets if split != "train" and survey(context, "train").is_image]:
        batches = context.batches(split, context.choose(split, NUM_VAL), context.few)
        least, best = min((loss(turned(batches, turn)), name) for name, turn in TURNS.items())
        # the first condition because a worse guess may only be less sure
        if least < LEARNT * _baseline_loss(context, batches) and least < CLEARLY_BETTER * loss(batches):
            return f"images of {split} fit better {best}"
    return ""


def _swapped(context: Context, model: nn.Module) -> str:
    """Return two classes of val that are taken for each other more often than they are recognised, or ''."""
    counts: dict[tuple[int, int], int] = collections.Counter()
    for outputs, labels in _outputs(
        context, context.batches("val", context.choose("val", NUM_VAL), context.few), model
    ):
        if labels.is_floating_point() or not isinstance(outputs, Tensor) or outputs.dim() != labels.dim() + 1:
            return ""
        dim = -1 if outputs.shape[: labels.dim()] == labels.shape else 1  # of the classes
        counts.update(zip(labels.flatten().tolist(), outputs.argmax(dim).flatten().tolist(), strict=True))

    def is_taken_for(label: int, other: int) -> bool:
        total = sum(number for (each, _), number in counts.items() if each == label)
        number = counts[label, other]
        return total >= MIN_OF_CLASS and number > SWAPPED * total and number > counts[label, label]

    for label, other in sorted(counts):
        if 0 <= label < other and is_taken_for(label, other) and is_taken_for(other, label):
            return f"{context.class_name(label)} and {context.class_name(other)}"
    return ""
