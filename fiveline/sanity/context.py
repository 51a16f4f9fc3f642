"""The run that the checks look at. Only this module knows how the core makes nets, optimizers, loaders and datasets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import utils
from fiveline.device import count_batches, seed_everything, to_device
from fiveline.jobs.one import OneProcess
from fiveline.loader import fetch_dataloader
from fiveline.metrics import IGNORED_LABEL
from fiveline.options import forward, pretrained
from fiveline.options.optimizer import clip_gradients, fetch_optimizer
from fiveline.options.schedule import fetch_schedule
from fiveline.options.set_up import fetch_extras, fetch_step
from fiveline.state import State, Step
from fiveline.tasks import fetch_facts, fetch_serve, fetch_task

MAX_BATCH = 32  # examples in a batch of the checks that do not depend on the run's own batch size
# options that the checks switch off: they only change speed or precision, or average over time
PLAIN: dict[str, Any] = {"ema_decay": None, "microbatch_size": None, "precision": "fp32"}


@dataclasses.dataclass
class Batches:
    """Batches of a loader's dataset, on a device."""

    dataset: Any
    chosen: Sequence[list[int]]  # the examples' positions, for each batch
    device: torch.device
    shift: int = 0  # take the labels this many positions later, to find shifted labels

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for indices in self.chosen:
            inputs, labels = self.dataset.__getitems__(indices)
            if self.shift:
                later = [(index + self.shift) % len(self.dataset) for index in indices]
                labels = self.dataset.__getitems__(later)[1]
            yield to_device((inputs, labels), self.device)


@dataclasses.dataclass
class Trainer:
    """A run before its first step: its state, the loss to train on, and the train step of train.py."""

    state: State
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: Any
    train_step: Step

    def step(self, inputs: Any, labels: Tensor) -> tuple[Any, Tensor]:
        """Take one step in train mode; return outputs and loss."""
        return self.train_step(self.model.train(), self.optimizer, self.loss_fn, inputs, labels)


