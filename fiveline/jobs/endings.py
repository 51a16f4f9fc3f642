"""Who a process of a job is, and how the processes end: an error is reported once, and a lost process is named."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

from fiveline.record.errors import Stop

LOST_WORDS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "Timed out")


def world_size() -> int:
    """Return the number of processes of the job."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Return the number of this process in the job, from 0."""
    return int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0


def reports_first(error: BaseException, stop: BaseException | None) -> bool:
    """Return whether no other process has reported the same error yet, and leave the reason for the others.

    `stop` is the error as the user sees it, None for a bug, which is shown with its traceback.
    """
    if world_size() == 1:
        return True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it when another failed; the store takes a moment
    message = str(stop) if stop is not None else f"{type(error).__name__}: {error}"
    words = [message, getattr(stop, "exit_code", 1), getattr(stop, "status", "failed")]
    try:
        store = _store()
        store.compare_set("last_words", "", json.dumps(words))
        digest = hashlib.sha256(message.encode("utf-8", "replace")).hexdigest()
        return bool(store.add(digest, 1) == 1)
    except (RuntimeError, KeyError):  # the process that keeps the store is gone, or it was not torchrun
        return True


@contextlib.contextmanager
def explaining_lost_process() -> Iterator[None]:
    """Turn the error of waiting for a lost process into a Stop with the message, status and exit code that it left."""
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not any(words in str(error) for words in LOST_WORDS):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun stops this process now; first it reports why
        # gloo puts a place in its source before the reason, and advice after it
        reason = str(error).strip().partition("\n")[0].partition(". This is")[0].rpartition("] ")[2]
        lost = f"another process of the job has died, or did not answer ({reason})"
        words: list[Any] = [f"{lost}; rerun the same command to continue from the last checkpoint", 1, "failed"]
        with contextlib.suppress(RuntimeError, KeyError):  # as in `reports_first`
            store = _store()
            words = json.loads(store.get("last_words")) if store.check(["last_words"]) else words
        stop = Stop(words[0])
        stop.exit_code, stop.status = words[1:]
        raise stop from None


def _store() -> Any:
    """Return torchrun's own store, which outlives the processes; empty for each attempt of --max_restarts."""
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=datetime.timedelta(seconds=5))  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"fiveline/{attempt}", store)  # type: ignore[attr-defined]
