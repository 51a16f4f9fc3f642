"""The machine: choose the device, seed the random generators, move batches to the device.

torch is imported inside the functions, so that a script that imports this module still answers `--help` at once.
"""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fiveline.record.errors import InputError

if TYPE_CHECKING:
    import torch

in_use: Any = None  # the device that `fetch_device` returned last; fiveline.loading keeps data there


def fetch_device(name: str | None = None, disable_cuda: bool = False, local_rank: int | None = None) -> torch.device:
    """Return the device to compute on: the named one, else CUDA where there is one, else the CPU.

    `name` is as torch spells it: cpu, cuda, cuda:1, mps. `disable_cuda` means the CPU. `local_rank` is the number of
    this process's GPU in a job, None for a single process. InputError: this machine has no such device.
    """
    global in_use
    import torch

    if disable_cuda and name not in (None, "cpu"):
        raise InputError(f"--disable_cuda and --device {name} contradict each other; give one of them")
    if local_rank is not None and name not in (None, "cpu", "cuda"):
        raise InputError(f"--device {name}: the processes of a job cannot share it; give cuda, or cpu")
    if name is None:
        name = "cuda" if torch.cuda.is_available() and not disable_cuda else "cpu"
    if local_rank is not None and name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # depends on the build of torch
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device {name}: not available on this machine ({reason}); try --device cpu") from None
    in_use = device
    return device


# --- batches: a tensor, or a tuple, list or dict of batches


def map_tensors(function: Callable[[Any], Any], batch: Any) -> Any:
    """Return a batch with a function applied to each tensor."""
    if isinstance(batch, dict):
        return {name: map_tensors(function, entry) for name, entry in batch.items()}
    if isinstance(batch, (tuple, list)):
        entries = [map_tensors(function, entry) for entry in batch]
        return type(batch)(*entries) if hasattr(batch, "_fields") else type(batch)(entries)  # a namedtuple, or not
    return function(batch)


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """Return the tensors of a batch, in order."""
    tensors: list[torch.Tensor] = []
    map_tensors(tensors.append, batch)
    return tensors


def to_device(batch: Any, device: torch.device) -> Any:
    """Move a batch to a device; a copy from pinned memory to a CUDA GPU is asynchronous.

    Other copies block: without that, the CPU could read a batch too early, or Python free one that Apple's GPU needs.
    """
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=device.type not in ("cpu", "mps")), batch)


def moved(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Return an iterator over batches that moves each one to a device. Batches for the CPU are there already."""
    return iter(batches) if device.type == "cpu" else map(functools.partial(to_device, device=device), batches)


def to_cpu(batch: Any, copy: bool = False) -> Any:
    """Copy the tensors of any nested object to the CPU; with `copy`, also the tensors that are there already."""
    return map_tensors(lambda leaf: leaf.to("cpu", copy=copy) if hasattr(leaf, "cpu") else leaf, batch)


def detach(batch: Any) -> Any:
    """Return a batch with its tensors detached from the autograd graph."""
    return map_tensors(lambda leaf: leaf.detach() if hasattr(leaf, "detach") else leaf, batch)


def pieces(batch: tuple[Any, torch.Tensor], size: int) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield (inputs, labels) in balanced pieces of about `size` examples; `count_batches` says how many."""
    n = len(batch[1])
    k = count_batches(n, size)
    for i in range(k):
        piece = slice(i * n // k, (i + 1) * n // k)
        yield map_tensors(operator.itemgetter(piece), batch)


def count_batches(num_examples: int, size: int) -> int:
    """Return the number of balanced batches of about `size` examples.

    Batch norm needs two examples, so no batch has a single one unless size or num_examples is 1. To avoid a
    batch of one, a batch may exceed size: 5 examples with size 2 make batches of 2 and 3.
    """
    return max(1, min(-(-num_examples // size), num_examples // min(size, 2)))


def concatenate(batches: Sequence[Any]) -> Any:
    """Concatenate batches of the same structure into one batch."""
    import torch

    columns = zip(*map(tensors_of, batches), strict=True)  # each column: one tensor's values in all batches
    return map_tensors(lambda _: torch.cat(next(columns)), batches[0])


# --- random numbers; each key begins with its purpose, so no two purposes share a stream

GENERATORS, ORDER, AUGMENTATION, WORKER = range(4)


def seed_of(*key: int) -> int:
    """Return a 64-bit seed for a key such as (purpose, seed, epoch). Seeds of different keys are independent."""
    import numpy as np

    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seed_everything(seed: int, epoch: int = 0, rank: int = 0, purpose: int = GENERATORS) -> None:
    """Seed the global generators of Python, NumPy and torch, on every device, for an epoch and a process."""
    import numpy as np
    import torch

    number = seed_of(purpose, seed, epoch, rank)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes a millisecond longer
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def epoch_draws(seed: int, epoch: int, num_examples: int, num_draws: int) -> torch.Tensor:
    """Return the random numbers of an epoch's augmentation, in [0, 1): float32, (num_examples, num_draws)."""
    import torch

    generator = torch.Generator().manual_seed(seed_of(AUGMENTATION, seed, epoch))
    return torch.rand(num_examples, num_draws, generator=generator)


def generator_states() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy and torch, as tensors and plain values."""
    import numpy as np
    import torch

    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Put the global generators back into the states that `generator_states` returned."""
    import numpy as np
    import torch

    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, *rest = states["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    if states.get("mps") is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
