"""Metrics as ratios of sums: added up over a split, divided once, exact for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fiveline.device import concatenate, detach, tensors_of, to_device
from fiveline.jobs import processes
from utils import InputError

if TYPE_CHECKING:
    import torch

IGNORED_LABEL = -100  # PyTorch's own ignore_index
MOST_WAITING = 2**22  # bytes of outputs and labels that wait for their metrics
NUM_LENGTHS = 4  # to which batches of sequences are padded, when metrics are asked for many of them together

Loss = Callable[[Any, "torch.Tensor"], "torch.Tensor"]
Metrics = Mapping[str, Callable[[Any, "torch.Tensor"], "tuple[torch.Tensor, torch.Tensor]"]]
_Batch = tuple[Any, "torch.Tensor", "torch.Tensor"]  # outputs, labels, loss


class MetricSums:
    """Sums over the batches of a split: each metric's numerator and denominator, and the loss.

    Args:
        metrics: name -> fn(outputs, labels) -> (numerator, denominator)
        num_together: how many batches the metrics are asked for at once, fewer where they are large; where
            batches are small, calling a metric costs more than computing it
    """

    def __init__(self, metrics: Metrics, num_together: int = 1) -> None:
        self.metrics, self.num_together = metrics, num_together
        self.sums: dict[str, tuple[Any, Any]] = {}
        self._waiting: list[_Batch] = []
        self._room = num_together  # for batches like the first of those that wait

    def add(self, outputs: Any, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Add a batch, without its graph. Nothing waits for the device.

        Args:
            outputs: of the model, batch first
            labels: batch first
            loss: scalar, the mean over the batch's scored labels
        """
        self._waiting.append((detach(outputs), labels, loss.detach()))
        if len(self._waiting) == 1:
            self._room = self._num_like(outputs, labels)
        if len(self._waiting) >= self._room:
            self._add_waiting()

    def _num_like(self, outputs: Any, labels: torch.Tensor) -> int:
        """Return how many batches like this one may wait."""
        storages = (tensor.untyped_storage() for tensor in tensors_of(outputs))  # a part keeps the whole
        num_bytes = labels.nbytes + sum(storage.nbytes() for storage in storages)
        return max(1, min(self.num_together, MOST_WAITING // max(1, num_bytes)))

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        for outputs, labels, losses in _join(self._waiting):
            self.sums["loss"] = _plus(self.sums.get("loss"), _loss_sums(labels, losses))
            for name, metric in self.metrics.items():
                pair = metric(outputs, labels)
                if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                    raise InputError(
                        f"metric {name!r} returned {pair!r}; expected a numerator and a denominator, which are added "
                        "up over the batches: return right.sum(), torch.ones_like(labels).sum(), for one"
                    )
                self.sums[name] = _plus(self.sums.get(name), (as_sum(pair[0]), as_sum(pair[1])))
        self._waiting = []

    def result(self) -> dict[str, float]:
        """Divide once: name -> value, the loss last. A vector's ratios are averaged over the classes that occur.

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
        occurs = occurring(sums)
        return {name: finish(metric, *sums[name], occurs) for name, metric in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint within an epoch."""
        sums = {name: list(pair) for name, pair in self.sums.items()}
        # labels are copied: they may be a part of many, and all of those would be written
        return {"sums": sums, "waiting": [[outputs, labels.clone(), loss] for outputs, labels, loss in self._waiting]}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on adding to the sums of `state_dict`; of several processes, if called with the states of each."""
        state = to_device(state, device)
        for name, (numerator, denominator) in state["sums"].items():
            self.sums[name] = _plus(self.sums.get(name), (numerator, denominator))
        self._waiting += [tuple(batch) for batch in state["waiting"]]
        if self._waiting:
            self._room = self._num_like(*self._waiting[0][:2])

    def mean_loss(self) -> float:
        """Return the mean loss so far, over all processes of the job, as `result` does; waits for the device."""
        pair = self.sums.get("loss", (0, 0))
        for _, labels, losses in _join(self._waiting):
            pair = _plus(pair, _loss_sums(labels, losses))
        numerator, denominator = _of_all_processes({"loss": pair})["loss"]
        return float(numerator / denominator)


def _of_all_processes(sums: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Add up the sums of all processes; one that had no example yet has none, or plain zeros."""
    if processes.world_size() == 1:
        return sums
    import torch

    on_cpu = {name: tuple(torch.as_tensor(part).cpu() for part in pair) for name, pair in sums.items()}
    total: dict[str, tuple[Any, Any]] = {}
    for part in processes.from_all(on_cpu):
        for name, pair in part.items():
            total[name] = _plus(total.get(name), pair)
    return total


def _plus(before: tuple[Any, Any] | None, pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Add a numerator and a denominator to those before, if there are any."""
    return pair if before is None else (before[0] + pair[0], before[1] + pair[1])


def _join(batches: list[_Batch]) -> list[_Batch]:
    """Return batches as one, where they are of one shape, or as a few that are padded with labels that do not count.

    Args:
        batches: outputs, labels and loss, scalar

    Returns:
        outputs, labels, and for each example the loss of the batch that it was in, (num_examples,)
    """
    batches = [(outputs, labels, loss.expand(len(labels))) for outputs, labels, loss in batches]
    if len(batches) < 2:
        return batches
    if len({_shapes(batch) for batch in batches}) == 1:
        return [concatenate(batches)]
    is_padding_right = all(_is_of_tokens(outputs, labels) for outputs, labels, _ in batches)
    if not is_padding_right or len({outputs.shape[2:] for outputs, *_ in batches}) > 1:
        return batches
    batches = sorted(batches, key=lambda batch: batch[1].shape[1])  # similar lengths together: little padding
    size = -(-len(batches) // NUM_LENGTHS)
    neighbours = [batches[start : start + size] for start in range(0, len(batches), size)]
    return [concatenate([_pad(*batch, group[-1][1].shape[1]) for batch in group]) for group in neighbours]


def _shapes(batch: _Batch) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the tensors of a batch, but for how many examples they are of."""
    outputs, labels, _ = batch
    tensors = (outputs,) if hasattr(outputs, "shape") else tensors_of(outputs)
    return labels.shape[1:], *[tensor.shape[1:] for tensor in tensors]


def _is_of_tokens(outputs: Any, labels: torch.Tensor) -> bool:
    """Return whether there is a class number, and something said, for each token: only such can be padded from here."""
    is_one = hasattr(outputs, "shape") and labels.dim() == 2 and not labels.is_floating_point()
    return bool(is_one and outputs.shape[:2] == labels.shape)


def _pad(outputs: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor, length: int) -> _Batch:
    """Pad sequences: outputs (batch_size, max_len, ...) with zeros, labels (batch_size, max_len) with -100."""
    padded = outputs.new_zeros((len(outputs), length, *outputs.shape[2:]))
    padded[:, : outputs.shape[1]] = outputs
    padded_labels = labels.new_full((len(labels), length), IGNORED_LABEL)
    padded_labels[:, : labels.shape[1]] = labels
    return padded, padded_labels, losses


def _loss_sums(labels: torch.Tensor, losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the losses of all scored labels, and their number.

    Args:
        labels: batch first
        losses: for each example, the mean over the scored labels of the batch that it was in, (num_examples,)
    """
    num_scored = as_sum(_count_each(labels))
    losses = as_sum(losses).where(num_scored > 0, 0.0)  # a mean over nothing: the share of a batch without any
    return (losses * num_scored).sum(), num_scored.sum()


def _count_each(labels: torch.Tensor) -> torch.Tensor:
    """Count the scored labels of each example, (num_examples,)."""
    if _is_regression(labels):
        return labels.new_ones(len(labels))
    is_scored = labels != IGNORED_LABEL
    return is_scored.flatten(1).sum(dim=1) if labels.dim() > 1 else is_scored


def count_scored(labels: torch.Tensor) -> torch.Tensor:
    """Count the labels that a loss is the mean over: all but -100, which is a number as any other in a regression."""
    return _count_each(labels).sum()


def _is_regression(labels: torch.Tensor) -> bool:
    """Return whether labels are one number an example: several may have some that are not known, as classes may."""
    return labels.is_floating_point() and labels.dim() < 2


def as_sum(number: torch.Tensor | float) -> torch.Tensor:
    """Return a numerator or denominator as float64, which adds up millions exactly; as float32 where there is none."""
    import torch

    return torch.as_tensor(number, dtype=torch.float32 if getattr(number, "is_mps", False) else torch.float64)


def ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Divide sums. 0 / 0 is 0 in a vector, as in scikit-learn, and NaN as a scalar."""
    quotient = numerator / denominator
    return quotient.where(denominator != 0, 0.0) if quotient.dim() else quotient


def occurring(sums: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[torch.Size, torch.Tensor]:
    """Return the classes that occur, as a mask for each shape of vectors: any metric of that shape has counted them.

    One metric cannot decide: the denominator of precision is 0 for a class that is in the labels and never predicted.
    Recall, beside it, has counted that class.
    """
    import torch

    masks: dict[torch.Size, torch.Tensor] = {}
    for pair in sums.values():
        numerator, denominator = torch.broadcast_tensors(*pair)
        is_counted = (numerator != 0) | (denominator != 0)
        masks[is_counted.shape] = masks.get(is_counted.shape, is_counted) | is_counted
    return masks


def finish(metric: Any, numerator: torch.Tensor, denominator: torch.Tensor, occurs: Mapping[Any, Any]) -> float:
    """Return a metric's value, given its sums and what `occurring` returns of all metrics."""
    quotient = ratio(numerator, denominator)
    if quotient.numel() > 1:
        quotient = quotient[occurs[quotient.shape]]
    value = quotient.mean()
    return float(metric.finish(value) if hasattr(metric, "finish") else value)
