"""Batches for every task: which examples, in which order, from which process. The task says only what an example is."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

import runtime
import utils

Batch = tuple[int, list[int]]  # the epoch and the examples' positions in the split


class EpochBatches(Sampler[Any]):
    """The batches of one split. Shuffled ones have an order of their own in each epoch, known from (seed, epoch) alone.

    The order can therefore be entered anywhere: `set_position(epoch, step)` costs nothing, whatever the step.

    Args:
        num_examples: in the split
        batch_size: examples in a batch; the last batch may be smaller, but a single example left over joins the
            batch before it, because batch norm cannot train on one
        shuffle: for the train split
        seed: params.seed
    """

    def __init__(self, num_examples: int, batch_size: int, shuffle: bool, seed: int) -> None:
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.set_position(epoch=1)

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Say which epoch (from 1) to go through next, and how many of its batches are done already."""
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        full, left_over = divmod(self.num_examples, self.batch_size)
        return max(1, full + (left_over > 1 or self.batch_size == 1 and left_over > 0))

    def __iter__(self) -> Iterator[Batch]:
        order = range(self.num_examples) if not self.shuffle else self._shuffled()
        for step in range(self.step, len(self)):
            end = (step + 1) * self.batch_size if step + 1 < len(self) else self.num_examples
            yield self.epoch, list(order[step * self.batch_size : end])

    def _shuffled(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.num_examples, generator=generator).tolist()


class _WholeBatches(Dataset[Any]):
    """A task's dataset, asked for whole batches of a known epoch. (PyTorch's fetcher calls `__getitems__`.)"""

    def __init__(self, dataset: Dataset[Any], collate_fn: Callable[[list[Any]], Any], seed: int) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn
        self.seed = seed
        self.ids = getattr(dataset, "ids", None)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, batch: Batch) -> Any:
        epoch, indices = batch
        if get_worker_info() is not None:  # random numbers drawn in a worker depend on the batch, not on the worker
            runtime.seed_everything(self.seed, epoch, indices[0])
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        if not hasattr(self.dataset, "__getitems__"):
            return self.collate_fn([self.dataset[index] for index in indices])
        fetched = self.dataset.__getitems__(indices)
        return self.collate_fn(fetched) if isinstance(fetched, list) else fetched


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
    dataloaders = {}
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
        dataloaders[split] = DataLoader(
            _WholeBatches(dataset, getattr(module, "collate_fn", default_collate), params.seed),
            batch_sampler=EpochBatches(len(dataset), params.batch_size, training and split == "train", params.seed),
            collate_fn=_as_fetched,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device is not None and device.type == "cuda",
            generator=torch.Generator(),  # its own, so that making an iterator does not draw from the global one
        )
    return dataloaders


def _as_fetched(batch: Any) -> Any:
    return batch
