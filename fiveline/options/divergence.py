"""Notice a run that has diverged before its weights are spoilt, or at least before they are saved."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch

import utils
from fiveline.metrics import count_scored


class DivergenceWatch:
    """Looks at the loss of each step, and at the gradients where they are clipped.

    On the CPU a loss that is not finite stops the run at once. Elsewhere, reading it would make every step wait for the
    device: it is read now and then, by `check`. Looking at all gradients in each step would cost as much as a tenth of
    it; what a bad one does to the weights shows in the next loss, and `Training.check_finite` looks at the weights
    before they are saved.

    Args:
        optimizer: whose steps to watch
        weights: that it updates
        max_norm: clip the norm of all gradients together to this; None for no clipping
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, weights: Sequence[torch.Tensor], max_norm: float | None
    ) -> None:
        self.optimizer, self.weights, self.max_norm = optimizer, weights, max_norm
        self.is_cpu = weights[0].device.type == "cpu"
        self.set_position(epoch=1)
        if max_norm is not None:
            optimizer.register_step_pre_hook(self._clip)

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Say which epoch (from 1) is trained, and how many of its steps are done; for the message."""
        self.epoch, self.step = epoch, step

    def _clip(self, *_: object) -> None:
        assert self.max_norm is not None
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.max_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of weights that are spread
        is_scaled = hasattr(self.optimizer, "found_inf")  # fp16: a step that is not finite is left out
        if self.is_cpu and not is_scaled and not math.isfinite(norm.item()):  # here the weights have not seen it yet
            self.stop(f"a gradient of norm {norm.item()}", self.step + 1)

    def look(self, loss: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        """Take note of a step.

        Args:
            loss: its loss, scalar
            labels: of its batch, to tell a mean over nothing from a net that has diverged; None in a job of several
                processes, where the loss is that of all their shares

        Raises:
            DivergedError: the loss is not finite; on the CPU only
        """
        self.step += 1
        if self.is_cpu and not math.isfinite(loss.item()):
            is_of_nothing = labels is not None and not count_scored(labels)
            cause = " (the mean over a batch whose labels are all -100)" if is_of_nothing else ""
            self.stop(f"a loss of {loss.item()}{cause}", self.step)

    def check(self, loss: float) -> None:
        """Stop if any step so far was bad.

        Args:
            loss: the mean over the epoch so far, which keeps any infinity or NaN that was added to it

        Raises:
            DivergedError: names epoch, step and learning rate
        """
        if not math.isfinite(loss):
            self.stop(f"a loss of {loss}", self.step)

    @contextlib.contextmanager
    def naming_operations(self, is_on: bool) -> Iterator[None]:
        """Let torch look at the gradient of every single operation; slow, so only where params.detect_anomaly asks.

        Raises:
            DivergedError: names the operation; torch warns with the line of the forward pass that it stands in
        """
        with torch.autograd.set_detect_anomaly(is_on):
            try:
                yield
            except RuntimeError as error:
                if is_on and "returned nan values" in str(error):
                    self.stop(str(error).rstrip("."), self.step + 1)
                raise

    def stop(self, reason: str, step: int) -> None:
        """Raise the DivergedError."""
        raise utils.DivergedError(
            f"diverged: {reason} in epoch {self.epoch}, step {step}, at learning rate "
            f"{self.optimizer.param_groups[0]['lr']:g}; checkpoints from before, if there are any, stand. Try a "
            "smaller learning_rate, warmup_epochs or clip_grad_norm, with --restart; detect_anomaly=true names the "
            "operation"
        )
