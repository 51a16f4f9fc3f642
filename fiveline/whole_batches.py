"""A split that is asked for whole batches: each fetched, or many gathered at once and cut up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset, default_collate, get_worker_info

import utils
from fiveline.batches import Batch, EpochBatches
from fiveline.device import room_for_data, seed_everything, send
from fiveline.jobs import processes

WINDOW_NUMBERS = 2**18  # of a split that is in tensors, so many are gathered at once, for several batches
GPU_WINDOW_NUMBERS = 2**24  # the same of a split that is on a GPU, which takes long to begin and then is fast


class DataError(utils.InputError):
    """A mistake in the data that was found while a batch was put together.

    PyTorch hands an error over from a worker as a new one, with the traceback in its message: here that is cut off.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.DataError: ")[2].rstrip("\n"))


class WholeBatches(Dataset[Any]):
    """A task's dataset, asked for whole batches of a known epoch. (PyTorch's fetcher calls `__getitems__`.)"""

    def __init__(
        self, dataset: Dataset[Any], collate_fn: Callable[[list[Any]], Any], seed: int, is_raw: bool = False
    ) -> None:
        self.dataset = dataset
        self.is_raw = is_raw
        self.collate_fn = collate_fn
        self.seed = seed
        self.ids = getattr(dataset, "ids", None)
        self.tensors = _plain_tensors(dataset) if collate_fn is default_collate else None
        self.window_numbers = WINDOW_NUMBERS
        self.numbers_an_example = 0  # of a split whose batches can be cut
        if self.tensors is not None:
            self.numbers_an_example = sum(tensor[0].numel() for tensor in self.tensors)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, batch: Batch) -> Any:
        epoch, indices = batch
        try:
            fetched = self._fetch(epoch, indices)
            return processes.StandIn(*fetched) if isinstance(batch, processes.StandIn) else fetched
        except utils.InputError as error:
            raise DataError(str(error)) from None
        except Exception as error:
            if utils.explain(error) is not None:  # out of memory, say: no example is to blame
                raise
            raise RuntimeError(f"{self._culprit(epoch, indices)} could not be loaded: {error!r}") from error

    def _culprit(self, epoch: int, indices: list[int]) -> str:
        """Return a name for the example that a batch failed with; for the batch, if each can be loaded alone."""
        names = [f"example {i}" + (f" ({self.ids[i]})" if self.ids is not None else "") for i in indices]
        alone = (name for index, name in zip(indices, names, strict=True) if not self._can_fetch(epoch, index))
        return next(alone, f"a batch of {len(indices)}, from {names[0]} to {names[-1]},")

    def _can_fetch(self, epoch: int, index: int) -> bool:
        try:
            self._fetch(epoch, [index])
        except Exception:  # whatever it is, the caller has it already, from the batch
            return False
        return True

    def move_to(self, device: torch.device) -> bool:
        """Keep a split on a GPU, if it is in memory and small for that; return whether it is there now.

        The processor then has nothing to gather or to send in a step.
        """
        dataset: Any = self.dataset
        room = room_for_data(device)
        if self.tensors is not None and sum(tensor.nbytes for tensor in self.tensors) <= room:
            self.tensors = tuple(tensor.to(device) for tensor in self.tensors)
        elif self._is_movable() and dataset.nbytes <= room:
            dataset.move_to(device)
            self.numbers_an_example = dataset[0][0].numel()
        else:
            return False
        self.window_numbers = GPU_WINDOW_NUMBERS
        return True

    def _is_movable(self) -> bool:
        dataset = self.dataset
        is_ready = self.is_raw and hasattr(dataset, "move_to") and getattr(dataset, "in_memory", False)
        return is_ready and not hasattr(dataset, "lengths")  # whose batches do not follow one another

    def cut(self, batches: EpochBatches) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the batches of a split that is in tensors, or on a GPU; several are gathered at once, and cut up.

        Where a step takes a fraction of a millisecond, gathering each by itself would be a part of it.
        """
        num_together = max(1, self.window_numbers // (batches.batch_size * self.numbers_an_example))
        # windows begin where those of a whole epoch do: sums may depend on where in memory, modulo 64, a batch begins
        num_done = batches.step % num_together
        order, _ = batches.order()
        for start in range(batches.step - num_done, len(batches), num_together):
            last = min(start + num_together, len(batches)) - 1
            rows = self._fetch(batches.epoch, order[batches.place(start).start : batches.place(last).stop])
            if self.is_raw:
                rows = self.dataset.finish(rows[0]), rows[1]  # type: ignore[attr-defined]
            num_before = (last - start) * batches.batch_size  # the last batch may be of another size
            sizes = [batches.batch_size] * (last - start) + [len(rows[0]) - num_before]
            yield from itertools.islice(zip(*(tensor.split(sizes) for tensor in rows), strict=True), num_done, None)
            num_done = 0

    def _rows(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, ...]:
        assert self.tensors is not None
        positions = send(torch.from_numpy(np.asarray(indices)), self.tensors[0].device)
        return tuple(tensor.index_select(0, positions) for tensor in self.tensors)

    def _fetch(self, epoch: int, indices: Sequence[int] | np.ndarray) -> Any:
        if self.tensors is not None:
            return self._rows(indices)
        if get_worker_info() is not None:  # random numbers drawn in a worker depend on the batch, not on the worker
            seed_everything(self.seed, epoch, indices[0])
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        if self.is_raw:
            return self.dataset.fetch_raw(indices)  # type: ignore[attr-defined]
        if not hasattr(self.dataset, "__getitems__"):
            return self.collate_fn([self.dataset[index] for index in indices])
        fetched = self.dataset.__getitems__(indices)
        return self.collate_fn(fetched) if isinstance(fetched, list) else fetched


def _plain_tensors(dataset: Dataset[Any]) -> tuple[torch.Tensor, ...] | None:
    """Return the tensors of a dataset that does nothing to their rows on the way to a batch, else None."""
    if not isinstance(dataset, TensorDataset) or type(dataset).__getitem__ is not TensorDataset.__getitem__:
        return None
    has_more = any(hasattr(dataset, name) for name in ("__getitems__", "set_epoch", "fetch_raw", "lengths"))
    return None if has_more else dataset.tensors
