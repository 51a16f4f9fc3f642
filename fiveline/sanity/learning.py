"""Checks of the first steps: initial loss, what the loss is given, gradients, one batch learnt by heart."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

import train
from fiveline.device import seed_everything, to_device
from fiveline.metrics import count_scored
from fiveline.sanity import guesses
from fiveline.sanity.context import Context, Finding

NEAR, FAR = 1.35, 3.0  # initial loss over its theoretical value
GRADIENT_STEPS = 6
FEW_UNITS_DEAD, MANY_UNITS_DEAD = 0.25, 0.5  # share of a layer
LARGE_GRADIENT, HUGE_GRADIENT = 1e2, 1e4  # norm over that of the weight
VANISHING = 1e-8  # root mean square, over the largest of the net's weights
SAME_GRADIENT = 0.05  # distance, over the norm: on a GPU, sums have no order
BY_HEART, NOT_BY_HEART = 0.1, 0.5  # what is left of the loss of one batch
HEART_STEPS, HEART_EXAMPLES, HEART_RATES = 250, 8, (1e-3, 1e-2)
MOST_SECONDS = 20.0  # for each of the rates


def initial_loss(context: Context) -> Finding:
    """Is the first loss what it must be for a net that knows nothing?"""
    training = context.fetch_training()
    indices = context.choose("train", 256)
    training.model.train()
    batches, constant_batches = [], []
    with torch.no_grad():
        for inputs, labels in context.batches("train", indices, context.few):
            pair = to_device((training.model(inputs), labels), torch.device("cpu"))
            batches.append(pair)
            constant_batches.append((guesses.zeros(pair[0]), pair[1]))
    loss = guesses.mean_loss(training.loss_fn, batches)
    theory = guesses.mean_loss(training.loss_fn, constant_batches)
    constant = guesses.Constant(training.loss_fn, batches)
    best = guesses.mean_loss(training.loss_fn, [(constant.like(outputs), labels) for outputs, labels in batches])
    is_float = batches[0][1].is_floating_point()
    knows_nothing = "labels guessed as 0" if is_float else "all classes equally likely"
    told = f"{loss:.3f}; with {knows_nothing} it is {theory:.3f}, the best constant has {best:.3f}"
    values = {"loss": loss, "theory": theory, "best_constant": best}
    if not math.isfinite(loss):
        return Finding("FAIL", f"the first loss is {loss}", "look for logarithms and divisions of 0 in the net", values)
    if is_float and theory > 2 * best:
        advice = "standardise the labels by the mean and std of train, and give metrics their unit back"
        return Finding("WARN", f"the labels are far from 0: {told}", advice, values)
    if loss > FAR * theory:
        return Finding("FAIL", told, "the last layer begins too large, or the inputs are: scale them down", values)
    if not theory / NEAR < loss < theory * NEAR:
        advice = (
            "are the outputs what loss_fn expects, and is it the mean over the labels? Begin with a smaller last layer"
        )
        return Finding("WARN", told, advice, values)
    return Finding("PASS", told, "the first line of the log should say about as much", values)


def logits(context: Context) -> Finding:
    """Are the outputs logits, where the loss expects logits?"""
    model = context.fetch_model().eval()
    with torch.no_grad():
        inputs, labels = next(iter(context.batches("train", context.choose("train", context.few), context.few)))
        outputs, loss_fn = model(inputs), context.net.loss_fn
        if not isinstance(outputs, Tensor) or outputs.dim() == 0 or int(count_scored(labels)) == 0:
            return Finding("PASS", "the outputs have a structure that only the task knows", "read loss_fn once more")
        loss = float(loss_fn(outputs, labels))
        is_shifted = math.isclose(float(loss_fn(outputs + 3, labels)), loss, rel_tol=1e-3, abs_tol=1e-4)
        for dim in range(1, outputs.dim()):
            is_positive = bool((outputs >= 0).all()) and outputs.shape[dim] > 1
            if is_positive and is_shifted and bool(((outputs.sum(dim) - 1).abs() < 1e-3).all()):
                explanation = "softmax is applied twice: the outputs are probabilities already, the loss expects logits"
                advice = "return the last linear layer as it is; softmax belongs into predictions only"
                return Finding("FAIL", explanation, advice)
        is_share = labels.is_floating_point() and bool(((outputs > 0) & (outputs < 1)).all())
        is_binary = is_share and set(labels.unique().tolist()) <= {0.0, 1.0} and labels.shape == outputs.shape
        if is_binary and float(loss_fn(40 * labels - 20, labels)) < 0.1 * float(loss_fn(labels, labels)):
            explanation = "sigmoid is applied twice: the outputs are probabilities, the loss expects logits"
            return Finding("FAIL", explanation, "return the last linear layer as it is")
    least, most = float(outputs.min()), float(outputs.max())
    told = f"from {least:.3g} to {most:.3g}, not squeezed before the loss"
    return Finding("PASS", told, "the loss gets what the last layer returns", {"least": least, "most": most})


def gradients(context: Context) -> Finding:
    """Does every weight get a gradient that is neither zero nor huge, and does the optimizer know it?"""
    training = context.fetch_training()
    weights = {name: w for name, w in training.model.named_parameters() if w.requires_grad}
    known = {id(w) for group in training.optimizer.param_groups for w in group["params"]}
    largest = {name: torch.zeros_like(weight) for name, weight in weights.items()}  # of each number, absolutely
    ratios = dict.fromkeys(weights, 0.0)
    connected: set[str] = set()
    training.model.train()
    indices = context.choose("train", 512)
    # several steps: layers that begin at zero let no gradient through to those before them in the first
    for inputs, labels in context.train_batches(indices, context.few, GRADIENT_STEPS):
        train.train_step(training.model, training.optimizer, training.loss_fn, inputs, labels)
        for name, weight in weights.items():
            if weight.grad is not None:
                connected.add(name)
                largest[name] = torch.maximum(largest[name], weight.grad.abs())
                ratio = float(weight.grad.norm()) / _size(weight)
                ratios[name] = max(ratios[name], ratio) if math.isfinite(ratio) else math.inf
    values = {"ratios": ratios}
    named = functools.partial(_named, number=len(weights))
    detached = [name for name in weights if name not in connected]
    if detached:
        advice = "look for detach(), .data, no_grad() and argmax on the way to the loss, or remove what is not used"
        return Finding("FAIL", f"no gradient at all: {named(detached)}", advice, values)
    unknown = [name for name, weight in weights.items() if id(weight) not in known]
    if unknown:
        advice = "make the optimizer after the net is complete, from model.parameters()"
        return Finding("FAIL", f"not known to the optimizer: {named(unknown)}", advice, values)
    zero = [name for name in weights if not largest[name].any()]
    if zero:
        advice = "dead ReLUs? Look at the initial weights and biases, and at the sign and scale of what comes in"
        return Finding("FAIL", f"the gradient is 0: {named(zero)}", advice, values)
    tables = {id(module.weight) for module in training.model.modules() if isinstance(module, nn.Embedding)}
    layers = {name: largest[name] for name, w in weights.items() if w.dim() > 1 and id(w) not in tables}
    return _judge_sizes(layers, ratios, values)


def _size(weight: Tensor) -> float:
    """Return the norm of a weight, or of a small one of its shape, where it begins at zero as biases may."""
    return max(float(weight.detach().norm()), (0.01 if weight.dim() > 1 else 0.1) * weight.numel() ** 0.5)


def _named(names: list[str], number: int) -> str:
    return f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''} ({len(names)} of {number} weights)"


def _judge_sizes(layers: dict[str, Tensor], ratios: dict[str, float], values: dict[str, Any]) -> Finding:
    """Look at how large gradients are.

    Args:
        layers: the largest gradient of each number of each layer; embeddings aside, of which only some rows are used
        ratios: the norm of each weight's gradient over its own
        values: for the finding
    """
    worst = max(ratios, key=lambda name: ratios[name])
    told = f"the largest gradient is {ratios[worst]:.2g} times its weight ({worst})"
    if ratios[worst] > LARGE_GRADIENT:
        status = "FAIL" if ratios[worst] > HUGE_GRADIENT else "WARN"
        return Finding(status, f"exploding: {told}", "normalise the inputs, use batch norm, or clip_grad_norm", values)
    sizes = {name: float(gradient.square().mean().sqrt()) for name, gradient in layers.items()}
    vanishing = [name for name, size in sizes.items() if size < VANISHING * max(sizes.values())]
    if vanishing:
        advice = "deep nets want normalisation or skip connections, and ReLU rather than sigmoid"
        return Finding("WARN", f"vanishing: {_named(vanishing, len(ratios))}", advice, values)
    dead = {name: 1 - float(g.flatten(1).any(dim=1).float().mean()) for name, g in layers.items() if len(g) > 1}
    worst = max(dead, key=lambda name: dead[name], default="")
    if worst and dead[worst] > FEW_UNITS_DEAD:
        status = "FAIL" if dead[worst] > MANY_UNITS_DEAD else "WARN"
        explanation = f"{dead[worst]:.0%} of the units of {worst} get no gradient: dead ReLUs"
        return Finding(status, explanation, "look at its initial weights and biases; or take a leaky ReLU", values)
    return Finding("PASS", f"each of {len(ratios)} weights gets one; {told}", "a run's loss is watched for NaN", values)


def zero_grad(context: Context) -> Finding:
    """Are two steps on the same batch, at learning rate 0, given the same gradients?"""
    advice = "train_step: optimizer.zero_grad() before loss.backward(), and optimizer.step() after it"
    scaler = torch.amp.GradScaler(context.device.type, enabled=False)
    inputs, labels = context.varied_batch(context.few)
    size = len(labels) if len(labels) < 4 else -(-len(labels) // 2)  # batch norm cannot train on a single one
    for is_in_pieces in (False, True):
        training = context.fetch_training()
        weights = [weight for weight in training.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=0.0)
        seen: list[list[Tensor]] = []
        optimizer.register_step_pre_hook(
            lambda *_, seen=seen, weights=weights: seen.append([w.grad.clone() for w in weights if w.grad is not None])
        )
        training.model.train()
        for _ in range(2):
            seed_everything(context.params.seed)  # the same dropout
            step = (training.model, optimizer, training.loss_fn, inputs, labels)
            if is_in_pieces:
                train.train_step_in_pieces(*step, size, scaler)
            else:
                train.train_step(*step)
        name = "train_step_in_pieces" if is_in_pieces else "train_step"
        if len(seen) != 2 or not all(any(gradient.any() for gradient in gradients) for gradients in seen):
            return Finding("FAIL", f"{name} lets the optimizer step without gradients", advice)
        first, second = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in seen)
        ratio = float(second.norm() / first.norm())
        if float((second - first).norm() / first.norm()) > SAME_GRADIENT:
            explanation = f"{name}: the second gradient on the same batch is {ratio:.2f} times the first, not 1"
            return Finding("FAIL", explanation, advice, {"ratio": ratio})
    told = "two steps on one batch, at learning rate 0, are given the same gradients"
    return Finding("PASS", told, "the five lines are in their order", {"ratio": ratio})


def overfit_batch(context: Context) -> Finding:
    """Can the net learn a few examples by heart?"""
    left = context.once(learn_by_heart)
    values = {"left": left, "steps": HEART_STEPS}
    told = f"{HEART_EXAMPLES} examples in up to {HEART_STEPS} steps: {left:.1%} of the loss is left"
    if left < BY_HEART:
        return Finding("PASS", told, "what it cannot learn on all examples is not for want of a working net", values)
    if left < NOT_BY_HEART:
        return Finding("WARN", told, "a larger net, or less regularisation; is the loss that of these labels?", values)
    return Finding("FAIL", told, "loss, outputs and gradients come before everything else: see the rows above", values)


def learn_by_heart(context: Context) -> float:
    """Train on a few examples that differ in their labels, with Adam; see what is left of their loss, at best.

    Dropout is on while it learns, off when it is asked; the best of two learning rates counts.
    """
    inputs, labels = context.varied_batch(HEART_EXAMPLES)
    lefts = []
    for rate in HEART_RATES:
        training = context.fetch_training(optimizer="adam", learning_rate=rate, weight_decay=0.0)
        left = _train_on_one(training.model, training, inputs, labels)
        lefts.append(left)
        if left < BY_HEART:
            break
    return min(lefts)


def _train_on_one(model: nn.Module, training: Any, inputs: Any, labels: Tensor) -> float:
    def ask() -> float:
        with torch.no_grad():
            losses = [float(training.loss_fn(model.train(mode)(inputs), labels)) for mode in (True, False)]
        finite = [loss for loss in losses if math.isfinite(loss)]
        return min(finite, default=math.inf)

    with torch.no_grad():
        outputs = to_device(model.train()(inputs), torch.device("cpu"))
    floor = guesses.best_loss(training.loss_fn, outputs, labels.cpu())
    first, end = ask(), time.monotonic() + MOST_SECONDS
    for step in range(HEART_STEPS):
        model.train()
        train.train_step(model, training.optimizer, training.loss_fn, inputs, labels)
        is_out_of_time = time.monotonic() > end
        if is_out_of_time or (step % 25 == 24 and ask() - floor < 0.5 * BY_HEART * (first - floor)):
            break
    return max(ask() - floor, 0.0) / max(first - floor, 1e-9)
