"""What a loss says of outputs that no net made: nothing known, the best constant, the best there can be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fiveline.device import map_tensors, tensors_of
from fiveline.metrics import Loss, Metrics, MetricSums, count_scored

MOST_ITERATIONS = 100


def zeros(outputs: Any) -> Any:
    """Return outputs that say nothing: equal logits; of a quantity, the mean of labels around 0."""
    return map_tensors(torch.zeros_like, outputs)


def mean_loss(loss_fn: Loss, batches: Iterable[tuple[Any, Tensor]]) -> float:
    """Return the loss over batches of (outputs, labels), each label counted the same."""
    total = number = 0.0
    with torch.no_grad():
        for outputs, labels in batches:
            num_scored = float(count_scored(labels))
            if num_scored:
                total, number = total + float(loss_fn(outputs, labels)) * num_scored, number + num_scored
    return total / max(number, 1.0)


class Constant:
    """Outputs that do not look at the inputs: those with the least loss.

    Args:
        loss_fn: (outputs, labels) -> scalar mean
        batches: of (outputs, labels), on the CPU; of the outputs, only their shape matters
    """

    def __init__(self, loss_fn: Loss, batches: list[tuple[Any, Tensor]]) -> None:
        every = zip(*(tensors_of(outputs) for outputs, _ in batches), strict=True)
        self._constants = [_constant(alike, batches[0][1]) for alike in every]
        weights = [float(count_scored(labels)) for _, labels in batches]

        def loss() -> Tensor:
            losses = [
                loss_fn(self.like(outputs), labels) * weight
                for (outputs, labels), weight in zip(batches, weights, strict=True)
                if weight
            ]
            return torch.stack(losses).sum() / sum(weights)

        minimise(loss, self._constants)

    def like(self, outputs: Any) -> Any:
        """Return the constant in the shape of outputs."""
        constants = iter(self._constants)
        return map_tensors(lambda output: next(constants).expand(output.shape), outputs)

    def score(self, loss_fn: Loss, metrics: Metrics, batches: Iterable[tuple[Any, Tensor]]) -> dict[str, float]:
        """Return what the constant scores: name -> value, the loss among them."""
        sums = MetricSums(metrics)
        with torch.no_grad():
            for outputs, labels in batches:
                guess = map_tensors(torch.clone, self.like(outputs))
                sums.add(guess, labels, loss_fn(guess, labels))
            return sums.result()


def _constant(alike: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return zeros in the shape of outputs, with 1 in the place of each size that a constant does not depend on.

    Args:
        alike: the outputs of several batches, whose sizes may differ: the weights that each word of a text was given
        labels: of the first of them
    """
    outputs = alike[0]
    size = list(outputs.shape)
    if outputs.dim() > labels.dim() and outputs.shape[: labels.dim()] == labels.shape:  # the classes come last
        size[: labels.dim()] = [1] * labels.dim()
    elif outputs.shape[:1] + outputs.shape[2:] == labels.shape:  # the classes come second, as in segmentation
        size[:1], size[2:] = [1], [1] * (outputs.dim() - 2)
    else:
        size[0] = 1
    is_of_one_size = [len(set(sizes)) == 1 for sizes in zip(*(output.shape for output in alike), strict=True)]
    size = [number if is_one else 1 for number, is_one in zip(size, is_of_one_size, strict=True)]
    return torch.zeros(size, requires_grad=True)


def best_loss(loss_fn: Loss, outputs: Any, labels: Tensor) -> float:
    """Return the least loss that any outputs could have on a batch: 0, or more with label smoothing.

    Args:
        loss_fn: (outputs, labels) -> scalar mean
        outputs: on the CPU; only their shape matters
        labels: of the batch
    """
    free = map_tensors(lambda output: torch.zeros_like(output).requires_grad_(), outputs)
    return minimise(lambda: loss_fn(free, labels), tensors_of(free))


def minimise(loss: Any, tensors: list[Tensor]) -> float:
    """Change tensors until a loss of them is least, and return it."""
    optimizer = torch.optim.LBFGS(tensors, max_iter=MOST_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = loss()
        value.backward()
        return value.detach()

    with torch.enable_grad():
        optimizer.step(closure)
    return float(loss().detach())
