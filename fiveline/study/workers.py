"""Trials as processes on this machine: so many at once, each with its share of threads, on its share of the GPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import utils
from fiveline.study.server import GRACE_SECONDS
from fiveline.study.trials import OUTPUT_FILE, Trial

PROJECT = Path(__file__).resolve().parents[2]
MEMORY_OF_A_TRIAL = 2**30  # bytes, about; only a guess at how many trials are useful


@dataclasses.dataclass(frozen=True)
class Ended:
    """A trial whose process has ended.

    Args:
        trial: which
        code: exit code, or minus the signal
        reason: what is known of it, where the code does not tell
    """

    trial: Trial
    code: int
    reason: str = ""


class LocalWorkers:
    """Runs trials on this machine.

    Args:
        num_workers: trials at once
        task: which the server is to load
        words: more for train.py's command line
    """

    def __init__(self, num_workers: int, task: str, words: Sequence[str]) -> None:
        self.num_workers, self.task, self.words = num_workers, task, words
        asked = os.environ.get("OMP_NUM_THREADS", "")
        self.threads = int(asked) if asked.isdigit() and int(asked) else max(1, num_cores() // num_workers)
        self.gpus = list_gpus()
        self._running: dict[int, Trial] = {}  # slot -> trial
        self._begun: dict[int, int] = {}  # slot -> the process of its trial, once it has one
        self._left: dict[int, float] = {}  # process of a trial whose server died -> when patience with it ends
        self._server: subprocess.Popen[bytes] | None = None

    def _start_server(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "OPENBLAS_NUM_THREADS": "1",  # a process of one thread can be forked safely
            "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",  # macOS would end a copy that asks for its GPU
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "fiveline.study.server", str(theirs.fileno()), self.task],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C on the terminal reaches the study alone
        )
        theirs.close()
        self._connection, self._unread, self._is_ready = ours, b"", False

    @property
    def running(self) -> list[Trial]:
        """The trials at work."""
        return list(self._running.values())

    def has_room(self) -> bool:
        """Return whether one more can start now."""
        return len(self._running) < self.num_workers

    def has_begun(self, trial: Trial) -> bool:
        """Return whether a trial that was started has its process: torch may have to be loaded first."""
        return any(running is trial and slot in self._begun for slot, running in self._running.items())

    def start(self, trial: Trial) -> None:
        """Start a trial, whose directory is there."""
        if self._server is None:
            self._start_server()
        slot = next(slot for slot in range(self.num_workers) if slot not in self._running)
        self._running[slot] = trial
        environment = {"OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        self._say(
            {
                "start": str(slot),
                "words": ["--model_dir", str(trial.path), *self.words],
                "environment": environment,
                "threads": self.threads,
                "output": str(trial.path / OUTPUT_FILE),
            }
        )

    def stop(self, trial: Trial, number: int = signal.SIGTERM) -> None:
        """Send a signal to a trial; SIGTERM lets it save first."""
        for slot, running in self._running.items():
            if running is trial:
                self._say({"stop": str(slot), "signal": int(number)})

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the server is gone: `poll` will find out
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def poll(self, seconds: float) -> list[Ended]:
        """Wait for up to so many seconds, and return the trials that have ended.

        Raises:
            Stop: the server does not start
        """
        self._end_those_left()
        if self._server is None:
            time.sleep(seconds)
            return []
        readable, _, _ = select.select([self._connection], [], [], seconds)
        if not readable:
            return []
        try:
            received = self._connection.recv(65536)
        except OSError:
            received = b""
        if not received:
            return self._after_server_died()
        *lines, self._unread = (self._unread + received).split(b"\n")
        ended = []
        for message in map(json.loads, lines):
            self._is_ready = True
            if "begun" in message:
                self._begun[int(message["begun"])] = message["process"]
            if "ended" in message:
                slot = int(message["ended"])
                self._begun.pop(slot, None)
                ended.append(Ended(self._running.pop(slot), message["code"]))
        return ended

    def _after_server_died(self) -> list[Ended]:
        """Begin with a new server; the system has told the trials of the old one to stop, and they save first."""
        assert self._server is not None
        self._server.wait()
        if not self._is_ready:
            raise utils.Stop(f"the process that starts the trials has ended with exit code {self._server.returncode}")
        ended = [Ended(trial, -signal.SIGTERM) for trial in self._running.values()]
        self._left |= dict.fromkeys(self._begun.values(), time.monotonic() + GRACE_SECONDS)
        self._running, self._begun, self._server = {}, {}, None
        self._connection.close()
        return ended

    def _end_those_left(self) -> None:
        """Kill trials whose server died, with their data loading processes, if they hang and do not stop."""
        for process, latest in list(self._left.items()):
            is_late = time.monotonic() >= latest
            try:
                os.killpg(process, signal.SIGKILL if is_late else 0)  # 0 asks whether it is there
            except OSError:  # it is gone
                is_late = True
            if is_late:
                del self._left[process]

    def close(self) -> None:
        """End the server; trials that still run save and stop."""
        if self._server is not None:
            self._connection.close()
            try:
                self._server.wait(timeout=90)
            except subprocess.TimeoutExpired:
                self._server.kill()
        while self._left:
            self._end_those_left()
            time.sleep(0.1)


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def list_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; loads no CUDA for it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each.strip() for each in visible.split(",") if each.strip() and each.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip().isdigit()]


def useful_workers(num_trials: int) -> int:
    """Return how many trials at once make sense: one a GPU; without GPUs one a core, as far as memory goes."""
    gpus = list_gpus()
    most = len(gpus) if gpus else num_cores()
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        most = min(most, max(1, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MEMORY_OF_A_TRIAL))
    return max(1, min(most, num_trials))
