"""Build a run from its hyperparameters: data, net, optimizer and state, with the options that are switched on."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import utils
from fiveline import torch_private
from fiveline.device import seed_everything
from fiveline.loader import fetch_dataloader
from fiveline.options import forward, pretrained
from fiveline.options.average import Average
from fiveline.options.optimizer import clip_gradients, fetch_optimizer
from fiveline.options.profile import profiled
from fiveline.options.schedule import fetch_schedule
from fiveline.state import State, Step
from fiveline.tasks import Task, fetch_facts, fetch_task


def set_up(
    params: utils.Params, run: utils.RunDirectory, start: Any, device: torch.device, job: Any
) -> tuple[State, dict[str, DataLoader[Any]], Task]:
    """Build data, net and optimizer with the options of the hyperparameters; `start` comes from `find_start`."""
    source = pretrained.read_source(params) if start.weights is None else None  # a mistake shows before the data loads
    params, dataloaders, task, net = _build(params, run, start, device, job)
    if start.weights is not None:
        logging.info(f"Restoring parameters from {start.weights_path}")
        utils.load_weights(start.weights, net, start.weights_path)
        theirs, named = start.weights.get("facts"), ["classes", *getattr(net, "named_by", {}).values()]
        if theirs and (changed := [name for name in named if theirs.get(name) != params.facts.get(name)]):
            hint = f"--restart and pretrained={start.weights_path} match them by name"
            logging.warning(f"- WARNING: the checkpoint was trained with other {' and '.join(changed)}; {hint}")
    else:
        run.update_record(pretrained=pretrained.initialize(net, params, source))
    job.share_weights(net, params.fsdp, device)
    net = forward.prepare(net, params, device)
    if params.compile:
        sampler: Any = dataloaders["train"].batch_sampler
        forward.compile_net(net, has_lengths=sampler.lengths is not None)
    else:
        torch_private.put_off_dynamo()
    optimizer = fetch_optimizer(net, params)
    job.sum_gradients_before_steps(net, optimizer)
    if params.clip_grad_norm is not None:
        clip_gradients(optimizer, params.clip_grad_norm)
    extras = fetch_extras(net, optimizer, params, job)
    schedule, sign = fetch_schedule(params, len(dataloaders["train"])), task.sign(params.monitor)
    num_steps = params.num_epochs * schedule.steps_per_epoch
    if 0 < schedule.warmup >= num_steps:
        found = f"the warm-up takes {schedule.warmup:g} steps, and the run {num_steps}"
        logging.warning(f"- WARNING: {found}: the learning rate stays below learning_rate={params.learning_rate:g}")
    state = State(net, optimizer, params, schedule, sign, task.metrics, job, extras)
    if start.is_resumed:
        state.load_state_dict(start.weights, start.weights_path)
        logging.info(f"Continuing after epoch {state.epoch}" + (f", step {state.step}" if state.step else ""))
    _record(run, state, task)
    return state, dataloaders, task


def _build(
    params: utils.Params, run: utils.RunDirectory, start: Any, device: torch.device, job: Any
) -> tuple[utils.Params, dict[str, DataLoader[Any]], Task, Any]:
    """Return the hyperparameters with facts, the dataloaders, the task, and its net with random weights."""
    data_dir = Path(params.data_dir or "")
    logging.info(f"Loading the datasets from {data_dir} ...")
    params = params.with_facts(start.facts) if start.facts is not None else fetch_facts(data_dir, params)
    with utils.blaming_checkpoint(start.weights_path, "facts") if start.facts is not None else contextlib.nullcontext():
        shard = job.rank, job.world_size
        dataloaders = {
            split: fetch_dataloader(split, data_dir, params, split == "train", device, shard)
            for split in ("train", "val")
        }
        seed_everything(params.seed)
        task = fetch_task(params)
        net = task.Net(params)
    run.record_conditions("data", utils.fingerprint(data_dir) if run.is_writer else {})
    logging.info("- done.")
    return params, dataloaders, task, net


def _record(run: utils.RunDirectory, state: State, task: Task) -> None:
    """Write the machine, the size of the net and the number of epochs into run.json or the log."""
    run.cut_history(state.epoch)  # epochs that no checkpoint holds are trained again
    num_processes = state.job.world_size
    machine = forward.describe_forward(state.model, state.params)
    run.record_conditions("machine", {**machine, "processes": num_processes})
    num_weights = sum(weight.numel() for weight in state.model.parameters())
    run.update_record(num_weights=num_weights, lower_is_better=task.lower_is_better)
    together = f" in {num_processes} processes" if num_processes > 1 else ""
    logging.info(f"Starting training for {state.params.num_epochs - state.epoch} epoch(s) on {state.device}{together}")


def fetch_extras(net: nn.Module, optimizer: torch.optim.Optimizer, params: utils.Params, job: Any) -> dict[str, Any]:
    """Return the objects that options add to a checkpoint: the scaler of fp16, the averaged weights."""
    extras: dict[str, Any] = {}
    if params.precision == "fp16":
        extras["scaler"] = job.scaler(next(net.parameters()).device)
    if params.ema_decay is not None:
        extras["average"] = Average(net, optimizer, params.ema_decay)
    return extras


def fetch_step(state: State, whole: Step, in_pieces: Step) -> Step:
    """Return the train step that the hyperparameters select: train.train_step or train.train_step_in_pieces."""
    params, step = state.params, whole
    if params.microbatch_size is not None or "scaler" in state.extras:
        scaler = state.extras.get("scaler") or torch.amp.GradScaler(state.device.type, enabled=False)
        size = params.microbatch_size or params.batch_size
        step = functools.partial(in_pieces, microbatch_size=size, scaler=scaler)
    return state.job.weighted_step(step)


@contextlib.contextmanager
def switched_on(state: State, run: utils.RunDirectory, num_profiled: int | None) -> Iterator[None]:
    """Switch on detect_anomaly and --profile within the block, if they are requested."""
    with contextlib.ExitStack() as stack:
        if state.params.detect_anomaly:
            stack.enter_context(_naming_operations(state))
        if num_profiled is not None and run.is_writer:
            stack.enter_context(profiled(state, num_profiled, run))
        yield


@contextlib.contextmanager
def _naming_operations(state: State) -> Iterator[None]:
    """Stop at an operation whose gradient is NaN (slow); torch's warning shows the line of its forward pass."""
    with torch.autograd.set_detect_anomaly(True):
        try:
            yield
        except RuntimeError as error:
            if "returned nan values" in str(error):
                state.raise_diverged(str(error).rstrip("."), state.step + 1)
            raise
