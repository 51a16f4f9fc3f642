"""Everything between a run's hyperparameters and its first step."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import utils
from fiveline.device import describe, seed_everything, tune_cpu
from fiveline.jobs import processes
from fiveline.jobs.sharded import distribute
from fiveline.loader import fetch_dataloader, fetch_facts
from fiveline.nets import fetch_net
from fiveline.options.forward import compile_net, describe_forward, prepare
from fiveline.record.start import Start
from fiveline.state import Training, fetch_training


def set_up(
    params: utils.Params, run: utils.RunDirectory, start: Start, device: torch.device
) -> tuple[Training, dict[str, DataLoader[Any]]]:
    """Build data, net and optimizer as the hyperparameters say, and restore what there is to restore.

    Args:
        params: without facts
        run: the directory to train in; what may change the bits of the result is noted there
        start: what to begin with
        device: where to compute

    Returns:
        what trains, and the dataloaders of train and val

    Raises:
        InputError: a mistake in the data, or a checkpoint of another net
    """
    tune_cpu()
    net = fetch_net(params.task)
    data_dir = Path(params.data_dir or "")
    logging.info(f"Loading the datasets from {data_dir} ...")
    params = params.with_facts(start.facts) if start.facts is not None else fetch_facts(data_dir, params)
    facts_fit = contextlib.nullcontext() if start.facts is None else utils.fitting(start.weights_path, "facts")
    with facts_fit:
        dataloaders = fetch_dataloader(["train", "val"], data_dir, params, device)
    run.note("data", utils.fingerprint(data_dir) if run.is_writer else {})
    logging.info("- done.")

    if not params.compile:
        utils.put_off_dynamo()  # before there is an optimizer
    seed_everything(params.seed)
    facts_fit = contextlib.nullcontext() if start.facts is None else utils.fitting(start.weights_path, "facts")
    with facts_fit:
        model = net.Net(params)
    if start.weights is not None:
        logging.info(f"Restoring parameters from {start.weights_path}")
        utils.load_weights(start.weights, model, start.weights_path)
    elif hasattr(net, "initialize"):
        net.initialize(model, params)
    distribute(model, params, device)
    model = prepare(model, params, device)
    if params.compile:
        compile_net(model, has_lengths=hasattr(dataloaders["train"].dataset.dataset, "lengths"))  # type: ignore[attr-defined]
    training = fetch_training(model, net, params, len(dataloaders["train"]))
    if start.is_resumed and start.weights is not None:
        training.load_state_dict(start.weights, start.weights_path)
        logging.info(f"Continuing after epoch {training.epoch}" + (f", step {training.step}" if training.step else ""))
    run.cut_history(training.epoch)  # epochs that no checkpoint holds are done again
    machine = {**describe(device), **describe_forward(model, params), "processes": processes.world_size()}
    run.note("machine", machine)
    run.update_record(
        num_weights=sum(weight.numel() for weight in model.parameters()),
        lower_is_better=sorted(getattr(net, "lower_is_better", ())),
    )
    together = f" in {processes.world_size()} processes" if processes.world_size() > 1 else ""
    logging.info(f"Starting training for {params.num_epochs - training.epoch} epoch(s) on {device}{together}")
    return training, dataloaders
