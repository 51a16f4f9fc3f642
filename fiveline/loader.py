"""Loaders of batches for every task, fetched here or in other processes. The task says only what an example is."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

import utils
from fiveline.batches import EpochBatches
from fiveline.contract import check_attributes, check_facts
from fiveline.device import end_workers_at_exit, ignore_signals_in_worker, to_device
from fiveline.jobs import processes
from fiveline.whole_batches import WholeBatches


class _Batches(DataLoader[Any]):
    """A DataLoader that adds nothing to a step where it has nothing to do, and lets a GPU finish its batches itself.

    Attributes:
        device: where to finish raw batches; None where they come finished
    """

    device: torch.device | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        dataset: Any = self.dataset
        sampler: Any = self.batch_sampler
        if self.num_workers or self.pin_memory:
            batches: Iterator[Any] = super().__iter__()
        # in training only: what is scored is computed as predict.py does, from batches that are gathered each
        elif dataset.numbers_an_example and sampler.seed is not None and processes.world_size() == 1:
            return dataset.cut(sampler)
        else:  # as PyTorch's iterator does, without its bookkeeping
            batches = map(dataset.__getitems__, sampler)
        return batches if self.device is None else map(self._finish, batches)

    def _finish(self, batch: Any) -> Any:
        raw, labels = moved = to_device(batch, self.device)  # type: ignore[arg-type]
        pair = self.dataset.dataset.finish(raw), labels  # type: ignore[attr-defined]
        return type(moved)(*pair) if hasattr(moved, "_fields") else pair  # a namedtuple, or not


def _task_module(params: utils.Params) -> ModuleType:
    return importlib.import_module(f"model.{params.task}.data_loader")


def fetch_facts(data_dir: Path, params: utils.Params) -> utils.Params:
    """Return the hyperparameters with what the data decides (class names, vocabulary) in `params.facts`.

    Raises:
        InputError: the data is missing or broken
    """
    facts = _task_module(params).fetch_facts(data_dir, params)
    check_facts(facts, f"model/{params.task}/data_loader.py")
    return params.with_facts(facts)


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
    check_attributes(dataset, f"model/{params.task}/data_loader.py: {split}'s dataset, {type(dataset).__name__}")
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
        device: where the batches will go; a GPU keeps a small split, else it fetches batches by itself, from pinned
            memory
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
        whole = WholeBatches(dataset, getattr(module, "collate_fn", default_collate), params.seed, is_raw)
        num_workers = params.num_workers
        if num_workers and getattr(dataset, "in_memory", whole.tensors is not None):
            logging.info(f"- num_workers={num_workers} is not needed for {split}: the data is in memory")
            num_workers = 0
        if num_workers:
            processes.check_open_files(num_workers, len(splits))
            end_workers_at_exit()
        is_moved = device is not None and whole.move_to(device)
        if is_moved:
            logging.info(f"- {split}: kept on {device}")
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
            pin_memory=device is not None and device.type == "cuda" and not is_moved,
            worker_init_fn=ignore_signals_in_worker if num_workers else None,
            generator=torch.Generator(),  # its own, so that making an iterator does not draw from the global one
        )
        dataloaders[split].device = device if is_raw else None
    return dataloaders


def _as_fetched(batch: Any) -> Any:
    return batch
