"""Metrics as ratios of sums: added up over a split, divided once, exact for any batch size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import processes
import runtime
from utils import InputError

if TYPE_CHECKING:
    import torch

IGNORED_LABEL = -100  # PyTorch's own ignore_index
READ_AT_ONCE = "cpu"  # the kind of device whose numbers can be read without waiting for it
NUM_LENGTHS = 4  # to which batches of sequences are padded, when metrics are asked for many of them together

Loss = Callable[[Any, "torch.Tensor"], "torch.Tensor"]
Metrics = Mapping[str, Callable[[Any, "torch.Tensor"], "tuple[torch.Tensor, torch.Tensor]"]]


class MetricSums:
    """Sums over the batches of a split: each metric's numerator and denominator, and the loss.

    Args:
        metrics: name -> fn(outputs, labels) -> (numerator, denominator)
        num_together: how many batches the metrics are asked for at once; where batches are small, calling a metric
            costs more than computing it
    """

    def __init__(self, metrics: Metrics, num_together: int = 1) -> None:
        self.metrics, self.num_together = metrics, num_together
        self.sums: dict[str, tuple[Any, Any]] = {}
        self._waiting: list[tuple[Any, torch.Tensor, Any]] = []  # the loss is a plain number where it can be read

    def add(self, outputs: Any, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Add a batch, without its graph. Nothing waits for the device.

        Args:
            outputs: of the model, batch first
            labels: batch first
            loss: scalar, the mean over the batch's scored labels
        """
        number = loss.item() if loss.device.type == READ_AT_ONCE else loss.detach()
        self._waiting.append((runtime.detach(outputs), labels, number))
        if len(self._waiting) >= self.num_together:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        joined = _join([batch[:2] for batch in self._waiting])
        self.sums["loss"] = self._loss_sums(joined)
        for outputs, labels in joined:
            for name, metric in self.metrics.items():
                pair = metric(outputs, labels)
                if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                    raise InputError(
                        f"metric {name!r} returned {pair!r}; expected a numerator and a denominator, which are added "
                        "up over the batches: return right.sum(), torch.ones_like(labels).sum(), for one"
                    )
                numerator, denominator = (as_sum(part, labels.device) for part in pair)
                self.sums[name] = _plus(self.sums.get(name), (numerator, denominator))
        self._waiting = []

    def _loss_sums(self, joined: list[tuple[Any, torch.Tensor]] | None = None) -> tuple[Any, Any]:
        """Return the sum of the losses of all scored labels, and their number, the waiting batches included.

        Args:
            joined: the waiting batches in few, or in one, if that was asked for already
        """
        if not self._waiting:
            return self.sums.get("loss", (0, 0))
        losses = [loss for *_, loss in self._waiting]
        batches = [labels for _, labels, _ in self._waiting]
        counts = _count_each(batches, batches if joined is None else [labels for _, labels in joined])
        total: tuple[Any, Any]
        # a loss without labels, the mean over nothing, is left out: a process may have such a share of a batch
        if isinstance(losses[0], float):
            total = sum(loss * count for loss, count in zip(losses, counts, strict=True) if count), sum(counts)
        else:
            import torch

            counts = as_sum(counts, losses[0].device)
            total = as_sum(torch.stack(losses), counts.device).where(counts > 0, 0.0) @ counts, counts.sum()
        return _plus(self.sums.get("loss"), total)

    def result(self) -> dict[str, float]:
        """Divide once: name -> value, the loss last. A vector's ratios are averaged (macro average).

        The sums are those of all processes of the job, and all have to ask.

        Raises:
            InputError: no process has added a batch
        """
        self._add_waiting()
        sums = _of_all_processes(self.sums)
        if "loss" not in sums:
            raise InputError(
                "the dataloader is empty: it gave no batch to train on or to score; expected one at least (with "
                "drop_last, an epoch needs batch_size examples, and an iterator that was read before has none left)"
            )
        metrics = {**self.metrics, "loss": None}  # a ratio like the others, and finished with that
        return {name: finish(metric, ratio(*map(_to_numpy, sums[name]))) for name, metric in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint within an epoch."""
        import torch

        sums = {
            name: [part if torch.is_tensor(part) else torch.as_tensor(part, dtype=torch.float64) for part in pair]
            for name, pair in self.sums.items()
        }
        # labels are copied: they may be a part of many, and all of those would be written
        return {"sums": sums, "waiting": [[outputs, labels.clone(), loss] for outputs, labels, loss in self._waiting]}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on adding to the sums of `state_dict`; of several processes, if called with the states of each."""
        import torch

        for name, (numerator, denominator) in state["sums"].items():
            self.sums[name] = _plus(self.sums.get(name), (as_sum(numerator, device), as_sum(denominator, device)))
        for outputs, labels, loss in state["waiting"]:
            loss = torch.as_tensor(loss, dtype=_dtype_of_sums(device), device=device)
            self.add(runtime.to_device(outputs, device), runtime.to_device(labels, device), loss)

    def mean_loss(self) -> float:
        """Return the mean loss so far, over all processes of the job, as `result` does; waits for the device."""
        return float(ratio(*map(_to_numpy, _of_all_processes({"loss": self._loss_sums()})["loss"])))


def _of_all_processes(sums: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Add up the sums of all processes; one that had no example yet has none, or plain zeros."""
    if processes.world_size() == 1:
        return sums
    total: dict[str, tuple[Any, Any]] = {}
    for part in processes.from_all({name: tuple(map(_to_numpy, pair)) for name, pair in sums.items()}):
        for name, pair in part.items():
            total[name] = _plus(total.get(name), pair)
    return total


def _plus(before: tuple[Any, Any] | None, pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Add a numerator and a denominator to those before, if there are any."""
    return pair if before is None else (before[0] + pair[0], before[1] + pair[1])


def _join(batches: list[tuple[Any, torch.Tensor]]) -> list[tuple[Any, torch.Tensor]]:
    """Return batches as one, where they are of one shape, or as a few that are padded with labels that do not count."""
    if len(batches) < 2:
        return batches
    if batches[0][1].dim() == 1 or len({labels.shape[1:] for _, labels in batches}) == 1:
        return [runtime.concatenate(batches)]
    if not all(hasattr(outputs, "shape") and labels.dim() == 2 for outputs, labels in batches):
        return batches
    batches = sorted(batches, key=lambda batch: batch[1].shape[1])  # similar lengths together: little padding
    size = -(-len(batches) // NUM_LENGTHS)
    neighbours = [batches[start : start + size] for start in range(0, len(batches), size)]
    return [runtime.concatenate([_pad(*batch, group[-1][1].shape[1]) for batch in group]) for group in neighbours]


def _pad(outputs: torch.Tensor, labels: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad sequences: outputs (batch_size, max_len, ...) with zeros, labels (batch_size, max_len) with -100."""
    padded = outputs.new_zeros((len(outputs), length, *outputs.shape[2:]))
    padded[:, : outputs.shape[1]] = outputs
    padded_labels = labels.new_full((len(labels), length), IGNORED_LABEL)
    padded_labels[:, : labels.shape[1]] = labels
    return padded, padded_labels


def _count_each(batches: list[torch.Tensor], joined: list[torch.Tensor]) -> Any:
    """Count the scored labels of each batch: (len(batches),), a list where they can be read.

    Args:
        batches: the labels of each
        joined: the same labels, in few tensors
    """
    import torch

    if batches[0].device.type == READ_AT_ONCE:
        if not batches[0].is_floating_point() and all(labels.numpy().min(initial=0) >= 0 for labels in joined):
            return [labels.numel() for labels in batches]  # the most frequent case, which is asked for in one
        return [int(count_scored(labels)) for labels in batches]
    if batches[0].is_floating_point():
        return torch.stack([count_scored(labels) for labels in batches])
    stacks = [torch.stack(list(neighbours)) for _, neighbours in itertools.groupby(batches, lambda b: b.shape)]
    return torch.cat([(labels != IGNORED_LABEL).flatten(1).sum(dim=1) for labels in stacks])


def count_scored(labels: torch.Tensor) -> torch.Tensor:
    """Count the labels that a loss is the mean over: class numbers but for -100, all rows of a regression."""
    if labels.is_floating_point():
        return labels.new_full((), len(labels))  # new_tensor would wait for the device
    return (labels != IGNORED_LABEL).sum()


def as_sum(number: Any, device: torch.device) -> Any:
    """Return a numerator or denominator in float64, which adds up millions exactly; float32 where a device has none.

    On the CPU it is a NumPy array, on others a tensor, so that nothing waits for it.
    """
    if device.type == READ_AT_ONCE:
        import numpy as np

        return np.array(number.tolist() if hasattr(number, "tolist") else number, dtype=np.float64)
    import torch

    return torch.as_tensor(number, dtype=_dtype_of_sums(device), device=device)


def _dtype_of_sums(device: torch.device) -> torch.dtype:
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def _to_numpy(number: Any) -> Any:
    return number.cpu().numpy() if hasattr(number, "cpu") else number


def ratio(numerator: Any, denominator: Any) -> Any:
    """Divide sums; an entry of a vector that has nothing to divide counts as 0, as in scikit-learn, a scalar as NaN."""
    import numpy as np

    shape = np.broadcast(numerator, denominator).shape
    if not shape:
        return float(numerator) / float(denominator) if denominator else float(numerator) * math.inf
    return np.divide(numerator, denominator, out=np.zeros(shape), where=denominator != 0)


def finish(metric: Any, value: Any) -> float:
    """Return a metric's value, given the ratio, or those of all classes: its root for a root-mean-square error."""
    mean = value if isinstance(value, float) else float(value.mean())
    if not hasattr(metric, "finish"):
        return mean
    import torch

    return float(metric.finish(torch.tensor(mean, dtype=torch.float64)))
