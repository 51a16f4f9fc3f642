"""The batches of every task: an ordinary DataLoader whose order depends only on (seed, epoch)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from fiveline.device import ORDER, WORKER, count_batches, seed_everything, seed_of
from fiveline.record import script
from fiveline.tasks import fetch_collate_fn, fetch_dataset
from utils import InputError, Stop, explain

WINDOW_BATCHES = 100  # examples are sorted by length within windows of this many batches


class EpochBatches(Sampler[list[int]]):
    """Choose the examples of each batch. The order depends only on (seed, epoch), so an epoch can resume at any batch.

    Batches are balanced: batch i of k holds `order[i * n // k : (i + 1) * n // k]`. They differ by one example at most.

    Args:
        num_examples: number of examples in the split
        batch_size: maximum size of a batch, over all processes of a job; `count_batches` describes an exception
        seed: params.seed to shuffle; None to keep the order of the split
        lengths: length of each example; a shuffled batch then holds examples of similar length
        shard: (rank, world_size) of this process in a job; the processes get balanced parts of each batch
        steps: batches of an epoch; None for one pass over the split. Passes follow each other across epochs
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int | None = None,
        lengths: Sequence[int] | None = None,
        shard: tuple[int, int] = (0, 1),
        steps: int | None = None,
    ) -> None:
        self.num_examples, self.seed, self.shard = num_examples, seed, shard
        self.lengths = None if lengths is None or seed is None else np.asarray(lengths)
        self.num_batches = count_batches(num_examples, batch_size)  # in a pass
        self.steps = steps or self.num_batches
        self.set_position(epoch=1)

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Set which epoch (from 1) comes next, and how many of its batches are done."""
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        rank, world_size = self.shard
        edges = np.arange(self.num_batches + 1) * self.num_examples // self.num_batches
        starts, sizes = edges[:-1], np.diff(edges)
        starts, ends = starts + rank * sizes // world_size, starts + (rank + 1) * sizes // world_size
        first, end = (self.epoch - 1) * self.steps + self.step, self.epoch * self.steps  # counted from the run's start
        for number in range(first // self.num_batches, -(-end // self.num_batches)):
            order, batches = self.order(number + 1)
            start = number * self.num_batches
            for i in batches[max(0, first - start) : end - start]:
                yield order[starts[i] : ends[i]].tolist()

    def order(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the examples in a pass (from 1), (num_examples,), and of its batches; both int64."""
        order, batches = np.arange(self.num_examples), np.arange(self.num_batches)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(seed_of(ORDER, self.seed, number))
            order = torch.randperm(self.num_examples, generator=generator).numpy()
            if self.lengths is not None:
                window = -(-WINDOW_BATCHES * self.num_examples // self.num_batches)
                windows = [order[start : start + window] for start in range(0, len(order), window)]
                order = np.concatenate([part[self.lengths[part].argsort(kind="stable")] for part in windows])
                batches = torch.randperm(self.num_batches, generator=generator).numpy()
        return order, batches


class DataError(InputError):
    """A mistake in the data. PyTorch puts a worker's traceback before the message; it is cut off here."""

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.DataError: ")[2].rstrip("\n"))


class Split(Dataset[Any]):
    """A task's dataset, with errors that name the example that could not be loaded."""

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any], seed: int) -> None:
        self.dataset, self.collate_fn, self.seed = dataset, collate_fn, seed
        self.ids: Sequence[Any] | None = getattr(dataset, "ids", None)
        self.has_getitems, self.epoch = hasattr(dataset, "__getitems__"), 0

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 1, that augmentation depends on."""
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __getitems__(self, indices: list[int]) -> Any:
        """Return a batch, (inputs, labels). PyTorch's DataLoader calls this."""
        if get_worker_info() is not None:  # a worker's random numbers depend on the batch, not on the worker
            seed_everything(self.seed, self.epoch, indices[0], WORKER)
        try:
            dataset = self.dataset
            fetched = dataset.__getitems__(indices) if self.has_getitems else [dataset[index] for index in indices]
            return fetched if isinstance(fetched, tuple) else self.collate_fn(fetched)
        except Exception as error:
            self._raise_named(error, indices)

    def _raise_named(self, error: Exception, indices: list[int]) -> NoReturn:
        """Raise an error that names the example, if one of the batch cannot be loaded alone."""
        if isinstance(error, InputError):
            raise DataError(str(error)) from None
        if explain(error) is not None:  # such as out of memory: no single example caused it
            raise error
        if len(indices) == 1:
            name = f"example {indices[0]}" + (f" ({self.ids[indices[0]]})" if self.ids is not None else "")
            raise RuntimeError(f"{name} could not be loaded: {error!r}") from error
        for index in indices:
            self.__getitems__([index])
        raise error


