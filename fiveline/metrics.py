"""Metrics as ratios of sums: added up over a split and divided once, so they are exact for any batch size."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fiveline.device import detach
from utils import InputError

if TYPE_CHECKING:
    import torch

IGNORED_LABEL = -100  # PyTorch's own ignore_index

Loss = Callable[[Any, "torch.Tensor"], "torch.Tensor"]
Metrics = Mapping[str, Callable[[Any, "torch.Tensor"], "tuple[torch.Tensor, torch.Tensor]"]]


class MetricSums:
    """The numerator and denominator of the loss and of each metric, added up over batches.

    Args:
        metrics: name -> fn(outputs, labels) -> (numerator, denominator)
        add_up: returns the sum of a tensor over all processes of a job
    """

    def __init__(self, metrics: Metrics, add_up: Callable[[torch.Tensor], torch.Tensor] = lambda row: row) -> None:
        self.metrics, self.add_up = metrics, add_up
        self.num_examples = 0  # added by this process, like the sums
        self._loss: Any = 0.0  # float64, or float32 on Apple's GPUs, which lack float64; so are the metrics' sums
        self._num_scored: Any = 0
        self._others: Any = None  # the metrics' sums in one flat tensor, so that a batch is added in one operation
        self._shapes: dict[str, list[Any]] = {}  # name -> shapes of numerator and denominator

    def add(self, outputs: Any, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Add a batch without waiting for the device; `loss` is the mean over its scored labels, scalar."""
        import torch

        outputs = outputs.detach() if isinstance(outputs, torch.Tensor) else detach(outputs)
        loss, num_scored = loss.detach(), count_scored(labels)
        device, dtype, parts = loss.device, torch.float32 if loss.is_mps else torch.float64, []
        for name, metric in self.metrics.items():
            pair = metric(outputs, labels)
            shapes = [getattr(x, "shape", ()) for x in pair] if isinstance(pair, (tuple, list)) else []
            if shapes != self._shapes.setdefault(name, shapes) or len(shapes) != 2:
                raise InputError(
                    f"metric {name!r} returned {reprlib.repr(pair)}; expected a numerator and a denominator, which are "
                    f"added up, so their shapes are the same in each batch (the first had {self._shapes[name]}). For "
                    "example: return right.sum(), torch.ones_like(labels).sum()"
                )
            parts += [x if getattr(x, "device", None) == device else torch.as_tensor(x, device=device) for x in pair]
        if len({part.dtype for part in parts}) > 1:  # torch.cat would round whole numbers to float32
            parts = [part.to(dtype) for part in parts]
        row = torch.cat([part.flatten() for part in parts]) if parts else loss.new_empty(0)
        self._others = row.to(dtype) if self._others is None else self._others + row
        # a batch without scored labels has a NaN loss, and adds 0
        self._loss = self._loss + (loss.to(dtype) * num_scored).masked_fill(num_scored.logical_not(), 0.0)
        self._num_scored = self._num_scored + num_scored
        self.num_examples += len(labels)

    def _over_processes(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return the sums over all processes of the job, by name; raise InputError if no batch was added."""
        import torch

        if self._others is None:
            raise InputError(
                "the dataloader is empty: it gave no batch to train on or to score; expected at least one. (With "
                "drop_last, an epoch needs batch_size examples or more; an iterator can be used only once)"
            )
        row = torch.cat([torch.stack([self._loss, self._num_scored]), self._others])
        shapes = [(), (), *itertools.chain(*self._shapes.values())]
        parts = self.add_up(row).split([math.prod(shape) for shape in shapes])
        sums = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        return dict(zip(["loss", *self.metrics], zip(sums[::2], sums[1::2], strict=True), strict=True))

    def result(self) -> dict[str, float]:
        """Return the value of each metric by name, the loss last. In a job, all processes must call this."""
        sums = self._over_processes()
        occurs = occurring(sums)
        return {name: value_of(self.metrics.get(name), *sums[name], occurs) for name in [*self.metrics, "loss"]}

    def mean_loss(self) -> float:
        """Return the mean loss so far. It waits for the device; in a job, all processes must call it."""
        numerator, denominator = self._over_processes()["loss"]
        return float(numerator / denominator)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums over all processes, for a checkpoint within an epoch."""
        return {"sums": self._over_processes()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device, is_first: bool = True) -> None:
        """Continue from the sums that `state_dict` returned; in a job, all but the first process begin with zeros."""
        import torch

        row = torch.cat([part.flatten() for name in ["loss", *self.metrics] for part in state["sums"][name]]).to(device)
        row = row if is_first else torch.zeros_like(row)
        self._loss, self._num_scored, self._others = row[0], row[1], row[2:]
        self._shapes = {name: [part.shape for part in state["sums"][name]] for name in self.metrics}


def count_scored(labels: torch.Tensor) -> torch.Tensor:
    """Count the labels that a loss is the mean over: all but -100, which is an ordinary value in a regression."""
    if labels.is_floating_point() and labels.dim() < 2:  # one number for each example
        return labels.new_ones(len(labels)).count_nonzero()
    return (labels != IGNORED_LABEL).count_nonzero()


def occurring(sums: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[torch.Size, torch.Tensor]:
    """Return shape -> mask of the classes that any metric with this shape of sums counts.

    For example, a class that is never predicted has no count in precision, but it has one in recall.
    """
    masks: dict[torch.Size, torch.Tensor] = {}
    for numerator, denominator in sums.values():
        is_counted = (numerator != 0) | (denominator != 0)
        masks[is_counted.shape] = masks.get(is_counted.shape, is_counted) | is_counted
    return masks


def value_of(metric: Any, numerator: torch.Tensor, denominator: torch.Tensor, occurs: Mapping[Any, Any]) -> float:
    """Return a metric's value from its sums; a vector is averaged over the classes that `occurring` returned."""
    quotient = numerator / denominator
    if quotient.dim():  # 0 / 0 is 0 in a vector, as in scikit-learn, and NaN for a scalar
        quotient = quotient.where(denominator != 0, 0.0)
    if quotient.numel() > 1:
        quotient = quotient[occurs[quotient.shape]]
    value = quotient.mean()
    return float(metric.finish(value) if hasattr(metric, "finish") else value)
