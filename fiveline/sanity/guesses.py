"""Losses of outputs that no net made: of the best constant, and of the best outputs there can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fiveline.device import map_tensors, tensors_of
from fiveline.metrics import Loss, Metrics, MetricSums, count_scored
from fiveline.serving.interface import find_class_axis

MAX_ITERATIONS = 100


def score(loss_fn: Loss, batches: Iterable[tuple[Any, Tensor]], metrics: Metrics | None = None) -> dict[str, float]:
    """Return the metrics and the loss of batches of (outputs, labels)."""
    sums = MetricSums(metrics or {})
    with torch.no_grad():
        for outputs, labels in batches:
            sums.add(outputs, labels, loss_fn(outputs, labels))
    return sums.result()


class Constant:
    """The outputs that ignore the inputs and have the least loss on batches of (outputs, labels), on the CPU.

    Only the shapes of the given outputs matter.
    """

    def __init__(self, loss_fn: Loss, batches: list[tuple[Any, Tensor]]) -> None:
        self.loss_fn = loss_fn
        every = zip(*(tensors_of(outputs) for outputs, _ in batches), strict=True)
        self._constants = [torch.zeros(_free_shape(alike, batches[0][1]), requires_grad=True) for alike in every]
        weights = [float(count_scored(labels)) for _, labels in batches]

        def loss() -> Tensor:
            pairs = zip(batches, weights, strict=True)
            losses = [loss_fn(self.like(outputs), labels) * weight for (outputs, labels), weight in pairs if weight]
            return torch.stack(losses).sum() / sum(weights)

        minimise(loss, self._constants)

    def like(self, outputs: Any) -> Any:
        """Return the constant in the shape of outputs."""
        constants = iter(self._constants)
        return map_tensors(lambda output: next(constants).expand(output.shape), outputs)

    def score(self, batches: Iterable[tuple[Any, Tensor]], metrics: Metrics | None = None) -> dict[str, float]:
        """Return the constant's metrics and loss on batches of (outputs, labels)."""
        return score(self.loss_fn, [(self.like(outputs), labels) for outputs, labels in batches], metrics)


def _free_shape(alike: Sequence[Tensor], labels: Tensor) -> list[int]:
    """Return the shape of outputs with 1 for each dimension over which a constant does not vary."""
    shape, axis = alike[0].shape, find_class_axis(alike[0], labels)
    free = range(1, len(shape)) if axis is None else [axis % len(shape)]
    # other batches may have other sizes, for example a weight for each word of a text
    return [n if dim in free and all(o.shape[dim] == n for o in alike) else 1 for dim, n in enumerate(shape)]


def best_loss(loss_fn: Loss, outputs: Any, labels: Tensor) -> float:
    """Return the least loss that any outputs of this shape can have: 0, or more with label smoothing."""
    free = map_tensors(lambda output: torch.zeros_like(output).requires_grad_(), outputs)
    return minimise(lambda: loss_fn(free, labels), tensors_of(free))


def minimise(loss: Callable[[], Tensor], tensors: list[Tensor]) -> float:
    """Change tensors until a loss that is computed from them is least, and return it."""
    optimizer = torch.optim.LBFGS(tensors, max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.detach()

    with torch.enable_grad():
        optimizer.step(closure)
    return float(loss().detach())