class Context:
    """A run before its first step, with train.py's two train steps in `steps` and evaluate.py's function `evaluate`."""

    def __init__(self, params: utils.Params, device: torch.device, steps: tuple[Step, Step], evaluate: Any) -> None:
        self.device, self._steps, self._evaluate = device, steps, evaluate
        self.data_dir = Path(params.data_dir or "")
        self.run_params, self.params = params, fetch_facts(self.data_dir, params)
        task = fetch_task(self.params)
        self.loss_fn, self.metrics = task.loss_fn, task.metrics
        self.serve: Any = fetch_serve(params.task)
        self.small_batch_size = max(2, min(MAX_BATCH, params.batch_size, params.microbatch_size or MAX_BATCH))
        self.datasets: dict[str, Any] = {}  # by split, without augmentation
        mistakes: dict[str, str] = {}  # all of them are reported
        for split in ("train", "val", "test"):
            try:
                self.datasets[split] = fetch_dataloader(split, self.data_dir, self.params).dataset
            except utils.InputError as error:  # noqa: PERF203  three splits
                mistakes[split] = str(error)
        self.no_test_reason = mistakes.pop("test", "")  # why there is no test split; a run can be trained without one
        if mistakes:
            raise utils.InputError("\n".join(dict.fromkeys(mistakes.values())))
        self.has_lengths = hasattr(self.datasets["train"].dataset, "lengths")  # if so, batches are padded

    def choose(self, split: str, number: int) -> list[int]:
        """Return up to `number` positions in a split, spread over it at random, in order."""
        generator = torch.Generator().manual_seed(self.params.seed)
        return sorted(torch.randperm(len(self.datasets[split]), generator=generator)[:number].tolist())

    def batches(self, split: str, indices: Sequence[int], batch_size: int, shift: int = 0) -> Batches:
        """Return examples of a split in order, in balanced batches, without augmentation."""
        return Batches(self.datasets[split], balanced(indices, batch_size), self.device, shift)

    def sample(self, split: str, number: int, shift: int = 0) -> Batches:
        """Return up to `number` examples of a split in small batches, without augmentation."""
        return self.batches(split, self.choose(split, number), self.small_batch_size, shift)

    def augmented_batches(self, indices: Sequence[int], epoch: int, params: utils.Params | None = None) -> Batches:
        """Return train examples as an epoch of training sees them, with other hyperparameters if they are given."""
        dataset: Any = fetch_dataloader("train", self.data_dir, params or self.params, training=True).dataset
        dataset.set_epoch(epoch)
        return Batches(dataset, balanced(indices, self.small_batch_size), self.device)

    def train_batches(self, indices: Sequence[int], batch_size: int, num_steps: int, shift: int = 0) -> Batches:
        """Return this many batches of train examples, without augmentation, shuffled again for each epoch."""
        generator, chosen = torch.Generator().manual_seed(self.params.seed), list[list[int]]()
        while len(chosen) < num_steps:
            order = torch.randperm(len(indices), generator=generator).tolist()
            chosen += balanced([indices[place] for place in order], batch_size)
        return Batches(self.datasets["train"], chosen[:num_steps], self.device, shift)

    def varied_batch(self, number: int) -> tuple[Any, Tensor]:
        """Return a batch of train examples whose labels differ as much as possible."""
        candidates = self.choose("train", 512)
        labels = [label for _, batch in self.sample("train", 512) for label in batch.cpu()]
        kinds = [set(label.flatten().tolist()) - {IGNORED_LABEL} for label in labels]  # a sequence has several labels
        ranks = [(kinds[:place].count(kind), -len(kind), place) for place, kind in enumerate(kinds)]
        chosen = [candidates[place] for *_, place in sorted(ranks)[:number]]
        return next(iter(self.batches("train", chosen, number)))

    def first_labels(self) -> Tensor:
        """Return the labels of one train example, as a batch."""
        return next(iter(self.batches("train", [0], 1)))[1]

    def evaluate(self, model: nn.Module, batches: Any) -> dict[str, float]:
        """Evaluate with the function of evaluate.py."""
        scores: dict[str, float] = self._evaluate(model, self.loss_fn, batches, self.metrics)
        return scores

    def fetch_trainer(self, params: utils.Params | None = None, **changes: Any) -> Trainer:
        """Return a run before its first step, built as in train.py, but not compiled, and by default in fp32."""
        params = (params or self.params.model_copy(update=PLAIN)).model_copy(update={"compile": False, **changes})
        task = fetch_task(params)
        seed_everything(params.seed)
        net = task.Net(params)
        pretrained.initialize(net, params, pretrained.read_source(params))
        net = forward.prepare(net, params, self.device)
        optimizer = fetch_optimizer(net, params)
        if params.clip_grad_norm is not None:
            clip_gradients(optimizer, params.clip_grad_norm)
        job = OneProcess()
        extras, schedule = fetch_extras(net, optimizer, params, job), fetch_schedule(params, 1)
        state = State(net, optimizer, params, schedule, task.sign(params.monitor), task.metrics, job, extras)
        return Trainer(state, net, optimizer, task.train_loss_fn, fetch_step(state, *self._steps))

    def dry_run(self, params: utils.Params) -> None:
        """Try each part of a run with these hyperparameters: load data, take two steps, evaluate, end two epochs."""
        params = fetch_facts(self.data_dir, params)
        fetch_dataloader("val", self.data_dir, params)
        trainer = self.fetch_trainer(params)
        for inputs, labels in self.augmented_batches(self.choose("train", 2 * self.small_batch_size), 1, params):
            trainer.state.set_learning_rate()
            trainer.step(inputs, labels)
        self.evaluate(trainer.state.net_to_evaluate, self.sample("val", 64))
        for _ in range(2):
            trainer.state.end_epoch(0.0, 0.0)
        trainer.state.is_finished()

    def tokens(self, split: str, indices: Sequence[int]) -> list[list[str]] | None:
        """Return the words and the spaces of examples, where the task's serve.py knows them."""
        ids = self.datasets[split].ids
        if ids is None or not self.has_lengths or not hasattr(self.serve, "fetch_inputs"):
            return None
        shown = self.serve.fetch_inputs([ids[index] for index in indices], split, self.data_dir, self.params)
        entries = [shown.get(ids[index], {}) for index in indices]
        rows = ["\n".join(map(str, entry.get("row", {}).values())) for entry in entries]
        return [entry.get("tokens") or re.findall(r"\s+|\S+", row) for entry, row in zip(entries, rows, strict=True)]

    def class_name(self, number: int) -> str:
        """Return the name of a class."""
        names = self.params.facts.get("classes")
        if not names and hasattr(self.serve, "describe_inputs"):
            names = self.serve.describe_inputs(self.params).get("classes")
        return str(names[number]) if names and number < len(names) else f"class {number}"


def outputs_of(model: nn.Module, batches: Iterable[tuple[Any, Tensor]]) -> list[tuple[Any, Tensor]]:
    """Return (outputs, labels) of each batch, on the CPU, in the mode that the model is in."""
    with torch.no_grad():
        return [to_device((model(inputs), labels), torch.device("cpu")) for inputs, labels in batches]


def balanced(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut positions into batches of at most this size that differ by one example at most."""
    return [part.tolist() for part in np.array_split(indices, count_batches(len(indices), batch_size))]
