"""Checks of the first training steps: initial loss, logits, gradients, zero_grad, overfitting one batch."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from fiveline.device import map_tensors, seed_everything
from fiveline.metrics import count_scored
from fiveline.sanity import Finding, guesses
from fiveline.sanity.context import Context, Trainer, outputs_of

NEAR, FAR = 1.35, 3.0  # ratio of the initial loss to its theoretical value
BELOW_BEST = 0.95  # ratio to the loss of the best constant: for next tokens, their entropy when each is alone
NUM_LABELS = 4096  # for the initial loss; a text or a mask has many
GRADIENT_STEPS = 10
FEW_UNITS_DEAD, MANY_UNITS_DEAD = 0.25, 0.5  # share of a layer
LARGE_GRADIENT, HUGE_GRADIENT = 1e2, 1e4  # ratio of the gradient's norm to the weight's norm
SAME_GRADIENT = 0.05  # relative distance: on a GPU, the order of a sum varies, so gradients differ slightly
BY_HEART, NOT_BY_HEART = 0.1, 0.5  # share of the initial loss that is left on one batch
HEART_STEPS, HEART_EXAMPLES, HEART_RATES = 250, 8, (1e-3, 1e-2)


def initial_loss(context: Context) -> Finding:
    """Is the first loss near the loss of a net that has learnt nothing?"""
    trainer = context.fetch_trainer()
    number = min(256, max(8, NUM_LABELS // context.first_labels().numel()))
    batches = outputs_of(trainer.model.train(), context.sample("train", number))
    zeros = [(map_tensors(torch.zeros_like, outputs), labels) for outputs, labels in batches]
    loss, theory = (guesses.score(trainer.loss_fn, each)["loss"] for each in (batches, zeros))
    best = guesses.Constant(trainer.loss_fn, batches).score(batches)["loss"]
    is_float = batches[0][1].is_floating_point()
    guess = "labels guessed as 0" if is_float else "all classes equally likely"
    summary = f"{loss:.3f}; with {guess} it is {theory:.3f}, with the best constant output {best:.3f}"
    values = {"loss": loss, "theory": theory, "best_constant": best}
    if not math.isfinite(loss):
        return Finding("FAIL", f"the first loss is {loss}", "look for log(0) and divisions by 0 in the net", values)
    if is_float and theory > 2 * best:
        advice = "standardise the labels by the mean and std of train, and convert metrics back to the original unit"
        return Finding("WARN", f"the labels are far from 0: {summary}", advice, values)
    if context.params.pretrained and loss < theory:
        return Finding("PASS", f"the first weights are trained ones: {summary}", values=values)
    if loss > FAR * theory:
        advice = "the initial weights of the last layer (or of an embedding tied to it) or the inputs are too large"
        return Finding("FAIL", f"far above a guess: {summary}", advice, values)
    # a net of rows may fit its labels a little by chance; one of tokens scores too many labels for that
    if loss < BELOW_BEST * best and batches[0][1].dim() > 1 and not is_float:
        advice = "is the answer among the inputs? Does loss_fn take the mean over the scored labels alone?"
        return Finding("FAIL", f"below what a net that has learnt nothing can reach: {summary}", advice, values)
    if not theory / NEAR < loss < theory * NEAR:
        advice = "does loss_fn fit the outputs, and return a mean over the labels? Scale down the last layer's weights"
        return Finding("WARN", summary, advice, values)
    return Finding("PASS", summary, values=values)


def logits(context: Context) -> Finding:
    """Are the outputs logits, where the loss expects logits?"""
    model, loss_fn = context.fetch_trainer().model.eval(), context.loss_fn
    inputs, labels = next(iter(context.sample("train", context.small_batch_size)))
    outputs = model(inputs)
    if not isinstance(outputs, Tensor) or outputs.dim() == 0 or int(count_scored(labels)) == 0:
        return Finding("PASS", "not checked: the outputs have a structure that only the task knows")
    last_operation, outputs = _last_operation(outputs), outputs.detach()
    least, most, found = float(outputs.min()), float(outputs.max()), ""
    sums = [outputs.sum(dim) for dim in range(1, outputs.dim()) if outputs.shape[dim] > 1]
    if least >= 0 and any(bool(((total - 1).abs() < 1e-3).all()) for total in sums):
        losses = [float(loss_fn(each, labels)) for each in (outputs, outputs + 3)]  # alike in cross-entropy
        found = "softmax" if math.isclose(*losses, rel_tol=1e-3, abs_tol=1e-4) else ""
    elif last_operation == "Sigmoid":
        loss = float(loss_fn(torch.zeros_like(outputs), labels))  # log(2) in a cross-entropy that expects logits
        found = "sigmoid" if math.isclose(loss, math.log(2), rel_tol=1e-3) else ""
    if found:
        explanation = f"{found} is applied twice: the outputs are probabilities, the loss expects logits"
        return Finding("FAIL", explanation, f"return the output of the last linear layer, without {found}")
    return Finding("PASS", f"{least:.3g} to {most:.3g}: not probabilities", values={"least": least, "most": most})


def _last_operation(outputs: Tensor) -> str:
    """Return the name of the operation that computed outputs, without changes of their shape."""
    node: Any = outputs.grad_fn
    while node is not None and re.match("Squeeze|View|Reshape|Flatten", node.name()):
        node = node.next_functions[0][0]
    return "" if node is None else node.name().partition("Backward")[0]


def gradients(context: Context) -> Finding:
    """Does every weight get a gradient that is neither zero nor huge?"""
    trainer = context.fetch_trainer()
    weights = {name: w for name, w in trainer.model.named_parameters() if w.requires_grad}
    largest, ratios = dict[str, Tensor](), dict.fromkeys(weights, 0.0)  # by entry; by weight, over its norm
    # several steps: in the first one, a layer whose weights are zero passes no gradient to the layers before it
    for inputs, labels in context.train_batches(context.choose("train", 512), context.small_batch_size, GRADIENT_STEPS):
        trainer.step(inputs, labels)
        for name, weight in weights.items():
            if weight.grad is not None:
                largest[name] = torch.maximum(largest.get(name, torch.zeros_like(weight)), weight.grad.abs())
                ratios[name] = max(ratios[name], _ratio(weight, weight.grad))
    values = {"ratios": ratios}

    def named(names: list[str]) -> str:
        return f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''} ({len(names)} of {len(weights)} weights)"

    if detached := [name for name in weights if name not in largest]:
        advice = "look for detach(), .data, no_grad() and argmax on the way to the loss, or remove unused weights"
        return Finding("FAIL", f"no gradient at all: {named(detached)}", advice, values)
    if zero := [name for name in weights if not largest[name].any()]:
        advice = "dead ReLUs? Look at the initial weights and biases, and at the sign and scale of the layer's inputs"
        return Finding("FAIL", f"the gradient is 0: {named(zero)}", advice, values)
    worst = max(ratios, key=lambda name: ratios[name])
    summary = f"the largest gradient is {ratios[worst]:.2g} times its weight ({worst})"
    if ratios[worst] > LARGE_GRADIENT:
        status = "FAIL" if ratios[worst] > HUGE_GRADIENT else "WARN"
        advice = "normalise the inputs, use batch norm, or clip_grad_norm"
        return Finding(status, f"exploding: {summary}", advice, values)
    # without embeddings: a batch uses only some of their rows
    tables = {id(module.weight) for module in trainer.model.modules() if isinstance(module, nn.Embedding)}
    layers = {name: largest[name] for name, w in weights.items() if w.dim() > 1 and id(w) not in tables}
    dead = {name: 1 - float(g.flatten(1).any(dim=1).float().mean()) for name, g in layers.items() if len(g) > 1}
    worst = max(dead, key=lambda name: dead[name], default="")
    if worst and dead[worst] > FEW_UNITS_DEAD:
        status = "FAIL" if dead[worst] > MANY_UNITS_DEAD else "WARN"
        explanation = f"{dead[worst]:.0%} of the units of {worst} get no gradient: dead ReLUs"
        return Finding(status, explanation, "look at its initial weights and biases; or use a leaky ReLU", values)
    return Finding("PASS", f"each of {len(weights)} weights gets a gradient; {summary}", values=values)


def _ratio(weight: Tensor, gradient: Tensor) -> float:
    """Return the ratio of the gradient's norm to the weight's, or to a small weight's: biases may begin at zero."""
    small = (0.01 if weight.dim() > 1 else 0.1) * weight.numel() ** 0.5
    ratio = float(gradient.norm()) / max(float(weight.detach().norm()), small)
    return ratio if math.isfinite(ratio) else math.inf


