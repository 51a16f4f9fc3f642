"""The processes of one job: who they are, what they tell each other, how they end together.

    torchrun --standalone --nproc_per_node 2 train.py --model_dir experiments/x

torchrun starts them and gives each a rank, from 0. The first one does all the writing; a script that was started
without torchrun is the first of one. torch is imported inside the functions, as in `runtime`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from fiveline.record.errors import InputError, Stop
from fiveline.record.script import import_quickly

if TYPE_CHECKING:
    import torch

FILES_OF_A_RUN, FILES_OF_A_WORKER = 40, 6  # that are open at once, at most: measured 16 and 5
TIMEOUT = datetime.timedelta(minutes=10)  # the longest time that one process waits for another
VOTE_SECONDS = 0.2  # how often they agree on whether to stop or to save
MOST_STEPS = 1000  # between two such votes
LOST_WORDS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "Timed out")


def world_size() -> int:
    """Return the number of processes of the job."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Return the number of this process in the job, from 0."""
    return int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0


def local_rank() -> int:
    """Return the number of this process on its machine, from 0: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Connect the processes of the job, for the block: gloo between CPUs, NCCL between GPUs.

    While a process waits for the others, and in all but the first for as long as nothing is trained, a signal ends it
    at once: torchrun sends one when another process has failed, and there is nothing to save.
    """
    if world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    # Some of what the first optimizer imports would keep a group that is there already, and gloo's threads with it: now
    # and then one of them needed Python when that had gone, and aborted a process that had done its work.
    import_quickly("torch._dynamo")
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    with naming_the_lost():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
    if rank() == 0:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    yield
    dist.destroy_process_group()  # not after an error: others may be in the middle of something


def from_first(entry: Any) -> Any:
    """Return the first process's object, in every process."""
    if world_size() == 1:
        return entry
    import torch
    import torch.distributed as dist

    entries = [entry]
    dist.broadcast_object_list(entries, src=0, device=torch.device("cpu"))
    return entries[0]


def from_all(entry: Any) -> list[Any]:
    """Return the objects of all processes, by rank, in every process; tensors in them are on the CPU."""
    if world_size() == 1:
        return [entry]
    import torch.distributed as dist

    entries: list[Any] = [None] * world_size()
    dist.all_gather_object(entries, entry)
    return entries


def send_state(model: torch.nn.Module) -> None:
    """Give every process the weights and buffers of the first one."""
    if world_size() > 1:
        import torch.distributed as dist

        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


class StandIn(NamedTuple):
    """A pair, (epoch, indices) or (inputs, labels), of a process that has no example in a batch.

    It computes something all the same, because the others wait for its gradients, but that counts for nothing.
    """

    first: Any
    second: Any