def fetch_dataloader(
    split: str,
    data_dir: Path,
    params: Any,
    training: bool = False,
    device: torch.device | None = None,
    shard: tuple[int, int] = (0, 1),
) -> DataLoader[Any]:
    """Return a DataLoader of (inputs, labels) batches, or raise InputError if the data is missing or broken.

    Args:
        split: 'train', 'val' or 'test'
        data_dir: the dataset
        params: the hyperparameters, with the dataset's facts
        training: shuffle and augment; otherwise keep the split's order, and do not augment
        device: where the batches will go
        shard: (rank, world_size) of this process in a job
    """
    dataset = fetch_dataset(split, data_dir, params)
    lengths = getattr(dataset, "lengths", None)
    seed, steps = (params.seed, params.evaluate_every_steps) if training else (None, None)
    sampler = EpochBatches(len(dataset), params.batch_size, seed, lengths, shard, steps)
    smallest = len(dataset) // sampler.num_batches
    if smallest < shard[1]:
        raise InputError(
            f"{split}: a batch of {smallest} examples cannot be shared by {shard[1]} processes; "
            f"expected a batch_size and a split of at least {2 * shard[1]} examples, or start fewer processes"
        )
    has_workers = params.num_workers > 0
    if has_workers:
        script.prepare_workers()
    return DataLoader(
        Split(dataset, fetch_collate_fn(params.task), params.seed),
        batch_sampler=sampler,
        collate_fn=tuple,  # Split has collated the batch
        num_workers=params.num_workers,
        persistent_workers=has_workers and not training,  # in training, each epoch starts new workers with its number
        pin_memory=has_workers and device is not None and device.type == "cuda",
        worker_init_fn=script.outlive_signals if has_workers else None,
        generator=torch.Generator(),  # without it, making an iterator would draw from the global generator
    )


def batches_from(dataloader: DataLoader[Any], epoch: int, step: int = 0) -> tuple[Iterator[Any], int]:
    """Return an epoch's batches from `step` on, and that step, which is 0 if the loader can only start at 0."""
    dataset, sampler = dataloader.dataset, dataloader.batch_sampler
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)
    if isinstance(sampler, EpochBatches):
        sampler.set_position(epoch, step)
    elif step:
        logging.warning("- WARNING: this loader cannot start within an epoch; the epoch starts again")
        step = 0
    return started(dataloader), step


def started(dataloader: DataLoader[Any]) -> Iterator[Any]:
    """Return the batches of a dataloader. If a worker process dies, the next fetch from it raises an error."""
    split: Any = dataloader.dataset
    if dataloader.num_workers == 0 and isinstance(split, Split) and dataloader.batch_sampler is not None:
        return map(split.__getitems__, dataloader.batch_sampler)  # like iter(dataloader), but five times as fast
    batches = iter(dataloader)
    script.notice_dead_workers_at_the_fetch()
    return batches


def saving_between(saver: Any, batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches; before each one, let the saver act if a signal arrived, or if it is time to save or to log."""
    saver.plan_log()
    while True:
        if saver.signals.received or saver.state.step >= saver.logs_at_step or time.monotonic() >= saver.acts_at:
            saver.act()  # before the fetch, which may draw random numbers
        try:
            yield next(batches)
        except StopIteration:
            return
        except InterruptedError:  # on Windows, Ctrl-C ends the wait for a worker's batch
            continue
        except (ConnectionError, EOFError) as error:
            found = f"no batch came ({error!r}); perhaps a data loading process died while it sent one"
            raise Stop(f"{found}. Rerun the same command to continue") from error