def zero_grad(context: Context) -> Finding:
    """Do two steps on the same batch, at learning rate 0, get the same gradients?"""
    advice = "train_step: optimizer.zero_grad() before loss.backward(), and optimizer.step() after it"
    inputs, labels = context.varied_batch(context.small_batch_size)
    size = len(labels) if len(labels) < 4 else -(-len(labels) // 2)  # batch norm cannot train on a single example
    for name, microbatch_size in (("train_step", None), ("train_step_in_pieces", size)):
        trainer, seen = context.fetch_trainer(microbatch_size=microbatch_size), list[Tensor]()
        optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.0)

        def note(optimizer: Any, *_: Any, seen: list[Tensor] = seen) -> None:
            found = [weight.grad for weight in optimizer.param_groups[0]["params"] if weight.grad is not None]
            seen.append(torch.cat([gradient.flatten() for gradient in found or [torch.zeros(1)]]))

        optimizer.register_step_pre_hook(note)
        for _ in range(2):
            seed_everything(context.params.seed)  # the same dropout
            trainer.train_step(trainer.model.train(), optimizer, trainer.loss_fn, inputs, labels)
        if len(seen) != 2 or not all(gradient.any() for gradient in seen):
            return Finding("FAIL", f"{name} lets the optimizer step without gradients", advice)
        first, second = seen
        ratio = float(second.norm() / first.norm())
        if float((second - first).norm() / first.norm()) > SAME_GRADIENT:
            explanation = f"{name}: the second gradient on the same batch is {ratio:.2f} times the first, not 1"
            return Finding("FAIL", explanation, advice, {"ratio": ratio})
    return Finding("PASS", "two steps on one batch, at learning rate 0, get the same gradients")


