"""Which examples are in which batch, in which order, and in which process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from fiveline.jobs import processes

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
        is_shared = processes.world_size() > 1
        order, batches = self.order()
        for batch in batches[self.step :]:
            indices = order[self.place(batch)].tolist()
            yield processes.share(self.epoch, indices, self.batch_size) if is_shared else (self.epoch, indices)

    def order(self) -> tuple[np.ndarray, Sequence[int] | np.ndarray]:
        """Return the order of the epoch's examples, (num_examples,), int64, and of its batches, each a `place` in it.

        The batches follow one another, unless they are of similar lengths.
        """
        # arrays: a list of a million numbers takes longer to make, and five times the memory
        order: np.ndarray = np.arange(self._num_examples)
        batches: Sequence[int] | np.ndarray = range(self._num_batches)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self._num_examples, generator=generator).numpy()
            if self._lengths is not None:
                order = self._bucketed(order)
                batches = torch.randperm(self._num_batches, generator=generator).numpy()
        return order, batches

    def place(self, batch: int) -> slice:
        """Return where a batch stands in the order of the examples."""
        is_last = batch == self._num_batches - 1
        return slice(batch * self.batch_size, self._num_examples if is_last else (batch + 1) * self.batch_size)

    def _bucketed(self, order: np.ndarray) -> np.ndarray:
        """Sort by length within windows of many batches: batches become alike, yet differ from epoch to epoch."""
        assert self._lengths is not None
        window = BUCKET_BATCHES * self.place(0).stop
        parts = [order[start : start + window] for start in range(0, len(order), window)]
        return np.concatenate([part[self._lengths[part].argsort(kind="stable")] for part in parts])
