"""Trials on a Ray cluster: each on some machine of it, with CPUs and GPUs of its own.

The project, the study's folder and the data are on a file system that all machines share, under the same path, and the
same Python packages are installed on each. The study itself runs on one of them, after `ray start` there.

Each trial has an actor, which starts it as a study on one machine does, and ends with it. Ray retries nothing: a trial
that is lost with its machine has ended, killed, and the driver runs it again, from its checkpoint, where there is room.
When the study is gone, Ray ends the actors, and the trials are told to stop, save and go.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import utils
from fiveline.study.ray_cluster import connect
from fiveline.study.trials import OUTPUT_FILE, Trial
from fiveline.study.workers import Ended, LocalWorkers

LOOK_SECONDS = 2.0  # between two looks at which nodes there are
SAVE_SECONDS = 90.0  # that trials may take to save when the study closes
LOST = -9  # as after SIGKILL


@dataclasses.dataclass
class Placed:
    """A trial on the cluster, or in Ray's queue.

    Args:
        trial: which
        actor: runs it
        begun: Ray's reference to the answer that it has begun
        code: Ray's reference to its exit code
        code_if_lost: what it ended with when there is no exit code
    """

    trial: Trial
    actor: Any
    begun: Any
    code: Any
    code_if_lost: int = LOST


class TrialOnNode:
    """Runs one trial on the machine that Ray has chosen; Ray makes an actor of it.

    Args:
        trial: which
        words: more for train.py's command line
        folder: that the study was started in; relative paths of the params mean those from there
        threads: for the trial
        has_gpu: whether Ray has given it any

    Raises:
        InputError: the machine does not see the shared file system
    """

    def __init__(self, trial: Trial, words: Sequence[str], folder: str, threads: int, has_gpu: bool) -> None:
        if not Path(folder, trial.path, "params.json").is_file():
            where = Path(folder, trial.path)
            raise utils.InputError(f"{where}: not there on {socket.gethostname()}; Ray needs a shared file system")
        os.chdir(folder)
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # those are of others
        self._workers = LocalWorkers(1, trial.params.task, words)
        self._workers.threads = threads
        self._workers.gpus = []  # CUDA_VISIBLE_DEVICES is as Ray has set it
        self._workers.start(trial)

    def has_begun(self) -> bool:
        """Return True, once Ray has found a place for the trial."""
        return True

    def wait(self) -> int:
        """Return the trial's exit code, or minus the signal, when it has ended."""
        while True:
            for ended in self._workers.poll(1.0):
                self._workers.close()
                return ended.code

    def stop(self, number: int) -> None:
        """Send the trial a signal."""
        for trial in self._workers.running:
            self._workers.stop(trial, number)


