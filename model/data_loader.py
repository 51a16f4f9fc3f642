"""Batches for every task: which examples, in which order, from which process. The task says only what an example is."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

import processes
import runtime
import utils

BUCKET_BATCHES = 100  # batches whose examples are sorted by length together
Batch = tuple[int, list[int]]  # the epoch and the examples' positions in the split


class EpochBatches(Sampler[Any]):
    """The batches of one split. Shuffled ones have an order of their own in each epoch, known from (seed, epoch) alone.

    The order can therefore be entered anywhere: `set_position(epoch, step)` reads nothing and throws nothing away.
    Of a job's processes, each is given its share of every batch; the batches are those of a single process.

    Args:
        num_examples: in the split
        batch_size: examples in a batch; the last may be smaller, but a single example left over joins the batch
            before it, because batch norm cannot train on one
        seed: params.seed; None for the order of the split
        lengths: of each example, to put examples of similar length into the same batch; only where there is a seed
    """

    def __init__(
        self, num_examples: int, batch_size: int, seed: int | None, lengths: Sequence[int] | None = None
    ) -> None:
        self.seed, self.batch_size = seed, batch_size
        self._lengths = None if lengths is None else np.asarray(lengths)
        self._num_examples, self._num_batches = num_examples, -(-num_examples // batch_size)
        if self._num_batches > 1 and batch_size > 1 and num_examples % batch_size == 1:
            self._num_batches -= 1
        self.set_position(epoch=1)

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Say which epoch (from 1) to go through next, and how many of its batches are done already."""
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        # arrays: a list of a million numbers takes longer to make, and five times the memory
        order: np.ndarray = np.arange(self._num_examples)
        batches: Sequence[int] | np.ndarray = range(self._num_batches)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self._num_examples, generator=generator).numpy()
            if self._lengths is not None:
                order = self._bucketed(order)
                batches = torch.randperm(self._num_batches, generator=generator).numpy()
        is_shared = processes.world_size() > 1
        for batch in batches[self.step :]:
            indices = order[self._slice(batch)].tolist()
            yield processes.share(self.epoch, indices, self.batch_size) if is_shared else (self.epoch, indices)

    def _slice(self, batch: int) -> slice:
        is_last = batch == self._num_batches - 1
        return slice(batch * self.batch_size, self._num_examples if is_last else (batch + 1) * self.batch_size)

    def _bucketed(self, order: np.ndarray) -> np.ndarray:
        """Sort by length within windows of many batches: batches become alike, yet differ from epoch to epoch."""
        assert self._lengths is not None
        window = BUCKET_BATCHES * self._slice(0).stop
        parts = [order[start : start + window] for start in range(0, len(order), window)]
        return np.concatenate([part[self._lengths[part].argsort(kind="stable")] for part in parts])


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

    def _fetch(self, epoch: int, indices: list[int]) -> Any:
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


class _Batches(DataLoader[Any]):
    """A DataLoader that adds nothing to a step where it has nothing to do, and lets a GPU finish its batches itself.

    Attributes:
        device: where to finish raw batches; None where they come finished
    """

    device: torch.device | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.device is not None:
            return map(self._finish, super().__iter__())
        if self.num_workers == 0 and not self.pin_memory:  # as PyTorch's iterator does, without its bookkeeping
            return map(self.dataset.__getitems__, self.batch_sampler)  # type: ignore[arg-type, attr-defined]
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
        InputError: the data of a split is missing, empty or broken
    """
    module = _task_module(params)
    dataloaders: dict[str, DataLoader[Any]] = {}
    for split in splits:
        dataset = module.fetch_dataset(split, data_dir, params)
        if len(dataset) == 0:
            raise utils.InputError(f"{data_dir}: the {split} split is empty")
        if not training and hasattr(dataset, "augment"):
            dataset.augment = False
        num_workers = params.num_workers
        if num_workers and getattr(dataset, "in_memory", False):
            logging.info(f"- num_workers={num_workers} is not needed for {split}: the data is in memory")
            num_workers = 0
        is_raw = device is not None and device.type != "cpu" and hasattr(dataset, "fetch_raw")
        dataloaders[split] = _Batches(
            _WholeBatches(dataset, getattr(module, "collate_fn", default_collate), params.seed, is_raw),
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
