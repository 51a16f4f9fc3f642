"""The loop of train.py, as the benchmarks time it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import utils
from fiveline.jobs.one import OneProcess
from fiveline.loader import fetch_dataloader
from fiveline.options.forward import prepare, tune_cpu
from fiveline.options.optimizer import fetch_optimizer
from fiveline.record.signals import Signals
from fiveline.saving import Saver
from fiveline.state import State
from fiveline.tasks import fetch_task
from train import train


class OurLoop:
    """`train.train` with the batches of `fetch_dataloader`.

    Args:
        data_dir: the dataset
        params: with facts
        device: where to compute
    """

    def __init__(self, data_dir: Path, params: utils.Params, device: torch.device | None = None) -> None:
        tune_cpu()  # as train.py does
        task, device = fetch_task(params), device or torch.device("cpu")
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
