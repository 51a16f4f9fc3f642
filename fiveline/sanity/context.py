"""What the checks look at: a run's data, net, loss and metrics, made by the project's own functions."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import utils
from fiveline.batches import EpochBatches
from fiveline.device import seed_everything, to_device
from fiveline.loader import fetch_dataloader, fetch_facts
from fiveline.metrics import IGNORED_LABEL
from fiveline.nets import fetch_metrics, fetch_net
from fiveline.options.forward import prepare
from fiveline.sanity.reads import recorded
from fiveline.sanity.survey import Survey, look_through
from fiveline.state import Training, fetch_training

MOST_SURVEYED = 4000  # examples of a split that are looked through, one by one
MOST_TOGETHER = 32  # examples in a batch of the checks that do not ask for the run's own batch size
# what the checks leave out, because it changes speed or averages over time, but not what is right or wrong
PLAIN: dict[str, Any] = {
    "schedule": "constant",
    "warmup_epochs": None,
    "ema_decay": None,
    "microbatch_size": None,
    "precision": "fp32",
    "compile": False,
    "activation_checkpointing": False,
    "num_workers": 0,
}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        status: PASS, WARN (look at it), or FAIL (do not train before it is mended)
        explanation: what was seen, in one line
        advice: what to do about it, in one line
        values: the numbers behind it, for --json
    """

    status: str
    explanation: str
    advice: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Batches:
    """Chosen examples of a split, as the project's loader would put them together.

    Args:
        dataset: of a dataloader: it fetches (epoch, indices)
        batches: epoch and indices of each batch
        device: where they go
        shift: take the labels from so many examples further on; for finding out whether they are shifted
    """

    def __init__(
        self, dataset: Any, batches: Sequence[tuple[int, list[int]]], device: torch.device, shift: int = 0
    ) -> None:
        self.dataset, self.batches, self.device, self.shift = dataset, batches, device, shift

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, some: slice) -> Batches:
        return Batches(self.dataset, self.batches[some], self.device, self.shift)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for epoch, indices in self.batches:
            inputs, labels = self.dataset.__getitems__((epoch, indices))
            if self.shift:
                shifted = [(index + self.shift) % len(self.dataset) for index in indices]
                labels = self.dataset.__getitems__((epoch, shifted))[1]
            yield to_device((inputs, labels), self.device)


