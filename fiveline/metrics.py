"""Metrics as ratios of sums: added up over a split and divided once, so they are exact for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fiveline.device import detach
from utils import InputError

if TYPE_CHECKING:
    import torch

IGNORED_LABEL = -100  # PyTorch's own ignore_index

Loss = Callable[[Any, "torch.Tensor"], "torch.Tensor"]
Metrics = Mapping[str, Callable[[Any, "torch.Tensor"], "tuple[torch.Tensor, torch.Tensor]"]]
Sums = dict[str, "tuple[torch.Tensor, torch.Tensor]"]


class MetricSums:
    """The numerator and denominator of the loss and of each metric, added up over batches.

    Args:
        metrics: name -> fn(outputs, labels) -> (numerator, denominator)
        add_up: returns the sum of a tensor over all processes of a job; None in one process
    """

    def __init__(self, metrics: Metrics, add_up: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self.metrics, self.add_up = metrics, add_up
        self.names = ["loss", *metrics]
        self._shapes: list[torch.Size] = []  # of each numerator and denominator, in the order of names
        self._total: torch.Tensor | None = None  # all of them in one row, because one addition is faster than twenty

    def add(self, outputs: Any, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Add a batch. Nothing waits for the device.

        Args:
            outputs: of the model, batch first
            labels: batch first
            loss: scalar, the mean over the scored labels of the batch
        """
        import torch

        outputs, num_scored = detach(outputs), count_scored(labels)
        loss_sum = (as_sum(loss.detach()) * num_scored).where(num_scored > 0, 0.0)  # the mean over nothing is NaN
        parts = [loss_sum, as_sum(num_scored)]
        for name, metric in self.metrics.items():
            parts += _checked_pair(name, metric(outputs, labels), loss_sum)
        row, shapes = torch.cat([part.reshape(-1) for part in parts]), [part.shape for part in parts]
        if self._total is None:
            self._shapes = shapes
        elif shapes != self._shapes:
            wrong = next(i for i, shape in enumerate(shapes) if shape != self._shapes[i])
            raise InputError(
                f"metric {self.names[wrong // 2]!r} returned a sum of shape {tuple(shapes[wrong])} after one of shape "
                f"{tuple(self._shapes[wrong])}; expected the same shape for each batch, because they are added up"
            )
        self._total = row if self._total is None else self._total + row

    def _split(self, row: torch.Tensor) -> Sums:
        parts = [
            part.view(shape)
            for part, shape in zip(row.split([s.numel() for s in self._shapes]), self._shapes, strict=True)
        ]
        return dict(zip(self.names, zip(parts[::2], parts[1::2], strict=True), strict=True))

    def _everywhere(self) -> Sums:
        """Return the sums over all processes of the job.

        Raises:
            InputError: no batch was added
        """
        if self._total is None:
            raise InputError(
                "the dataloader is empty: it gave no batch to train on or to score; expected at least one (with "
                "drop_last, an epoch needs batch_size examples, and an iterator that was used before has none left)"
            )
        return self._split(self._total if self.add_up is None else self.add_up(self._total))

    def result(self) -> dict[str, float]:
        """Divide once: name -> value, the loss last. In a job, all processes must call this.

        Raises:
            InputError: no batch was added
        """
        sums = self._everywhere()
        occurs = occurring(sums)
        return {
            name: value_of(self.metrics.get(name), *sums[name], occurs) for name in [*self.names[1:], self.names[0]]
        }

    def mean_loss(self) -> float:
        """Return the mean loss so far. It waits for the device; in a job, all processes must call it."""
        numerator, denominator = self._everywhere()["loss"]
        return float(numerator / denominator)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums over all processes, for a checkpoint within an epoch."""
        return {"sums": {name: list(pair) for name, pair in self._everywhere().items()}} if self._shapes else {}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device, is_first: bool = True) -> None:
        """Continue from the sums that `state_dict` returned.

        Args:
            state: the sums over all processes
            device: of the net
            is_first: False in all processes of a job but one: they begin with zeros
        """
        import torch

        if not state:
            return
        parts = [torch.as_tensor(part) for name in self.names for part in state["sums"][name]]
        self._shapes = [part.shape for part in parts]
        dtype = torch.float32 if device.type == "mps" else torch.float64  # as in `as_sum`
        total = torch.cat([part.reshape(-1) for part in parts]).to(device, dtype)
        self._total = total if is_first else torch.zeros_like(total)


def _checked_pair(name: str, pair: Any, like: torch.Tensor) -> list[torch.Tensor]:
    import torch

    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InputError(
            f"metric {name!r} returned {pair!r}; expected a numerator and a denominator, which are added up over "
            "the batches, for example: return right.sum(), torch.ones_like(labels).sum()"
        )
    return [
        part
        if isinstance(part, torch.Tensor) and part.device == like.device
        else torch.as_tensor(part, dtype=like.dtype, device=like.device)
        for part in pair
    ]


def count_scored(labels: torch.Tensor) -> torch.Tensor:
    """Count the labels that a loss is the mean over: all but -100.

    One float per example is a regression, in which -100 is a number like any other.
    """
    if labels.is_floating_point() and labels.dim() < 2:
        return labels.new_ones(len(labels)).sum()
    return (labels != IGNORED_LABEL).sum()


def as_sum(number: torch.Tensor | float) -> torch.Tensor:
    """Return a number as float64, which adds up millions exactly; as float32 on Apple's GPUs, which lack float64."""
    import torch

    return torch.as_tensor(number, dtype=torch.float32 if getattr(number, "is_mps", False) else torch.float64)


def ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Divide sums. 0 / 0 is 0 in a vector, as in scikit-learn, and NaN for a scalar."""
    quotient = numerator / denominator
    return quotient.where(denominator != 0, 0.0) if quotient.dim() else quotient


def occurring(sums: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[torch.Size, torch.Tensor]:
    """Return which classes occur, as a mask for each shape of vectors: a class that any metric of that shape counted.

    One metric is not enough: precision counts no example of a class that is never predicted; recall, beside it, does.
    """
    import torch

    masks: dict[torch.Size, torch.Tensor] = {}
    for pair in sums.values():
        numerator, denominator = torch.broadcast_tensors(*pair)
        is_counted = (numerator != 0) | (denominator != 0)
        masks[is_counted.shape] = masks.get(is_counted.shape, is_counted) | is_counted
    return masks


def value_of(metric: Any, numerator: torch.Tensor, denominator: torch.Tensor, occurs: Mapping[Any, Any]) -> float:
    """Return a metric's value from its sums; a vector is averaged over the classes that `occurring` returned."""
    quotient = ratio(numerator, denominator)
    if quotient.numel() > 1:
        quotient = quotient[occurs[quotient.shape]]
    value = quotient.mean()
    return float(metric.finish(value) if hasattr(metric, "finish") else value)
