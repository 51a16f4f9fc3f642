"""What a task may call to load its data faster. Nothing else in the engine depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fiveline import device
from fiveline.loading.cache import cached_array, files_key

if TYPE_CHECKING:
    import torch

__all__ = ["cached_array", "files_key", "on_device"]


def on_device(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the GPU in use if it takes little of its memory, which others may share; else as it is.

    Do not call this for a dataset whose batches are fetched in data loading processes, which cannot use the GPU.
    """
    import torch

    gpu = device.in_use
    if gpu is None or gpu.type != "cuda":
        return tensor
    free, total = torch.cuda.mem_get_info(gpu)
    return tensor.to(gpu) if tensor.nbytes <= min(total // 8, free // 4) else tensor
