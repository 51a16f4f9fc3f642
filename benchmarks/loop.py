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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import utils
from benchmarks.timing import PROJECT, new_parser, print_ratios, take_turns
from fiveline.device import fetch_device, to_device
from fiveline.jobs.one import OneProcess
from fiveline.loader import Split, fetch_dataloader
from fiveline.options.forward import prepare
from fiveline.options.optimizer import fetch_optimizer
from fiveline.options.schedule import fetch_schedule
from fiveline.record.script import Signals
from fiveline.saving import Saver
from fiveline.state import State
from fiveline.tasks import fetch_collate_fn, fetch_dataset, fetch_facts, fetch_params, fetch_task
from train import train, train_step

EXPERIMENTS = ["experiments/base_model", "experiments/ner", "experiments/tabular_digits"]


def our_loop(data_dir: Path, params: utils.Params, device: torch.device) -> Callable[[], None]:
    """Return a function that trains for one epoch with `train.train`, as train.py runs it."""
    task = fetch_task(params)
    dataloader = fetch_dataloader("train", data_dir, params, training=True, device=device)
    model = prepare(task.Net(params), params, device)
    optimizer = fetch_optimizer(model, params)
    state = State(model, optimizer, params, fetch_schedule(params, len(dataloader)), 1, task.metrics, OneProcess())
    with tempfile.TemporaryDirectory() as folder:  # no checkpoint is due before the end
        saver = Saver(utils.RunDirectory(Path(folder)), state, Signals())

    def epoch() -> None:
        train(state, dataloader, task.train_loss_fn, saver)
        state.end_epoch(0.0, 0.0)

    return epoch


def bare_loop(batches: Iterable[Any], params: utils.Params, device: torch.device) -> Callable[[], None]:
    """Return a function that trains for one epoch with nothing but the five lines."""
    task = fetch_task(params)
    model = prepare(task.Net(params), params, device)
    optimizer = fetch_optimizer(model, params)

    def epoch() -> None:
        model.train()
        for batch in batches:
            train_step(model, optimizer, task.train_loss_fn, *to_device(batch, device))

    return epoch


def fetch_loops(model_dir: Path, device: torch.device) -> tuple[dict[str, Callable[[], None]], int]:
    """Return the three loops of an experiment, by name, and the number of steps in an epoch."""
    params = fetch_params(model_dir)
    data_dir = PROJECT / (params.data_dir or "")
    params = fetch_facts(data_dir, params)
    dataset = Split(fetch_dataset("train", data_dir, params), fetch_collate_fn(params.task), params.seed)
    dataset.set_epoch(1)  # from now on it augments, as ours does
    dataloader = DataLoader(dataset, params.batch_size, shuffle=True, collate_fn=lambda batch: batch)
    loops = {
        "bare loop": bare_loop(dataloader, params, device),
        "ready batches": bare_loop([to_device(batch, device) for batch in dataloader], params, device),
        "ours": our_loop(data_dir, params, device),
    }
    return loops, len(dataloader)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = new_parser(__doc__, rounds=20)
    parser.add_argument("--model_dir", nargs="+", default=EXPERIMENTS, help="experiments whose params are used")
    parser.add_argument("--epochs", type=int, default=1, help="that a loop trains in one turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="that torch computes with")
    parser.add_argument("--device", default="cpu", help="where both loops compute")
    args = parser.parse_args(argv)
    logging.disable()
    torch.set_num_threads(args.threads)
    device = fetch_device(args.device)

    def turn(epoch: Callable[[], None]) -> None:
        for _ in range(args.epochs):
            epoch()
        if device.type == "cuda":
            torch.cuda.synchronize()

    for name in args.model_dir:
        loops, num_steps = fetch_loops(PROJECT / name, device)
        actions = {title: lambda epoch=epoch: turn(epoch) for title, epoch in loops.items()}
        times = take_turns(actions, args.rounds)
        print_ratios(name, times, 1e6 / (num_steps * args.epochs), "microseconds a step")


if __name__ == "__main__":
    main()