class FewSteps:
    """Stands in the place of train.py's keeper: nothing is saved, and after so many steps the epoch is over.

    Args:
        num_steps: how many
        seconds: or as many as can be done in this time, and at least two
    """

    def __init__(self, num_steps: int, seconds: float = math.inf) -> None:
        self.num_steps, self._end = num_steps, time.monotonic() + seconds

    def watched(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the first batches."""
        for step, batch in enumerate(itertools.islice(batches, self.num_steps)):
            if step >= 2 and time.monotonic() > self._end:
                return
            yield batch


class Context:
    """A run that has not begun.

    Args:
        params: its hyperparameters
        device: where to compute

    Raises:
        InputError: a mistake in the data
    """

    def __init__(self, params: utils.Params, device: torch.device) -> None:
        self.device, self.data_dir = device, Path(params.data_dir or "")
        self.net = fetch_net(params.task)
        watched, self.names_read = recorded(params.model_copy(update={"num_workers": 0}))
        self.watched_params = fetch_facts(self.data_dir, watched)
        self.params = params.with_facts(self.watched_params.facts)
        self.metrics = fetch_metrics(self.net, self.params)
        # val as train.py sees it; train as it is trained on, and as evaluate.py sees it, without augmentation
        found = self._fetch_all("train", "val")
        unaugmented = fetch_dataloader(["train"], self.data_dir, self.watched_params, training=False)["train"]
        self.augmented: Any = found["train"].dataset
        self.plain: dict[str, Any] = {"train": unaugmented.dataset, "val": found["val"].dataset}
        self.without_test = ""
        try:
            test = fetch_dataloader(["test"], self.data_dir, self.watched_params, training=False)
            self.plain["test"] = test["test"].dataset
        except utils.InputError as error:  # a run can be trained without one
            self.without_test = str(error)
        self._surveys: dict[str, Survey] = {}
        self._results: dict[Any, Any] = {}

    def _fetch_all(self, *splits: str) -> dict[str, Any]:
        """Return the loader of each split; the mistakes of all splits are raised together."""
        found: dict[str, Any] = {}
        mistakes: dict[str, None] = {}
        for split in splits:
            try:
                found |= fetch_dataloader([split], self.data_dir, self.watched_params)
            except utils.InputError as error:  # noqa: PERF203  two splits
                mistakes[str(error)] = None
        if mistakes:
            raise utils.InputError("\n".join(mistakes))
        return found

    @property
    def splits(self) -> list[str]:
        """The splits that there are."""
        return list(self.plain)

    @functools.cached_property
    def few(self) -> int:
        """How many examples to put into a batch where it does not matter."""
        return max(2, min(MOST_TOGETHER, self.params.batch_size, self.params.microbatch_size or MOST_TOGETHER))

    def once(self, function: Callable[[Context], T]) -> T:
        """Return what a function makes of this run; several checks that want to know it ask once."""
        if function not in self._results:
            self._results[function] = function(self)
        result: T = self._results[function]
        return result

    def choose(self, split: str, number: int) -> list[int]:
        """Return up to `number` positions in a split, spread at random over it, in order."""
        generator = torch.Generator().manual_seed(self.params.seed)
        return sorted(torch.randperm(len(self.plain[split]), generator=generator)[:number].tolist())

    def batches(self, split: str, indices: Sequence[int], batch_size: int, epoch: int = 1, shift: int = 0) -> Batches:
        """Return examples of a split in order, in batches, without augmentation."""
        slices = EpochBatches(len(indices), batch_size, seed=None)
        chosen = [(epoch, [indices[place] for place in places]) for _, places in slices]
        return Batches(self.plain[split], chosen, self.device, shift)

    def train_batches(self, indices: Sequence[int], batch_size: int, num_steps: int, shift: int = 0) -> Batches:
        """Return so many batches of train examples, shuffled anew each time that all have been used."""
        slices, chosen = EpochBatches(len(indices), batch_size, seed=self.params.seed), []
        for epoch in itertools.count(1):
            slices.set_position(epoch)
            chosen += [(epoch, [indices[place] for place in places]) for _, places in slices]
            if len(chosen) >= num_steps:
                return Batches(self.plain["train"], chosen[:num_steps], self.device, shift)
        raise AssertionError

    def varied_batch(self, number: int) -> tuple[Any, Tensor]:
        """Return a batch of train examples that differ in their labels as much as they can."""
        candidates = self.choose("train", 512)
        labels = [label for _, batch in self.batches("train", candidates, self.few) for label in batch.cpu()]
        seen: dict[Any, int] = {}
        turns = []  # how many examples of the same label were there before; of a sequence, its labels as a set
        for label in labels:
            key = tuple(sorted(set(label.flatten().tolist()) - {IGNORED_LABEL}))
            turns.append((seen.get(key, 0), -len(key)))
            seen[key] = seen.get(key, 0) + 1
        best = sorted(range(len(candidates)), key=lambda place: turns[place])[:number]
        return next(iter(self.batches("train", [candidates[place] for place in best], number)))

    def fetch_model(self, params: utils.Params | None = None) -> nn.Module:
        """Return the net with the weights that a run begins with."""
        params = self.params.model_copy(update=PLAIN) if params is None else params
        seed_everything(self.params.seed)
        model = self.net.Net(params)
        if hasattr(self.net, "initialize"):
            self.net.initialize(model, params)
        return prepare(model, params, self.device)

    def fetch_training(self, **changes: Any) -> Training:
        """Return a run at its beginning, with a constant learning rate, in fp32, and with changed hyperparameters."""
        params = self.params.model_copy(update={**PLAIN, "batch_size": self.few, **changes})
        return fetch_training(self.fetch_model(params), self.net, params, steps_per_epoch=1)

    def survey(self, split: str) -> Survey:
        """Return what a look through a split's examples showed."""
        if split not in self._surveys:
            indices = self.choose(split, MOST_SURVEYED)
            self._surveys[split] = look_through(self.plain[split], indices, self._texts(split, indices))
        return self._surveys[split]

    def _texts(self, split: str, indices: Sequence[int]) -> list[list[str]] | None:
        """Return the tokens of examples, where the task has a `show.py` that knows them."""
        dataset = self.plain[split]
        if dataset.ids is None or not hasattr(dataset.dataset, "lengths"):
            return None
        try:
            show = importlib.import_module(f"model.{self.params.task}.show")
        except ModuleNotFoundError:
            return None
        shown = show.fetch_inputs([dataset.ids[index] for index in indices], split, self.data_dir, self.params)
        return [shown.get(dataset.ids[index], {}).get("tokens", []) for index in indices]

    def class_name(self, number: int) -> str:
        """Return what to call a class."""
        describe = getattr(importlib.import_module(f"model.{self.params.task}.data_loader"), "describe_inputs", None)
        names = self.params.facts.get("classes") or (describe(self.params).get("classes") if describe else None)
        return str(names[number]) if names and number < len(names) else f"class {number}"
