"""What a hyperparameter switches on, hung on the objects of a run before its first step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import utils
from fiveline import torch_private
from fiveline.options import forward, tensorboard
from fiveline.options import optimizer as by_name
from fiveline.options.average import Average
from fiveline.options.profile import profiled
from fiveline.state import OneProcess, State


def check(params: utils.Params) -> None:
    """Stop before anything is trained if an option needs a package that is missing.

    Raises:
        InputError: names the package
    """
    if params.tensorboard:
        tensorboard.check_installed()


def prepare(net: nn.Module, params: utils.Params, device: torch.device, has_lengths: bool = False) -> nn.Module:
    """Return a net on its device, with precision, activation checkpointing and compiler as the hyperparameters ask.

    Args:
        net: in fp32; its weights stay so
        params: precision, activation_checkpointing, deterministic, compile
        device: where to compute
        has_lengths: whether batches have many shapes
    """
    net = forward.prepare(net, params, device)
    if params.compile:
        forward.compile_net(net, has_lengths)
    return net


def check_batch_norm(net: nn.Module, smallest_batch: int, params: utils.Params) -> None:
    """Check that batch norm never sees a single example.

    Args:
        net: the net
        smallest_batch: examples in the smallest batch of one process
        params: microbatch_size, batch_size

    Raises:
        InputError: it would
    """
    smallest = min(smallest_batch, params.microbatch_size or smallest_batch)
    # in 2-d and 3-d, it takes the mean over the places of one image
    if smallest < 2 and any(isinstance(module, nn.BatchNorm1d) for module in net.modules()):
        name = "microbatch_size" if params.microbatch_size == 1 else "batch_size"
        raise utils.InputError(
            f"{name} {getattr(params, name)}: the net has batch norm, which cannot train on one example, and a process "
            "would get batches of one; take 2 or more for each process"
        )


def fetch_optimizer(net: nn.Module, params: utils.Params) -> torch.optim.Optimizer:
    """Return the optimizer that params.optimizer names, over the weights that are trained.

    Raises:
        InputError: nothing is left to train
    """
    if not params.compile:
        torch_private.put_off_dynamo()
    return by_name.fetch_optimizer(net, params)


def fetch_extras(
    net: nn.Module, optimizer: torch.optim.Optimizer, params: utils.Params, job: OneProcess
) -> dict[str, Any]:
    """Clip gradients if asked, and return the further objects of a checkpoint: the scaler of fp16, averaged weights."""
    extras: dict[str, Any] = {}
    if params.clip_grad_norm is not None:
        by_name.clip_gradients(optimizer, params.clip_grad_norm)
    if params.precision == "fp16":
        extras["scaler"] = job.scaler(next(net.parameters()).device)
    if params.ema_decay is not None:
        extras["average"] = Average(net, optimizer, params.ema_decay)
    return extras


def describe(net: nn.Module, params: utils.Params) -> dict[str, Any]:
    """Return what may change the bits of a forward pass, as it is on this machine."""
    return forward.describe_forward(net, params)


@contextlib.contextmanager
def switched_on(
    state: State, run: utils.RunDirectory, num_profiled: int | None
) -> Iterator[Callable[[list[dict[str, Any]]], None] | None]:
    """Watch a run in the ways that hyperparameters and --profile ask for, for the block.

    Yields:
        what to call with new rows of the history; None where nobody wants them
    """
    with contextlib.ExitStack() as stack:
        if state.params.detect_anomaly:
            stack.enter_context(_naming_operations(state))
        if num_profiled and run.is_writer:
            stack.enter_context(profiled(state, num_profiled, run))
        if state.params.tensorboard and run.is_writer:
            events = tensorboard.Events(run, state.params)
            yield events.write
            events.close()
        else:
            yield None


@contextlib.contextmanager
def _naming_operations(state: State) -> Iterator[None]:
    """Check the gradient of every single operation, which is slow.

    Raises:
        DivergedError: names the operation; torch warns with the line of its forward pass
    """
    with torch.autograd.set_detect_anomaly(True):
        try:
            yield
        except RuntimeError as error:
            if "returned nan values" in str(error):
                state.stop(str(error).rstrip("."))
            raise