class RayWorkers:
    """Runs trials on a Ray cluster.

    Args:
        address: of the cluster: `auto` for the one that this machine is part of, or HOST:PORT
        num_workers: trials at once; None for as many as the nodes hold, also when nodes come and go
        words: more for train.py's command line
        cpus_per_trial: whole CPUs, which are its threads
        gpus_per_trial: GPUs, or a share of one; None for one if the cluster has any

    Raises:
        InputError: Ray is not installed, there is no cluster, or none of its nodes can hold a trial
    """

    def __init__(
        self,
        address: str,
        num_workers: int | None,
        words: Sequence[str],
        cpus_per_trial: int = 1,
        gpus_per_trial: float | None = None,
    ) -> None:
        if cpus_per_trial < 1 or (gpus_per_trial or 0) < 0:
            raise utils.InputError("a trial needs 1 CPU or more, and no fewer than 0 GPUs")
        self.num_workers, self.words, self.cpus = num_workers, list(words), cpus_per_trial
        self._ray = connect(address)
        self.gpus = gpus_per_trial
        if self.gpus is None:
            self.gpus = 1.0 if any(node["Resources"].get("GPU") for node in self._nodes()) else 0.0
        self._placed: list[Placed] = []
        self._room, self._next_look = 0, 0.0
        if num_workers is None and not self._capacity():
            self._ray.shutdown()
            raise utils.InputError(
                f"--ray_address {address}: no node of the cluster has {self.cpus} CPUs and {self.gpus:g} GPUs for a "
                "trial; with --num_workers, Ray's autoscaler can start some"
            )

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _capacity(self) -> int:
        """Return how many trials the nodes hold, as of a moment ago."""
        if time.monotonic() >= self._next_look:
            self._room = 0
            for node in self._nodes():
                room = node["Resources"].get("CPU", 0) // self.cpus
                if self.gpus:
                    gpus = node["Resources"].get("GPU", 0)
                    share = gpus // self.gpus if self.gpus >= 1 else gpus * (1 // self.gpus)
                    room = min(room, share)
                self._room += int(room)
            self._next_look = time.monotonic() + LOOK_SECONDS
        return self._room

    @property
    def running(self) -> list[Trial]:
        """The trials at work."""
        return [placed.trial for placed in self._placed]

    def has_room(self) -> bool:
        """Return whether one more can start now; with a number of workers that is too high, Ray lets it wait."""
        return len(self._placed) < (self._capacity() if self.num_workers is None else self.num_workers)

    def has_begun(self, trial: Trial) -> bool:
        """Return whether a trial that was started has found its place."""
        return any(placed.trial is trial and self._is_ready(placed.begun) for placed in self._placed)

    def _is_ready(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])

    def start(self, trial: Trial) -> None:
        """Start a trial, whose directory is there, or let it wait for a place."""
        make = self._ray.remote(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=3,  # one call waits for its end; others must get through
        )(TrialOnNode)
        actor = make.remote(trial, self.words, str(Path.cwd()), self.cpus, bool(self.gpus))
        self._placed.append(Placed(trial, actor, actor.has_begun.remote(), actor.wait.remote()))

    def stop(self, trial: Trial, number: int = signal.SIGTERM) -> None:
        """Send a signal to a trial; SIGTERM lets it save first. One that still waits for its place ends at once."""
        for placed in self._placed:
            if placed.trial is trial:
                if self._is_ready(placed.begun):
                    placed.actor.stop.remote(int(number))
                else:
                    placed.code_if_lost = -int(number)
                    self._ray.kill(placed.actor)

    def poll(self, seconds: float) -> list[Ended]:
        """Wait for up to so many seconds, and return the trials that have ended."""
        if not self._placed:
            time.sleep(seconds)
            return []
        codes = [placed.code for placed in self._placed]
        ready, _ = self._ray.wait(codes, num_returns=1, timeout=seconds)
        ended = []
        for placed in [placed for placed in self._placed if placed.code in ready]:
            self._placed.remove(placed)
            ended.append(self._ended(placed))
            self._ray.kill(placed.actor)  # its CPUs and GPUs are free now
            self._next_look = 0.0
        return ended

    def _ended(self, placed: Placed) -> Ended:
        """Return how a trial ended; where Ray could not start it, its output says why."""
        errors = self._ray.exceptions
        try:
            return Ended(placed.trial, int(self._ray.get(placed.code)))
        except errors.RayError as error:
            was_lost = isinstance(error, errors.RayActorError) and not error.actor_init_failed
            if was_lost or isinstance(error, (errors.NodeDiedError, errors.OutOfMemoryError)):
                reason = "lost with the node or the Ray worker that it ran on" if placed.code_if_lost == LOST else ""
                return Ended(placed.trial, placed.code_if_lost, reason)
            with (placed.trial.path / OUTPUT_FILE).open("a", encoding="utf-8") as file:
                file.write(f"{error}\nerror: {str(error).strip().rpartition(chr(10))[2]}\n")
            return Ended(placed.trial, 1)

    def close(self) -> None:
        """Stop what still runs, which saves first, and leave the cluster."""
        latest = time.monotonic() + SAVE_SECONDS
        for trial in self.running:
            self.stop(trial)
        while self._placed and time.monotonic() < latest:
            self.poll(1.0)
        for trial in self.running:
            self.stop(trial, signal.SIGKILL)
        if self._placed:
            self.poll(LOOK_SECONDS)
        self._ray.shutdown()
