"""One optimizer step of several processes, the same as that of one process with the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fiveline.jobs import processes
from fiveline.jobs.sharded import is_sharded, local_part
from fiveline.metrics import Loss, count_scored

BUCKET_SIZE = 2**23  # gradients that are sent together
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class GlobalBatch:
    """Averages the gradients of all processes right before each optimizer step, by their number of scored labels.

    So the step is that of the mean over the whole batch, however its examples and labels fall to the processes. The
    running statistics of batch norm are averaged alike: every process has the same weights and buffers at any time.

    Where the weights are spread (`fsdp: true`), the gradients come here averaged over the processes already, so each
    process's share of them is multiplied by its number of labels before that.

    Not DistributedDataParallel, which averages processes instead of labels, needs one backward pass a step and a
    gradient for each weight, and renames the weights. What it does better: it sends during the backward pass.

    Args:
        model: on its device; this process's copy
        optimizer: over its weights. Nothing else that looks at gradients may be hooked into its step before this
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.device, self.is_sharded = self.weights[0].device, is_sharded(model)
        norms = [module for module in model.modules() if isinstance(module, NORMS)]
        pairs = [(module.running_mean, module.running_var) for module in norms]
        self.buffers = [buffer for pair in pairs for buffer in pair if buffer is not None]
        self.begin(None)
        optimizer.register_step_pre_hook(self.reduce)

    def begin(self, batch: Any) -> bool:
        """Begin a step; return whether this process has examples of its own in the batch: else nothing of it counts."""
        self.is_counted, self.is_reduced = not isinstance(batch, processes.StandIn), False
        self.num_scored = torch.zeros((), device=self.device)
        self.loss_sum = torch.zeros((), device=self.device)
        self.loss = self.loss_sum  # the mean over the whole batch, once the step is taken
        return self.is_counted

    def counted(self, loss_fn: Loss) -> Loss:
        """Return a loss function that takes note of how many labels it is the mean over."""

        def loss_of_share(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
            loss = loss_fn(outputs, labels)
            num_scored = count_scored(labels).to(self.num_scored) * self.is_counted
            if self.is_sharded:
                loss.register_hook(lambda gradient: gradient * num_scored)
            if self.is_counted:
                self.num_scored = self.num_scored + num_scored
                self.loss_sum = self.loss_sum + torch.where(num_scored > 0, loss.detach().float() * num_scored, 0.0)
            return loss

        return loss_of_share

    def reduce(self, *_: object) -> None:
        """Average gradients, buffers and loss, once a step."""
        if self.is_reduced:
            return
        self.is_reduced = True
        unused = [i for i, weight in enumerate(self.weights) if weight.grad is None and not self.is_sharded]
        is_used = torch.ones(len(self.weights), device=self.device)
        if unused:
            is_used[unused] = 0.0
        for i in unused:  # another process may have a gradient
            self.weights[i].grad = torch.zeros_like(self.weights[i])
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        # sent as any gradient: times the number of scored labels, this is their number and the sum of their losses
        report = torch.stack([torch.ones_like(self.loss_sum), self.loss_sum / self.num_scored])
        buckets = _in_buckets([report, is_used, *([] if self.is_sharded else gradients), *self.buffers])
        flats, works = [], []
        for bucket in buckets:
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            # where nothing is scored, there may be 0 / 0
            flat = torch.where(self.num_scored > 0, flat * self.num_scored.to(flat.dtype), 0)
            works.append(dist.all_reduce(flat, async_op=True))
            flats.append(flat)
        for work in works:
            work.wait()
        num_scored = flats[0][0].clone()
        for bucket, flat in zip(buckets, flats, strict=True):
            flat /= num_scored
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.detach().copy_(part.view(tensor.shape))
        for gradient in gradients if self.is_sharded else []:
            local_part(gradient).mul_(processes.world_size() / num_scored)
        for i, share in zip(unused, is_used[unused].tolist() if unused else [], strict=True):
            if not share > 0:  # no process has one: the optimizer leaves the weight alone, as it does in one process
                self.weights[i].grad = None
        self.loss = report[1]


class GlobalScaler(torch.amp.GradScaler):
    """Scales the loss in fp16, and looks at the gradients when they are those of all: so all leave out the same steps.

    Args:
        global_batch: of the step that is scaled
        scaling: for torch's own
    """

    def __init__(self, global_batch: GlobalBatch, **scaling: Any) -> None:
        super().__init__(**scaling)
        self.global_batch = global_batch

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Average the gradients, then divide them by the scale."""
        self.global_batch.reduce()
        super().unscale_(optimizer)


def _in_buckets(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Put tensors of one type together, up to a size."""
    buckets: list[list[torch.Tensor]] = []
    size = BUCKET_SIZE
    for tensor in tensors:
        if size + tensor.numel() > BUCKET_SIZE or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets
