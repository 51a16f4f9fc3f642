"""Batches for every task, fetched here or in other processes. The task says only what an example is."""

from __future__ import annotations

import importlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate, get_worker_info

import processes
import runtime
import utils
from model.batches import Batch, EpochBatches

WINDOW_NUMBERS = 2**18  # of a split that is in tensors, so many are gathered at once, for several batches


class DataError(utils.InputError):
    """A mistake in the data that was found while a batch was put together.

    PyTorch hands an error over from a worker as a new one, with the traceback in its message: here that is cut off.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.DataError: ")[2].rstrip("\n"))


class _WholeBatches(Dataset[Any]):
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

    def cut(self, batches: EpochBatches) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the batches of a split that is in tensors; the rows of several are gathered at once, and cut up.

        Where a step takes a fraction of a millisecond, gathering the rows of each by itself would be a part of it.
        """
        assert self.tensors is not None
        numbers_a_batch = batches.batch_size * sum(tensor[0].numel() for tensor in self.tensors)
        num_together = max(1, WINDOW_NUMBERS // numbers_a_batch)
        # windows begin where those of a whole epoch do: sums may depend on where in memory, modulo 64, a batch begins
        num_done = batches.step % num_together
        order, _ = batches.order()
        for start in range(batches.step - num_done, len(batches), num_together):
            last = min(start + num_together, len(batches)) - 1
            rows = self._rows(order[batches.place(start).start : batches.place(last).stop])
            num_before = (last - start) * batches.batch_size  # the last batch may be of another size
            sizes = [batches.batch_size] * (last - start) + [len(rows[0]) - num_before]
            yield from itertools.islice(zip(*(tensor.split(sizes) for tensor in rows), strict=True), num_done, None)
            num_done = 0

    def _rows(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, ...]:
        assert self.tensors is not None
        positions = torch.from_numpy(np.asarray(indices))
        return tuple(tensor.index_select(0, positions) for tensor in self.tensors)

    def _fetch(self, epoch: int, indices: list[int]) -> Any:
        if self.tensors is not None:
            return self._rows(indices)
        if get_worker_info() is not None:  # random numbers drawn in a worker depend on the batch, not on the worker
            runtime.seed_everything(self.seed, epoch, indices[0])
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


class _Batches(DataLoader[Any]):
    """A DataLoader that adds nothing to a step where it has nothing to do, and lets a GPU finish its batches itself.

    Attributes:
        device: where to finish raw batches; None where they come finished
    """

    device: torch.device | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.device is not None:
            return map(self._finish, super().__iter__())
        dataset: Any = self.dataset
        if self.num_workers == 0 and not self.pin_memory:  # as PyTorch's iterator does, without its bookkeeping
            batches: Any = self.batch_sampler
            # in training only: what is scored is computed as predict.py does, from batches that are gathered each
            if dataset.tensors is not None and batches.seed is not None and processes.world_size() == 1:
                return dataset.cut(batches)
            return map(dataset.__getitems__, batches)
        return super().__iter__()

    def _finish(self, batch: Any) -> Any:
        raw, labels = moved = runtime.to_device(batch, self.device)  # type: ignore[arg-type]
        pair = self.dataset.dataset.finish(raw), labels  # type: ignore[attr-defined]
        return type(moved)(*pair) if hasattr(moved, "_fields") else pair  # a namedtuple, or not


def _task_module(params: utils.Params) -> ModuleType:
    return importlib.import_module(f"model.{params.task}.data_loader")


def fetch_facts(data_dir: Path, params: utils.Params) -> utils.Params:
    """Return the hyperparameters with what the data decides (class names, vocabulary) in `params.facts`.

    Raises:
        InputError: the data is missing or broken
    """
    return params.with_facts(_task_module(params).fetch_facts(data_dir, params))


def _fetch_dataset(split: str, data_dir: Path, params: utils.Params) -> Any:
    """Return a split as the task makes it, if it is one that can be shuffled and continued."""
    dataset = _task_module(params).fetch_dataset(split, data_dir, params)
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise utils.InputError(
            f"model/{params.task}/data_loader.py: {split}'s dataset, {type(dataset).__name__}, is a stream or has "
            "no length; expected a map-style Dataset, with __len__ and __getitem__: shuffling and resuming ask for "
            "examples by their number (those of a stream can be written to files first)"
        )
    if len(dataset) == 0:
        raise utils.InputError(f"{data_dir}: the {split} split is empty")
    return dataset


def fetch_dataloader(
    splits: Sequence[str],
    data_dir: Path,
    params: utils.Params,
    device: torch.device | None = None,
    training: bool = True,
) -> dict[str, DataLoader[Any]]:
    """Return a DataLoader of (inputs, labels) batches for each split; only 'train' is shuffled.

    Args:
        splits: of 'train', 'val', 'test'
        data_dir: the dataset
        params: with facts
        device: where the batches will go; those for a GPU are put in memory that it can fetch from by itself
        training: False to see the train split as it is, in order and without augmentation

    Raises:
        InputError: the data of a split is missing, empty or broken, or it is no map-style dataset
    """
    module = _task_module(params)
    dataloaders: dict[str, DataLoader[Any]] = {}
    for split in splits:
        dataset = _fetch_dataset(split, data_dir, params)
        if not training and hasattr(dataset, "augment"):
            dataset.augment = False
        is_raw = device is not None and device.type != "cpu" and hasattr(dataset, "fetch_raw")
        whole = _WholeBatches(dataset, getattr(module, "collate_fn", default_collate), params.seed, is_raw)
        num_workers = params.num_workers
        if num_workers and getattr(dataset, "in_memory", whole.tensors is not None):
            logging.info(f"- num_workers={num_workers} is not needed for {split}: the data is in memory")
            num_workers = 0
        dataloaders[split] = _Batches(
            whole,
            batch_sampler=EpochBatches(
                len(dataset),
                params.batch_size,
                seed=params.seed if training and split == "train" else None,
                lengths=getattr(dataset, "lengths", None),
            ),
            collate_fn=_as_fetched,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device is not None and device.type == "cuda",
            worker_init_fn=runtime.ignore_signals_in_worker if num_workers else None,
            generator=torch.Generator(),  # its own, so that making an iterator does not draw from the global one
        )
        dataloaders[split].device = device if is_raw else None
    return dataloaders


def _as_fetched(batch: Any) -> Any:
    return batch
