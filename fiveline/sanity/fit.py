"""Checks of a short training: the baseline to beat, and whether the labels are those of the inputs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import evaluate
import train
import utils
from fiveline.device import map_tensors, to_device
from fiveline.sanity import guesses, rate
from fiveline.sanity.context import Batches, Context, FewSteps, Finding
from fiveline.sanity.learning import NOT_BY_HEART, learn_by_heart

NUM_TRAIN, NUM_HELD_OUT, NUM_VAL = 3000, 200, 400
ROUND_STEPS, NUM_ROUNDS, MOST_SECONDS = 30, 10, 12.0
LEARNT = 0.95  # of the loss of the best constant: what is below has learnt something
CLEARLY_LEARNT = 0.8  # the same; less may be chance
WELL_LEARNT = 0.4  # the same; then it need not be trained any more
SWAPPED = 0.3  # share of a class that is taken for one other, and the other for it; more often than it is recognised
MIN_OF_CLASS = 4
CLEARLY_BETTER = 0.8  # of the loss as it is: a split whose images were all turned by mistake
TURNS: dict[str, Callable[[Tensor], Tensor]] = {  # of images, (batch_size, channels, height, width)
    "mirrored": lambda images: images.flip(3),
    "upside down": lambda images: images.flip(2),
    "turned by 180 degrees": lambda images: images.flip(2, 3),
    "transposed": lambda images: images.mT,
    "with red and blue swapped": lambda images: images.flip(1),
}


@dataclasses.dataclass
class Fit:
    """What a short training came to: losses over those of the best constant, at best.

    Args:
        train: of the examples trained on
        held_out: of examples of train that were kept apart
        val: of val
        metrics: of val, at the end
        steps: how many there were
        model: at the end
    """

    train: float
    held_out: float
    val: float
    metrics: dict[str, float]
    steps: int
    model: Any


def baseline(context: Context) -> Finding:
    """What does the best answer score that does not look at the inputs?"""
    constant, outputs_of_val = context.once(fit_constant)
    scores = constant.score(context.net.loss_fn, context.metrics, outputs_of_val)
    told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    name = context.params.monitor
    advice = f"a run is worth something when its {name} on val is clearly better than {scores.get(name, math.nan):.3f}"
    return Finding("PASS", f"always the same answer has {told} on val", advice, scores)


def fit_constant(context: Context) -> tuple[guesses.Constant, list[tuple[Any, Tensor]]]:
    """Return the constant with the least loss on train, and (outputs, labels) of val, whose outputs are but shapes."""
    model = context.fetch_model()
    found = {}
    for split, number in (("train", NUM_TRAIN // 4), ("val", NUM_VAL)):
        batches = context.batches(split, context.choose(split, number), context.few)
        pairs = evaluate.fetch_outputs(model, batches)
        cpu = torch.device("cpu")
        found[split] = [map_tensors(torch.clone, to_device(pair, cpu)) for pair in pairs]
    return guesses.Constant(context.net.loss_fn, found["train"]), found["val"]


def labels_fit(context: Context) -> Finding:
    """Does what is learnt from train hold on examples of train that were kept apart, and on val?"""
    fit = fit_shortly(context)
    values = {name: getattr(fit, name) for name in ("train", "held_out", "val", "steps")}
    told = f"after {fit.steps} steps, {fit.held_out:.0%} of the baseline's loss on examples of train kept apart, "
    told += f"{fit.val:.0%} on val, {fit.train:.0%} on those trained on"
    mix = "look at inputs with their labels: are they sorted alike, is one list longer, was only one shuffled?"
    turned = _turned(context, fit.model) if fit.held_out < LEARNT else ""
    if turned:
        advice = "look at images of both splits, as the data loader gives them; read all splits in the same way"
        return Finding("FAIL", f"{turned} than as they are: {told}", advice, values)
    if max(fit.held_out, fit.val) < LEARNT:
        swapped = _swapped(context, fit.model)
        if swapped:
            return Finding("FAIL", f"in val, labels of {swapped} look swapped: {told}", mix, values)
        if 1 - fit.val < 0.4 * (1 - fit.held_out) - 0.1:
            return Finding("WARN", f"much less holds on val: {told}", f"another kind of data? Or {mix}", values)
        shown = {name: fit.metrics[name] for name in fit.metrics if name in (context.params.monitor, "loss")}
        return Finding("PASS", f"{told} ({utils.format_metrics(shown)})", "the labels are those of the inputs", values)
    if fit.held_out < CLEARLY_LEARNT:
        shifted = _shift_of_val(context, fit)
        explanation = f"nothing holds on val, whose labels are not those of its inputs{shifted}: {told}"
        return Finding("FAIL", explanation, mix, values)
    if context.once(learn_by_heart) > NOT_BY_HEART:
        return Finding("WARN", f"nothing is learnt: {told}", "mend what overfit_batch found first", values)
    for shift in (-1, 1) if _one_label_each(context) else ():
        if fit_shortly(context, shift).held_out < min(CLEARLY_LEARNT, fit.held_out - 0.1):
            explanation = f"labels fit the inputs of the example {'after' if shift < 0 else 'before'} theirs"
            return Finding("FAIL", f"shifted by one: {explanation}; {told}", mix, values)
    if fit.train > LEARNT and fit.steps < ROUND_STEPS * NUM_ROUNDS:
        advice = "there was no time for more steps here; look at the loss of the first epochs, or try it on a GPU"
        return Finding("WARN", f"too early to tell: {told}", advice, values)
    explanation = f"a few examples can be learnt by heart, but nothing holds on others: {told}"
    status = "WARN" if min(fit.held_out, fit.val) < LEARNT else "FAIL"
    return Finding(status, explanation, f"labels of other inputs, or inputs that do not tell them; {mix}", values)


def _one_label_each(context: Context) -> bool:
    return next(iter(context.batches("train", [0], 1)))[1].dim() == 1


def fit_shortly(context: Context, shift: int = 0) -> Fit:
    """Train for a few hundred steps at most, without augmentation, by train.py's own loop.

    Args:
        context: the run
        shift: give each train example the label of the one so many further on
    """
    chosen = context.choose("train", NUM_TRAIN)
    generator = torch.Generator().manual_seed(context.params.seed + 1)
    order = [chosen[i] for i in torch.randperm(len(chosen), generator=generator).tolist()]
    num_held_out = min(NUM_HELD_OUT, len(order) // 5)
    held_out, rest = order[:num_held_out], order[num_held_out:]
    curve = context.once(rate.range_test)
    learning_rate = context.params.learning_rate
    if not curve["steepest"] / 30 <= learning_rate <= curve["least"]:  # the check of that says so
        learning_rate = curve["steepest"]
    size = max(2, min(context.params.batch_size, 64, len(rest) // 4))
    training = context.fetch_training(learning_rate=learning_rate, batch_size=size)
    sets = {
        "train": context.batches("train", sorted(rest)[:: max(1, len(rest) // NUM_HELD_OUT)], size, shift=shift),
        "held_out": context.batches("train", sorted(held_out), size, shift=shift),
        "val": context.batches("val", context.choose("val", NUM_VAL), size),
    }
    fit = Fit(math.inf, math.inf, math.inf, {}, 0, training.model)
    constants = _constant_losses(context, sets)
    batches, end = context.train_batches(rest, size, ROUND_STEPS * NUM_ROUNDS, shift), time.monotonic() + MOST_SECONDS
    for start in range(0, len(batches), ROUND_STEPS):
        part = batches[start : start + ROUND_STEPS]
        training.begin_epoch()
        try:
            train.train(training, part, FewSteps(ROUND_STEPS, end - time.monotonic()))  # type: ignore[arg-type]
        except utils.DivergedError:
            break
        fit.steps += training.step
        for name, batches_of_set in sets.items():
            scores = evaluate.evaluate(training.model, context.net.loss_fn, batches_of_set, context.metrics)
            setattr(fit, name, min(getattr(fit, name), scores["loss"] / max(constants[name], 1e-9)))
        fit.metrics = scores  # val's, the last
        training.end_epoch(0.0, 0.0)
        if max(fit.held_out, fit.val) < WELL_LEARNT or time.monotonic() > end:
            break
    return fit


def _constant_losses(context: Context, sets: dict[str, Any]) -> dict[str, float]:
    """Return the loss of the best constant on each set."""
    constant = context.once(fit_constant)[0]
    model = context.fetch_model()
    losses = {}
    for name, batches in sets.items():
        pairs = [to_device(pair, torch.device("cpu")) for pair in evaluate.fetch_outputs(model, batches)]
        losses[name] = guesses.mean_loss(context.net.loss_fn, [(constant.like(o), labels) for o, labels in pairs])
    return losses


def _shift_of_val(context: Context, fit: Fit) -> str:
    """Return what to say where labels of val fit the inputs beside them."""
    for shift in (-1, 1) if _one_label_each(context) else ():
        batches = context.batches("val", context.choose("val", NUM_VAL), context.few, shift=shift)
        loss = evaluate.evaluate(fit.model, context.net.loss_fn, batches, context.metrics)["loss"]
        if loss < LEARNT * _constant_losses(context, {"val": batches})["val"]:
            return " but of those beside them (shifted by one)"
    return ""


def _turned(context: Context, model: Any) -> str:
    """Return the split whose images fit clearly better when all are turned in one way, and that way; or ''."""
    if not context.survey("train").is_image:
        return ""
    for split in [split for split in context.splits if split != "train"]:
        batches = context.batches(split, context.choose(split, NUM_VAL), context.few)

        def loss(turn: Callable[[Tensor], Tensor], batches: Batches = batches) -> float:
            def turned() -> Iterator[tuple[Any, Tensor]]:
                for inputs, labels in batches:
                    images = turn(inputs)
                    yield (images if images.shape == inputs.shape else inputs), labels

            return evaluate.evaluate(model, context.net.loss_fn, turned(), {})["loss"]

        losses = {name: loss(turn) for name, turn in TURNS.items()}
        best = min(losses, key=lambda name: losses[name])
        learnt = LEARNT * _constant_losses(context, {split: batches})[split]  # else a worse guess may only be less sure
        if losses[best] < min(learnt, CLEARLY_BETTER * loss(lambda images: images)):
            return f"images of {split} fit better {best}"
    return ""


def _swapped(context: Context, model: Any) -> str:
    """Return two classes of val of which each is taken for the other, or ''."""
    counts: dict[tuple[int, int], int] = {}
    batches = context.batches("val", context.choose("val", NUM_VAL), context.few)
    for outputs, labels in evaluate.fetch_outputs(model, batches):
        if labels.is_floating_point() or not isinstance(outputs, Tensor) or outputs.dim() != labels.dim() + 1:
            return ""
        if outputs.shape[: labels.dim()] != labels.shape:  # the classes come second
            outputs = outputs.movedim(1, -1)
        for pair in zip(labels.flatten().tolist(), outputs.argmax(-1).flatten().tolist(), strict=True):
            counts[pair] = counts.get(pair, 0) + 1
    totals: dict[int, int] = {}
    for (label, _), number in counts.items():
        totals[label] = totals.get(label, 0) + number
    for (label, other), number in sorted(counts.items()):
        if 0 <= label < other and min(totals[label], totals.get(other, 0)) >= MIN_OF_CLASS:
            back = counts.get((other, label), 0)
            is_more = number > counts.get((label, label), 0) and back > counts.get((other, other), 0)
            if is_more and number > SWAPPED * totals[label] and back > SWAPPED * totals[other]:
                return f"{context.class_name(label)} and {context.class_name(other)}"
    return ""