def overfit_batch(context: Context) -> Finding:
    """Can the net overfit a few examples?"""
    left = learn_by_heart(context)
    values = {"left": left, "steps": HEART_STEPS}
    summary = f"{HEART_EXAMPLES} examples in up to {HEART_STEPS} steps: {left:.1%} of the loss is left"
    if left < BY_HEART:
        return Finding("PASS", summary, values=values)
    status = "WARN" if left < NOT_BY_HEART else "FAIL"
    return Finding(status, summary, "fix what the checks above found; then try a larger net, less dropout", values)


@functools.lru_cache(maxsize=1)
def learn_by_heart(context: Context) -> float:
    """Train on a few examples, with Adam at two learning rates; return the smallest share of the loss that is left."""
    inputs, labels = context.varied_batch(HEART_EXAMPLES)
    left = math.inf
    for rate in HEART_RATES:
        trainer = context.fetch_trainer(optimizer="adam", learning_rate=rate, weight_decay=0.0)
        floor = guesses.best_loss(trainer.loss_fn, *outputs_of(trainer.model.train(), [(inputs, labels)])[0])
        first = _least_loss(trainer, inputs, labels) - floor
        for step in range(HEART_STEPS):
            trainer.step(inputs, labels)
            if step % 25 == 24:
                left = min(left, max(_least_loss(trainer, inputs, labels) - floor, 0.0) / max(first, 1e-9))
                if left < 0.5 * BY_HEART:
                    return left
        if left < BY_HEART:
            break
    return left


def _least_loss(trainer: Trainer, inputs: Any, labels: Tensor) -> float:
    with torch.no_grad():
        losses = [float(trainer.loss_fn(trainer.model.train(mode)(inputs), labels)) for mode in (True, False)]
    return min((loss for loss in losses if math.isfinite(loss)), default=math.inf)
