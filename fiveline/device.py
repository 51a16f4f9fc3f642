"""The machine: which device, which random numbers, what may change the bits. Knows nothing of runs or tasks.

torch is imported inside the functions, so that a script that imports this can still answer `--help` at once.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fiveline.jobs import processes
from fiveline.record.errors import InputError

if TYPE_CHECKING:
    import torch

_64_BITS = 2**64 - 1


def fetch_device(name: str | None = None, disable_cuda: bool = False) -> torch.device:
    """Return the device to compute on: the named one, else CUDA where there is one, else the CPU.

    Each process of a job has a GPU of its own.

    Args:
        name: as torch spells it: `cpu`, `cuda`, `cuda:1`, `mps`
        disable_cuda: take the CPU although there is a GPU

    Raises:
        InputError: no such device here
    """
    import torch

    if disable_cuda and name not in (None, "cpu"):
        raise InputError(f"--disable-cuda and --device {name} contradict each other; give one of them")
    is_cuda = torch.cuda.is_available() and not disable_cuda if name is None else name == "cuda"
    if is_cuda and processes.world_size() > 1:
        name = f"cuda:{processes.local_rank()}"
    elif name is None:
        return torch.device("cuda" if is_cuda else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # by how torch was built
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device {name}: not to be had on this machine ({reason}); try --device cpu") from None
    if processes.world_size() > 1 and not is_cuda and device.type != "cpu":
        raise InputError(f"--device {name}: the processes of a job cannot share it; give cuda, or cpu")
    return device


def tune_cpu() -> None:
    """Spare a CPU two things that cost time and change no result: call before the first step.

    Freed memory stays with the process, for the next step, where there is glibc: by default large blocks go back to the
    system, and each step waits while the same pages are given out again, zeroed. And what is smaller than 1e-38 counts
    as zero: the moments of Adam decay to such numbers where a weight gets no gradient for long (a rare word's), and
    some processors compute with them a hundred times slower.
    """
    import torch

    torch.set_flush_denormal(True)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(option, 2**30)


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], batch: Any) -> Any:
    """Return a batch (a tensor, or a tuple, list or dict of batches) with a function applied to each tensor."""
    if isinstance(batch, dict):
        return {name: map_tensors(function, entry) for name, entry in batch.items()}
    if isinstance(batch, (tuple, list)):
        entries = [map_tensors(function, entry) for entry in batch]
        return type(batch)(*entries) if hasattr(batch, "_fields") else type(batch)(entries)  # a namedtuple, or not
    return function(batch)


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """Return the tensors of a batch, in order."""
    entries = list(batch.values()) if isinstance(batch, dict) else batch
    if isinstance(entries, (tuple, list)):
        return [tensor for entry in entries for tensor in tensors_of(entry)]
    return [batch]


def to_device(batch: Any, device: torch.device) -> Any:
    """Move a batch to a device; a pinned one without waiting for it.

    Not so to the CPU, which would read too early, nor to Apple's GPU, which may read what Python has freed.
    """
    is_awaited = device.type in ("cpu", "mps")
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=not is_awaited), batch)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor that is not pinned to a device; as `to_device`, without waiting for what that has to do before."""
    return to_device(tensor.pin_memory() if device.type == "cuda" else tensor, device)


def room_for_data(device: torch.device) -> int:
    """Return how large a split may be, in bytes, that a device keeps: a small part of a GPU, which others may share."""
    import torch

    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return min(total // 8, free // 4)


def to_cpu(batch: Any, copy: bool = False) -> Any:
    """Copy to the CPU what of a batch, or of any nested object, is a tensor elsewhere, or any tensor."""
    return map_tensors(lambda leaf: leaf.to("cpu", copy=copy) if hasattr(leaf, "cpu") else leaf, batch)


def detach(batch: Any) -> Any:
    """Return a batch without the graph that it was computed by."""
    return batch.detach() if hasattr(batch, "detach") else map_tensors(detach, batch)


def pieces(batch: tuple[Any, torch.Tensor], size: int) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield (inputs, labels) in pieces of `size` examples, the last one perhaps smaller.

    A single example left over joins the piece before it, because batch norm cannot train on one.
    """
    num_examples = len(batch[1])
    end = num_examples - (1 if num_examples > 1 and num_examples % size == 1 else 0)
    for start in range(0, end, size):
        piece = slice(start, start + size if start + size < end else num_examples)
        yield map_tensors(lambda tensor, piece=piece: tensor[piece], batch)  # type: ignore[misc]


def concatenate(batches: Sequence[Any]) -> Any:
    """Return batches of the same structure as one."""
    import torch

    first = batches[0]
    if isinstance(first, dict):
        return {name: concatenate([batch[name] for batch in batches]) for name in first}
    if isinstance(first, (tuple, list)):
        entries = [concatenate(parts) for parts in zip(*batches, strict=True)]
        return type(first)(*entries) if hasattr(first, "_fields") else type(first)(entries)
    return torch.cat(list(batches))


def seed_everything(seed: int, epoch: int = 0, rank: int = 0) -> None:
    """Seed Python, NumPy and torch, on every device, for one epoch of one process."""
    import numpy as np
    import torch

    number = _mix(_mix(_mix(seed) ^ epoch) ^ rank)
    random.seed(number)
    np.random.seed(number % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # torch.manual_seed notes, for a GPU that may be found later, from where it was called: most of a millisecond
        torch.default_generator.manual_seed(number)


def example_draws(seed: int, epoch: int, indices: Sequence[int], num_draws: int) -> torch.Tensor:
    """Return random numbers that depend on seed, epoch and example only: not on batches, workers or processes.

    Args:
        seed: params.seed
        epoch: from 1
        indices: the examples' positions in their split
        num_draws: how many numbers each example needs

    Returns:
        (len(indices), num_draws), float32, uniform in [0, 1)

    Source: splitmix64 as a counter-based generator (Steele, Lea and Flood, 2014).
    """
    import numpy as np
    import torch

    key = _mix(_mix(seed) ^ epoch)
    examples = _mix(np.asarray(indices, dtype=np.uint64)[:, None] ^ np.uint64(key))
    bits = _mix(examples ^ np.arange(num_draws, dtype=np.uint64)[None, :])
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))


def _mix(number: Any) -> Any:
    """Scramble a 64-bit integer, or an array of them, so that neighbours have nothing in common."""
    x = (number + 0x9E3779B97F4A7C15) & _64_BITS
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return x ^ (x >> 31)


def describe(device: torch.device) -> dict[str, Any]:
    """Return what may change the bits of a result: device and threads."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": str(device), "device_name": name, "threads": torch.get_num_threads()}


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
    if states.get("mps") is not None and torch.backends.mps.is_available():  # older checkpoints do not have it
        torch.mps.set_rng_state(states["mps"])


class Signals:
    """SIGINT and SIGTERM, kept until the work is between two steps.

    A context manager: inside, the first signal is only noted; a second one ends the process at once, whatever it does.
    (In a notebook it interrupts the cell. In a job of several processes it is nothing new: torchrun passes a signal on
    that each may have received already.) SIGHUP is left as it is: `nohup` ignores it. In a thread, none is noted.
    """

    def __init__(self) -> None:
        self.received = 0  # the signal's number, 0 for none
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = number
        if processes.world_size() > 1:
            return
        for each, before in self._before.items():
            signal.signal(each, before if before is signal.default_int_handler else signal.SIG_DFL)


def notice_dead_workers_at_the_fetch() -> None:
    """Undo what torch does when it starts data loading processes: to raise an error right when one of them dies.

    That may be amid a step, whose half cannot be saved. The next fetch from the dead one raises it too, between steps.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def end_workers_at_exit() -> None:
    """End the data loading processes that are left at exit: Python would send a signal that they ignore, and wait."""
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report their end as an error
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def ignore_signals_in_worker(_: int) -> None:
    """Let a data loading process outlive Ctrl-C and a first SIGTERM: its parent ends it, after the checkpoint."""

    def obey_from_now_on(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, obey_from_now_on)
