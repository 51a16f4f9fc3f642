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
        self._sums: Sums = {}  # of this process

    def add(self, outputs: Any, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Add a batch. Nothing waits for the device.

        Args:
            outputs: of the model, batch first
            labels: batch first
            loss: scalar, the mean over the scored labels of the batch
        """
        outputs, num_scored = detach(outputs), count_scored(labels)
        # the loss of a batch without scored labels is NaN, and counts nothing
        self._add("loss", ((as_sum(loss.detach()) * num_scored).where(num_scored > 0, 0.0), num_scored))
        for name, metric in self.metrics.items():
            self._add(name, metric(outputs, labels))

    def _add(self, name: str, pair: Any) -> None:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(
                f"metric {name!r} returned {pair!r}; expected a numerator and a denominator, which are added up over "
                "the batches, for example: return right.sum(), torch.ones_like(labels).sum()"
            )
        sums = self._sums.get(name)
        if sums is None:
            loss = self._sums["loss"][0] if self._sums else pair[0]
            self._sums[name] = _like(loss, pair[0]).clone(), _like(loss, pair[1]).clone()
            return
        for total, part in zip(sums, pair, strict=True):
            part = part if hasattr(part, "detach") else _like(total, part)
            if part.shape != total.shape:
                raise InputError(
                    f"metric {name!r} returned a sum of shape {tuple(part.shape)} after one of shape "
                    f"{tuple(total.shape)}; expected the same shape for each batch, because they are added up"
                )
            total.add_(part if part.device == total.device else part.to(total.device))

    def _everywhere(self) -> Sums:
        """Return the sums over all processes of the job.

        Raises:
            InputError: no batch was added
        """
        if not self._sums:
            raise InputError(
                "the dataloader is empty: it gave no batch to train on or to score; expected at least one (with "
                "drop_last, an epoch needs batch_size examples, and an iterator that was used before has none left)"
            )
        if self.add_up is None:
            return self._sums
        return {name: (self.add_up(pair[0]), self.add_up(pair[1])) for name, pair in self._sums.items()}

    def result(self) -> dict[str, float]:
        """Divide once: name -> value, the loss last. In a job, all processes must call this.

        Raises:
            InputError: no batch was added
        """
        sums = self._everywhere()
        occurs = occurring(sums)
        return {name: value_of(self.metrics.get(name), *sums[name], occurs) for name in [*self.metrics, "loss"]}

    def mean_loss(self) -> float:
        """Return the mean loss so far. It waits for the device; in a job, all processes must call it."""
        numerator, denominator = self._everywhere()["loss"]
        return float(numerator / denominator)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums over all processes, for a checkpoint within an epoch."""
        if not self._sums:
            return {}
        # copies, because the next batch is added in place
        return {"sums": {name: [part.clone() for part in pair] for name, pair in self._everywhere().items()}}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device, is_first: bool = True) -> None:
        """Continue from the sums that `state_dict` returned.

        Args:
            state: of all processes
            device: of the outputs
            is_first: False in the other processes of a job, which begin with zeros
        """
        for name in ["loss", *self.metrics] if state else []:
            numerator, denominator = (as_sum(part).to(device, copy=True) for part in state["sums"][name])
            self._sums[name] = (numerator, denominator) if is_first else (numerator.zero_(), denominator.zero_())


def _like(total: torch.Tensor, part: Any) -> torch.Tensor:
    """Return a metric's sum, which may be a plain number, as a sum on the device of the others."""
    return as_sum(part).to(total.device)


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
