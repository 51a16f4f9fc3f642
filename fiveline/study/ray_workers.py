"""Trials on a Ray cluster, each on one of its machines, with CPUs and GPUs of its own.

The project, the study's folder and the data are on a file system that all machines share, under the same path. Ray
retries nothing: the driver starts a trial that is lost with its machine again. When the study is gone, Ray ends the
actors, and the trials stop.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import utils
from fiveline.study.trial_process import Main
from fiveline.study.trials import OUTPUT_FILE, Trial
from fiveline.study.workers import Ended, LocalWorkers

CONNECT_SECONDS = 10.0  # Ray itself would try for minutes


class Placed(NamedTuple):
    """A trial on the cluster, or in Ray's queue, with Ray's references."""

    trial: Trial
    actor: Any
    begun: Any  # ready when the trial has its place
    code: Any  # its exit code


class TrialOnNode(LocalWorkers):
    """Runs one trial on the machine that Ray has chosen, in the folder that the study runs in; Ray's actor."""

    def __init__(
        self, trial: Trial, main: Main, words: Sequence[str], folder: str, threads: int, has_gpu: bool
    ) -> None:
        where = Path(folder, trial.path)
        if not (where / "params.json").is_file():
            raise utils.InputError(f"{where}: not there on {socket.gethostname()}; Ray needs a shared file system")
        os.chdir(folder)
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the machine's GPUs belong to others
        super().__init__(1, trial.params.task, main, words)
        self.threads, self.gpus = threads, []  # CUDA_VISIBLE_DEVICES stays as Ray has set it
        self.start(trial)

    def wait(self) -> int:
        """Return the trial's exit code, or minus the signal's number, when it has ended."""
        while not (ended := self.poll(1.0)):
            pass
        return ended[0].code


class RayWorkers:
    """Runs trials on a Ray cluster, with the methods of `LocalWorkers`; without `num_workers`, as many as have room.

    Each trial gets whole CPUs, one for each thread, and GPUs or a share of one; by default one if there are any.
    """

    def __init__(
        self, address: str, num_workers: int | None, main: Main, words: Sequence[str], cpus: int, gpus: float | None
    ) -> None:
        if cpus < 1 or (gpus or 0) < 0:
            raise utils.InputError("a trial needs 1 CPU or more, and no fewer than 0 GPUs")
        self.num_workers, self.main, self.words, self.cpus = num_workers, main, list(words), cpus
        self._ray = connect(address)
        self.gpus = float("GPU" in self._ray.cluster_resources()) if gpus is None else gpus
        self._placed: list[Placed] = []
        if num_workers is None and not self._capacity():
            self._ray.shutdown()
            found = f"no node of the cluster has {cpus} CPUs and {self.gpus:g} GPUs for a trial"
            raise utils.InputError(f"--ray_address {address}: {found}; with --num_parallel, Ray may start nodes")

    def _capacity(self) -> int:
        """Return how many trials the nodes have room for."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        needed = {kind: need for kind, need in {"CPU": self.cpus, "GPU": self.gpus}.items() if need}
        return sum(int(min(node.get(kind, 0) // need for kind, need in needed.items())) for node in nodes)

    @property
    def running(self) -> list[Trial]:
        """The trials at work."""
        return [placed.trial for placed in self._placed]

    def has_room(self) -> bool:
        """Return whether one more can start now; where `num_workers` is too high, it waits in Ray's queue."""
        return len(self._placed) < (self._capacity() if self.num_workers is None else self.num_workers)

    def has_begun(self, trial: Trial) -> bool:
        """Return whether a trial that was started has found its place."""
        return bool(self._ray.wait([each.begun for each in self._placed if each.trial is trial], timeout=0)[0])

    def start(self, trial: Trial) -> None:
        """Start a trial whose directory exists, or let it wait for a place."""
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0, "max_task_retries": 0}
        make = self._ray.remote(**options, max_concurrency=3)(TrialOnNode)  # one call waits, and others get through
        actor = make.remote(trial, self.main, self.words, str(Path.cwd()), self.cpus, bool(self.gpus))
        self._placed.append(Placed(trial, actor, actor.has_begun.remote(trial), actor.wait.remote()))

    def stop(self, trial: Trial, number: int = signal.SIGTERM) -> None:
        """Send a signal to a trial; SIGTERM lets it save first. One that still waits for its place ends at once."""
        for placed in self._placed:
            if placed.trial is trial:
                if self.has_begun(trial):
                    placed.actor.stop.remote(trial, int(number))
                else:
                    self._ray.kill(placed.actor)

    def poll(self, seconds: float) -> list[Ended]:
        """Wait for up to this many seconds, and return the trials that have ended."""
        if not self._placed:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait([placed.code for placed in self._placed], num_returns=1, timeout=seconds)
        done = [placed for placed in self._placed if placed.code in ready]
        self._placed = [placed for placed in self._placed if placed not in done]
        ended = [self._ended(placed) for placed in done]
        for placed in done:
            self._ray.kill(placed.actor)  # its CPUs and GPUs are free now
        return ended

    def _ended(self, placed: Placed) -> Ended:
        """Return how a trial ended; where Ray could not start it, the reason goes into its output."""
        errors = self._ray.exceptions
        try:
            return Ended(placed.trial, int(self._ray.get(placed.code)))
        except errors.RayError as error:
            was_lost = isinstance(error, errors.RayActorError) and not error.actor_init_failed
            if was_lost or isinstance(error, (errors.NodeDiedError, errors.OutOfMemoryError)):
                return Ended(placed.trial, -signal.SIGKILL, "lost with the node or the Ray worker that it ran on")
            with (placed.trial.path / OUTPUT_FILE).open("a", encoding="utf-8") as file:
                file.write(f"{error}\nerror: {str(error).strip().rpartition(chr(10))[2]}\n")
            return Ended(placed.trial, 1)


def connect(address: str) -> Any:
    """Connect to a cluster and return the module `ray`; `auto` is RAY_ADDRESS, or the cluster of `ray start` here."""
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise utils.InputError("--ray_address: Ray is not installed; pip install -r requirements-ray.txt") from None
    found, before = address, signal.getsignal(signal.SIGTERM)
    try:
        if address == "auto" and not (found := os.environ.get("RAY_ADDRESS", "")):
            path = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray/ray_current_cluster")  # may be of a dead cluster
            found = utils.read_bytes(path).decode().strip()
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address=found, log_to_driver=False, logging_level="error")
    except (utils.InputError, OSError, RuntimeError, ValueError) as error:  # Ray's connection errors are among them
        reason = f"no Ray cluster can be reached ({str(error).strip().partition(chr(10))[0]})"
        advice = "ray start --head starts one here; expected auto, or HOST:PORT as it prints it"
        raise utils.InputError(f"--ray_address {address}: {reason}; {advice}") from None
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray replaces the handler
    return ray
