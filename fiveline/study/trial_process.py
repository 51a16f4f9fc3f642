"""The process of a trial: it becomes a run of train.py, and stops when its study is gone."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import utils

Main = Callable[[], object]  # train.py's
LOOK_SECONDS = 0.5  # between two looks at whether the fork server is alive


def run_trial(
    main: Main, words: Sequence[str], environment: dict[str, str], output: str, grace_seconds: float, pipe: Any
) -> None:
    """Turn a fork of the server into a run of train.py; the pipe is open until it has ended."""
    os.setsid()  # a group of its own, with its data loading processes; Ctrl-C on the terminal reaches the study alone
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    gc.freeze()  # else the garbage collector would copy the memory that is shared with the server
    threading.Thread(target=_stop_when_alone, args=(os.getppid(), grace_seconds), daemon=True).start()
    os.environ.update(environment)
    sys.argv = ["train.py", *words]

    def run() -> None:
        descriptor = open_output(output)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
        main()

    utils.run_script(run)


def _stop_when_alone(server: int, grace_seconds: float) -> None:
    """Stop this trial, which saves first, when the study or the fork server is gone; kill it if it does not stop."""
    study = multiprocessing.parent_process()
    while study is not None and study.is_alive() and os.getppid() == server:
        study.join(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os.killpg(0, signal.SIGKILL)


def open_output(path: str) -> int:
    """Open a trial's output to append to it, on a new line; a symbolic link is not followed."""
    try:
        output = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise utils.Stop(f"{path}: cannot be written ({error.strerror})") from None
    status = os.fstat(output)
    utils.check_regular(path)
    if status.st_size and os.pread(output, 1, status.st_size - 1) != b"\n":  # the disk was full
        with contextlib.suppress(OSError):
            os.write(output, b"\n")
    return output
