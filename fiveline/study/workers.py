"""Trials as processes on this machine, each with its share of the cores and the GPUs.

A trial is a fork of multiprocessing's fork server, which has loaded torch already. The server runs no tensor operation
and queries no GPU: neither OpenMP's threads nor CUDA survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Sequence
from multiprocessing import connection, process
from pathlib import Path
from typing import NamedTuple

import utils
from fiveline.study.trial_process import Main, run_trial
from fiveline.study.trials import OUTPUT_FILE, Trial

PROJECT = Path(__file__).resolve().parents[2]
GRACE_SECONDS = 120.0  # a trial has this long to save after SIGTERM, before SIGKILL
MEMORY_OF_A_TRIAL = 2**30  # bytes; a rough guess, only used to choose how many trials run at once
SERVER_DIED = 255  # multiprocessing's exit code for a process whose fork server is gone
PRELOADED = ("__main__", "torch", "fiveline.saving", "fiveline.options.set_up", "fiveline.study.driver")


class Ended(NamedTuple):
    """A trial whose process has ended."""

    trial: Trial
    code: int  # exit code, or minus the signal's number
    reason: str = ""  # why it ended, where the code does not say


class Running(NamedTuple):
    """A trial at work."""

    trial: Trial
    process: process.BaseProcess
    pipe: connection.Connection  # closed at the other end when no process of the trial is left


class LocalWorkers:
    """Runs trials on this machine: train.py's `main`, with further words for its command line."""

    def __init__(self, num_workers: int, task: str, main: Main, words: Sequence[str]) -> None:
        self.num_workers, self.main, self.words = num_workers, main, words
        self.modules = [*PRELOADED, main.__module__, f"model.{task}.net", f"model.{task}.data_loader"]
        threads = os.environ.get("OMP_NUM_THREADS", "")
        self.threads = int(threads) if threads.isdigit() and int(threads) else max(1, num_cores() // num_workers)
        self.gpus = list_gpus()
        self._running: dict[int, Running] = {}  # by slot

    @property
    def running(self) -> list[Trial]:
        """The trials at work."""
        return [each.trial for each in self._running.values()]

    def has_room(self) -> bool:
        """Return whether one more can start now."""
        return len(self._running) < self.num_workers

    def has_begun(self, trial: Trial) -> bool:
        """Return whether a trial that was started has its process: always, once `start` has returned."""
        return True

    def start(self, trial: Trial) -> None:
        """Start a trial whose directory exists; the first one waits until the fork server has loaded torch."""
        slot = next(slot for slot in range(self.num_workers) if slot not in self._running)
        environment = {"OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        words = ["--model_dir", str(trial.path), *self.words]
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe(duplex=False)
        arguments = (self.main, words, environment, str(trial.path / OUTPUT_FILE), GRACE_SECONDS, theirs)
        started = context.Process(target=run_trial, args=arguments)
        try:
            _ensure_server(self.modules)
            started.start()
        except (EOFError, ConnectionError) as error:
            raise utils.Stop(f"the process that starts the trials has ended ({error!r}); see the lines above") from None
        finally:
            theirs.close()
        self._running[slot] = Running(trial, started, ours)

    def stop(self, trial: Trial, number: int = signal.SIGTERM) -> None:
        """Send a signal to a trial; SIGTERM lets it save first."""
        for each in list(self._running.values()):  # on a Ray node, another thread waits for the end
            if each.trial.path == trial.path and each.process.pid:
                with contextlib.suppress(OSError):  # it has just ended
                    os.kill(each.process.pid, number)

    def poll(self, seconds: float) -> list[Ended]:
        """Wait for up to this many seconds, and return the trials that have ended."""
        connection.wait([each.pipe for each in self._running.values()], seconds)
        ended = []
        for slot, each in list(self._running.items()):
            is_gone = each.pipe.poll()
            if is_gone:
                each.process.join(1.0)  # the server has its exit code in a moment
            code = each.process.exitcode
            if code is None or (code == SERVER_DIED and not is_gone):  # without its server, a trial stops itself
                continue
            if not is_gone and each.process.pid:
                with contextlib.suppress(OSError):
                    os.killpg(each.process.pid, signal.SIGKILL)  # its data loading processes
            reason = "the process that starts the trials has ended" if code == SERVER_DIED else ""
            ended.append(Ended(each.trial, code, reason))
            each.pipe.close()
            del self._running[slot]
        return ended


def _ensure_server(modules: Sequence[str]) -> None:
    """Start the fork server unless it runs, with one thread and out of the reach of Ctrl-C."""
    from multiprocessing import forkserver, resource_tracker

    paths = [str(PROJECT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))  # from any working directory
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # only a process with one thread can be forked safely
    os.environ["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"  # else macOS ends a fork that uses its GPU
    forkserver.set_forkserver_preload(list(modules))
    resource_tracker.ensure_running()  # first, because it unblocks the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the server inherits it; trials unblock it
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def list_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each.strip() for each in visible.split(",") if each.strip() not in ("", "-1")]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip().isdigit()]


def useful_workers(num_trials: int) -> int:
    """Return how many trials to run at once: one per GPU; without GPUs one per core, as far as memory goes."""
    most = len(list_gpus()) or num_cores()
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        most = min(most, max(1, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MEMORY_OF_A_TRIAL))
    return max(1, min(most, num_trials))
