"""The loop of train.py, as the benchmarks time it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from fiveline.nets import fetch_net

import utils
from fiveline.device import Signals, tune_cpu
from fiveline.loader import fetch_dataloader
from fiveline.options.forward import prepare
from fiveline.saving import Keeper
from fiveline.state import fetch_training
from train import enter_epoch, train


class OurLoop:
    """`train.train` with the batches of `fetch_dataloader`.

    Args:
        data_dir: the dataset
        params: with facts
        device: where to compute
    """

    def __init__(self, data_dir: Path, params: utils.Params, device: torch.device | None = None) -> None:
        tune_cpu()  # as train.py does
        net, device = fetch_net(params.task), device or torch.device("cpu")
        self.dataloader = fetch_dataloader(["train"], data_dir, params, device)["train"]
        self.training = fetch_training(prepare(net.Net(params), params, device), net, params, len(self.dataloader))
        with tempfile.TemporaryDirectory() as folder:  # no checkpoint is due before the end
            self.keeper = Keeper(utils.RunDirectory(Path(folder)), self.training, Signals())

    def epoch(self) -> None:
        """Train for one epoch."""
        enter_epoch(self.dataloader, self.training)
        train(self.training, self.dataloader, self.keeper)
        self.training.end_epoch(0.0, 0.0)