def share(epoch: int, indices: list[int], batch_size: int) -> tuple[int, list[int]]:
    """Return which of a batch's examples this process computes: shares are about equal, and do not overlap.

    Args:
        epoch: returned as it is
        indices: of the whole batch, the same in all processes
        batch_size: params.batch_size; the last batch may be smaller. Where it is two for each process or more, no share
            is a single example: batch norm cannot train on one

    Returns:
        epoch and indices; a StandIn where there are fewer examples than processes
    """
    if world_size() == 1:
        return epoch, indices
    smallest = 2 if batch_size >= 2 * world_size() else 1
    num_shares = min(world_size(), max(1, len(indices) // smallest))
    start, end = (-(-len(indices) * number // num_shares) for number in (rank(), rank() + 1))
    if rank() < num_shares:
        return epoch, indices[start:end]
    return StandIn(epoch, indices[:smallest])


class Votes:
    """What all processes have to do at the same step. Asked at every step, they agree about five times a second."""

    def __init__(self) -> None:
        self._every, self._num_asked, self._last = 1, 0, time.monotonic()

    def agree(self, signal_number: int, is_due: bool) -> tuple[int, bool]:
        """Return which signal any process has received, 0 for none, and whether the first wants to save.

        Args:
            signal_number: that this process has received, or 0
            is_due: whether it is time to save
        """
        self._num_asked += 1
        if self._num_asked < self._every:
            return 0, False
        import torch
        import torch.distributed as dist

        now = time.monotonic()
        steps = int(VOTE_SECONDS * self._num_asked / max(now - self._last, 1e-9))
        votes = torch.tensor([signal_number, 0, 0])
        if rank() == 0:
            votes[1:] = torch.tensor([int(is_due), min(max(steps, 1), MOST_STEPS)])
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        number, due, self._every = votes.tolist()
        self._num_asked, self._last = 0, now
        return number, bool(due)


# --- how they end


def is_first_to_say(error: BaseException, stop: BaseException | None) -> bool:
    """Return whether no other process has said the same yet, and let the others know why this one ends.

    Args:
        error: why it ends
        stop: the same as it is told to the user; None for a bug, which is told with its traceback
    """
    if world_size() == 1:
        return True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of torchrun, when another has failed: to ask it takes a moment
    told = stop if stop is not None else error
    words = {
        "message": str(told) if stop is not None else f"{type(error).__name__}: {error}",
        "exit_code": getattr(told, "exit_code", 1),
        "status": getattr(told, "status", "failed"),
    }
    try:
        store = _store()
        store.compare_set("last_words", "", json.dumps(words))
        digest = hashlib.sha256(str(words["message"]).encode("utf-8", "replace")).hexdigest()
        return bool(store.add(digest, 1) == 1)
    except (RuntimeError, KeyError):  # the one that keeps the store is gone, or it was not torchrun
        return True


@contextlib.contextmanager
def naming_the_lost() -> Iterator[None]:
    """Turn the error of a process that waits for one that is gone into what that one said when it ended.

    Raises:
        Stop: with the message, status and exit code of the process that failed, where it had time to say something
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not any(words in str(error) for words in LOST_WORDS):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of torchrun, which ends us now; first we say why
        raise _last_words(str(error)) from None


def _last_words(text: str) -> Stop:
    """Return what the process that ended first has said, as if it were our own error."""
    try:
        store = _store()
        words = json.loads(store.get("last_words")) if store.check(["last_words"]) else None
    except (RuntimeError, KeyError):
        words = None
    if words is None:
        # gloo puts a place in its source before what it says, and advice behind
        reason = text.strip().partition("\n")[0].partition(". This is")[0].rpartition("] ")[2]
        return Stop(
            f"another process of the job has died, or did not answer ({reason}); the same command continues from the "
            "last checkpoint"
        )
    stop = Stop(words["message"])
    stop.exit_code, stop.status = words["exit_code"], words["status"]
    return stop


def _store() -> Any:
    """Return torchrun's own store, which outlives the processes; empty for each attempt of --max_restarts."""
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=datetime.timedelta(seconds=5))  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"fiveline/{attempt}", store)  # type: ignore[attr-defined]


def check_open_files(num_workers: int, num_splits: int) -> None:
    """Check that the data loading processes of all splits may have their files open; else they would wait for ever.

    The limit is raised first, as far as this user may.

    Raises:
        InputError: the limit is too low
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    needed = FILES_OF_A_RUN + FILES_OF_A_WORKER * num_workers * num_splits
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return
    with contextlib.suppress(OSError, ValueError):
        wanted = needed if highest == resource.RLIM_INFINITY else min(needed, highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, wanted), highest))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < needed:
        raise InputError(
            f"num_workers {num_workers}: the processes need about {needed} open files, and the limit is {limit}; "
            f"raise it (ulimit -n {needed}) or lower num_workers"
        )


def refuse(what: str) -> None:
    """Stop a script that is for one process.

    Raises:
        InputError: there are several
    """
    if world_size() > 1:
        raise InputError(f"{what} runs in one process; start it with python, not with torchrun")
