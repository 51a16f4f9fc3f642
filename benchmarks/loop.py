"""Measure the overhead of the loop in train.py: an epoch of it against an epoch of a bare loop.

    python -m benchmarks.loop
    python -m benchmarks.loop --model_dir experiments/ner --epochs 5 --device cuda

For each experiment, three loops train the same net on the same data with the same optimizer, in one process. The bare
loop is the five lines and an ordinary DataLoader. "ready batches" is the five lines alone: its batches were made
before, so it leaves out loading, shuffling and augmentation. Ours also sums up metrics, sets the learning rate, watches
for signals and checks whether a checkpoint is due. Writes nothing.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import utils
from benchmarks.timing import PROJECT, new_parser, print_ratios, take_turns
from fiveline.device import fetch_device, to_device, tune_cpu
from fiveline.jobs.one import OneProcess
from fiveline.loader import Split, fetch_dataloader
from fiveline.options.forward import prepare
from fiveline.options.optimizer import fetch_optimizer
from fiveline.record.signals import Signals
from fiveline.saving import Saver
from fiveline.state import State
from fiveline.tasks import fetch_collate_fn, fetch_dataset, fetch_facts, fetch_params, fetch_task
from train import train, train_step

EXPERIMENTS = ["experiments/base_model", "experiments/ner", "experiments/tabular_digits"]


class OurLoop:
    """`train.train`, as train.py runs it.

    Args:
        data_dir: the dataset
        params: with facts
        device: where to compute
    """

    def __init__(self, data_dir: Path, params: utils.Params, device: torch.device) -> None:
        task = fetch_task(params)
        self.dataloader = fetch_dataloader("train", data_dir, params, training=True, device=device)
        model, self.loss_fn = prepare(task.Net(params), params, device), task.train_loss_fn
        optimizer, num_steps = fetch_optimizer(model, params), len(self.dataloader)
        self.state = State(model, optimizer, params, num_steps, 1, task.metrics, OneProcess())
        with tempfile.TemporaryDirectory() as folder:  # no checkpoint is due before the end
            self.saver = Saver(utils.RunDirectory(Path(folder)), self.state, Signals())

    def epoch(self) -> None:
        """Train for one epoch."""
        train(self.state, self.dataloader, self.loss_fn, self.saver)
        self.state.end_epoch(0.0, 0.0)


class BareLoop:
    """The five lines, as an epoch of them is usually written.

    Args:
        batches: of (inputs, labels)
        params: with facts
        device: where to compute
    """

    def __init__(self, batches: Iterable[Any], params: utils.Params, device: torch.device) -> None:
        task = fetch_task(params)
        self.batches, self.device = batches, device
        self.model, self.loss_fn = prepare(task.Net(params), params, device), task.train_loss_fn
        self.optimizer = fetch_optimizer(self.model, params)

    def epoch(self) -> None:
        """Train for one epoch."""
        self.model.train()
        for batch in self.batches:
            train_step(self.model, self.optimizer, self.loss_fn, *to_device(batch, self.device))


def fetch_loops(model_dir: Path, device: torch.device) -> tuple[dict[str, OurLoop | BareLoop], int]:
    """Return the three loops of an experiment, by name, and the number of steps in an epoch."""
    params = fetch_params(model_dir)
    data_dir = PROJECT / (params.data_dir or "")
    params = params.with_facts(fetch_facts(data_dir, params).facts)
    dataset = Split(fetch_dataset("train", data_dir, params), fetch_collate_fn(params.task), params.seed)
    dataset.set_epoch(1)  # from now on it augments, as ours does
    dataloader = DataLoader(dataset, params.batch_size, shuffle=True, collate_fn=lambda batch: batch)
    loops: dict[str, OurLoop | BareLoop] = {
        "bare loop": BareLoop(dataloader, params, device),
        "ready batches": BareLoop([to_device(batch, device) for batch in dataloader], params, device),
        "ours": OurLoop(data_dir, params, device),
    }
    return loops, len(dataloader)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = new_parser(__doc__, rounds=20)
    parser.add_argument("--model_dir", nargs="+", default=EXPERIMENTS, help="experiments whose params are used")
    parser.add_argument("--epochs", type=int, default=1, help="that a loop trains in one turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="that torch computes with")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    logging.disable()
    torch.set_num_threads(args.threads)
    tune_cpu()  # as train.py does; it speeds up all three
    device = fetch_device(args.device)

    def turn(loop: OurLoop | BareLoop) -> None:
        for _ in range(args.epochs):
            loop.epoch()
        if device.type == "cuda":
            torch.cuda.synchronize()

    for name in args.model_dir:
        loops, num_steps = fetch_loops(PROJECT / name, device)
        actions = {title: lambda loop=loop: turn(loop) for title, loop in loops.items()}
        scale = 1e6 / (num_steps * args.epochs)
        print_ratios(name, take_turns(actions, args.rounds), scale, "microseconds a step")


if __name__ == "__main__":
    main()
