"""A job of several processes: its optimizer step equals the step of a single process on the whole batch."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fiveline.jobs.endings import explaining_lost_process
from fiveline.jobs.one import OneProcess
from fiveline.metrics import Loss, count_scored
from fiveline.record.script import import_quickly
from fiveline.state import Step

TIMEOUT = datetime.timedelta(minutes=10)  # the longest time that one process waits for another
VOTE_SECONDS = 0.2  # how often the processes agree on whether to stop or to save
RUNNING = ("running_mean", "running_var")  # the statistics of batch norm and its relatives


@contextlib.contextmanager
def connected() -> Iterator[Job]:
    """Connect the processes for the block: gloo between CPUs, NCCL between GPUs.

    Until training starts, a signal ends each process but the first at once; while they connect, the first one as well.
    torchrun sends a signal if another process failed.
    """
    # if the first optimizer imported it, within the job, gloo's threads would outlive Python's shutdown
    import_quickly("torch._dynamo")
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    with explaining_lost_process():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
    job = Job()
    if job.rank == 0:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    yield job
    dist.destroy_process_group()  # not after an error: other processes may be within a collective operation


class Job(OneProcess):
    """Several processes. The loss is a mean over scored labels, and the processes have different numbers of them.

    Before each step, one all_reduce adds up these numbers, and each process weights its loss by its share. So the sum
    of all processes' gradients is the gradient of the whole batch. The running statistics of batch norm are averaged
    with the same shares.

    (torch's DistributedDataParallel is not used: it overlaps communication with the backward pass, but some nets need
    its `find_unused_parameters`, with which each process warns, and a process sometimes aborted at exit.)
    """

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.is_sharded = False
        self.share = torch.ones(())  # this process's share of the scored labels of the whole batch
        self._buffers: list[torch.Tensor] = []
        self._is_summed = True  # whether `sum_gradients` has run in this step
        self._calls_per_vote, self._calls_since_vote, self._last = 1, 0, time.monotonic()

    def all_gather(self, entry: Any) -> list[Any]:
        """Return the objects of all processes, by rank; tensors in them should be on the CPU."""
        entries: list[Any] = [None] * self.world_size
        dist.all_gather_object(entries, entry)
        return entries

    def broadcast(self, entry: Any) -> Any:
        """Return the first process's object."""
        entries = [entry]
        dist.broadcast_object_list(entries, src=0, device=torch.device("cpu"))
        return entries[0]

    def add_up(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes, on the CPU."""
        numbers = numbers.cpu().clone()
        dist.all_reduce(numbers)
        return numbers

    def agree(self, signal_number: int, is_due: bool) -> tuple[int, bool]:
        """Do what `OneProcess.agree` does, five times a second: the first process says when to vote again."""
        self._calls_since_vote += 1
        if self._calls_since_vote < self._calls_per_vote:
            return 0, False
        now = time.monotonic()
        steps = int(VOTE_SECONDS * self._calls_since_vote / max(now - self._last, 1e-9))
        votes = torch.tensor([signal_number, 0, 0])
        if self.rank == 0:
            votes[1:] = torch.tensor([int(is_due), max(steps, 1)])
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        number, due, self._calls_per_vote = votes.tolist()
        self._calls_since_vote, self._last = 0, now
        return number, bool(due)

    def share_weights(self, net: nn.Module, fsdp: bool, device: torch.device) -> None:
        """Give every process the first one's weights; with `fsdp`, only a shard of each weight, gradient and moment."""
        for tensor in net.state_dict().values():
            dist.broadcast(tensor, src=0)
        if fsdp:
            from fiveline.jobs import sharded

            sharded.shard(net, device, self.world_size)
            self.is_sharded, self.whole, self.shards_of = True, sharded.whole, sharded.shards_of

    def sum_gradients_before_steps(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer step with all processes' gradients. Register hooks that use gradients after this call."""
        self._buffers = [buffer for name, buffer in net.named_buffers() if name.endswith(RUNNING)]
        optimizer.register_step_pre_hook(lambda optimizer, *_: self.sum_gradients(optimizer))

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return the scaler of fp16, which checks the gradients of all processes, so that all skip the same steps."""
        return _JobScaler(self, device)

    def weighted_step(self, step: Step) -> Step:
        """Return a train step that weights its loss, and thereby its gradients, by this process's share."""
        # FSDP averages the gradients: multiply by the number of processes to get their sum
        factor = self.world_size if self.is_sharded else 1

        def counted(model: Any, optimizer: Any, loss_fn: Loss, inputs: Any, labels: torch.Tensor) -> tuple[Any, Any]:
            num_scored = count_scored(labels).float()
            total = num_scored.clone()
            dist.all_reduce(total)
            self.share, self._is_summed = num_scored / total, False
            # a process without scored labels has share 0, but its loss must not be NaN, because 0 * NaN is NaN
            labels = labels.where((num_scored > 0) | (total == 0), 0)

            def loss_of_share(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
                loss = loss_fn(outputs, labels)
                loss.register_hook(lambda gradient: gradient * self.share.to(gradient) * factor)
                return loss

            return step(model, optimizer, loss_of_share, inputs, labels)

        return counted

    @torch.no_grad()
    def sum_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Add up the weighted gradients and buffers of all processes, once for each step."""
        if self._is_summed:
            return
        self._is_summed = True
        weighed = [buffer * self.share.to(buffer) for buffer in self._buffers]
        for buffer, total in zip(self._buffers, _all_reduced(weighed), strict=True):
            buffer.copy_(total)
        if self.is_sharded:
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        is_used = torch.tensor([float(weight.grad is not None) for weight in weights], device=self.share.device)
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        *totals, num_users = _all_reduced([*gradients, is_used])
        for i, (weight, total) in enumerate(zip(weights, totals, strict=True)):
            # if no process has a gradient, it stays None: the optimizer skips the weight, as in a single process
            weight.grad = total if weight.grad is not None or num_users[i] > 0 else None


class _JobScaler(torch.amp.GradScaler):
    def __init__(self, job: Job, device: torch.device) -> None:
        super().__init__(device.type)
        self.job = job

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self.job.sum_gradients(optimizer)
        super().unscale_(optimizer)


def _all_reduced(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the sum of each tensor over all processes; tensors of one type are sent together."""
    totals: list[torch.Tensor] = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # in the same order in all processes
        numbers = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        flat = torch.cat([tensors[i].reshape(-1) for i in numbers])
        dist.all_reduce(flat)
        for i, part in zip(numbers, flat.split([tensors[i].numel() for i in numbers]), strict=True):
            totals[i] = part.view(tensors[i].shape)
    return totals
