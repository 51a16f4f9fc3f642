"""Runs and studies on a disk that is full at random moments: `python -m benchmarks.soak --full_disk 20`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fiveline.sanity.selftest import differences, unreadable

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PROJECT = Path(__file__).resolve().parent.parent
DISK_BYTES = 64 * 2**20
MOST_FULL = 6  # times in one run or study; then the disk stays free
MOST_COMMANDS = 20
STUDY = {"space": {"learning_rate": [0.001, 0.003, 0.01]}}


class Disk:
    """A folder whose disk is full at times: a tmpfs, and a file that fills it, where this user may mount one.

    Elsewhere, on Linux, no process may write beyond some bytes of a file (RLIMIT_FSIZE): an error as of a full disk.

    Args:
        folder: where to mount the disk
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.is_mounted = folder, False
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
        with contextlib.suppress(FileNotFoundError):
            self.is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        if not self.is_mounted and not hasattr(resource, "prlimit"):
            sys.exit("--full_disk needs the right to mount a tmpfs, or Linux")

    def fill(self, seconds: float, process: int, num_bytes: int) -> None:
        """Let the disk be full for a while, or end a process's files, and its children's, after so many bytes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.is_mounted:
                _limit(process, num_bytes)
            else:  # what others remove meanwhile is filled as well
                with contextlib.suppress(OSError), (self.folder / "ballast").open("ab", buffering=0) as file:
                    while file.write(bytes(2**14)):
                        pass
            time.sleep(0.002)
        if self.is_mounted:
            (self.folder / "ballast").unlink()
        else:
            _limit(process, resource.RLIM_INFINITY)

    def unmount(self) -> None:
        """Take the disk away, with all that is on it."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def _limit(process: int, num_bytes: int) -> None:
    with contextlib.suppress(OSError):  # it has ended
        resource.prlimit(process, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
        for child in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split():
            _limit(int(child), num_bytes)


@dataclasses.dataclass
class Task:
    """A command that is run again and again, each time in a new folder, and what was seen.

    Args:
        name: for the table
        words: the script and its flag for the folder
        files: of the folder, by name
    """

    name: str
    words: list[str]
    files: Mapping[str, Any]
    seconds: float = 0.0  # that it takes undisturbed
    runs: int = 0
    times_full: int = 0
    repeats: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)

    def make(self, folder: Path) -> list[str]:
        """Write the folder; return the command."""
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return [sys.executable, *self.words, str(folder)]

    def run_undisturbed(self, folder: Path) -> None:
        """Run the command, to compare others with its end."""
        start = time.monotonic()
        subprocess.run(self.make(folder), cwd=PROJECT, capture_output=True, check=True)
        self.seconds = time.monotonic() - start

    def soak(self, folder: Path, whole: Path, disk: Disk, generator: random.Random) -> None:
        """Repeat the command until it ends well, and compare its end."""
        command, left = self.make(folder), MOST_FULL
        self.runs += 1
        for _ in range(MOST_COMMANDS):
            with tempfile.TemporaryFile() as output:
                process = subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output)
                while left and not _has_ended(process, generator.uniform(0, self.seconds / 3)):
                    disk.fill(10 ** generator.uniform(-2, 0.3), process.pid, generator.randrange(5000))
                    self.times_full, left = self.times_full + 1, left - 1
                code = process.wait()
                output.seek(0)
                text = output.read().decode(errors="replace")
            if code == 0:
                break
            self.repeats += 1
            if code != 1 or "Traceback" in text:
                self.lost.append(f"{self.name}: exit code {code}: {text[-1500:]}")
        else:
            self.lost.append(f"{self.name}: {MOST_COMMANDS} commands did not finish it")
            return
        for path in sorted(whole.glob("**/last.pth.tar")):
            ours = folder / path.parent.relative_to(whole)
            self.lost += [f"{self.name}: {line}" for line in unreadable(ours) + differences(path.parent, ours)]
        self.lost += [f"{self.name}: {path.name} was left behind" for path in folder.glob("**/.*.tmp")]


def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def soak_on_full_disk(kinds: Mapping[str, Mapping[str, Any]], number: int, seed: int) -> tuple[list[Task], str]:
    """Train runs of each kind in turn, and studies of the last kind.

    One kind more has many epochs between two saves: what it appends to its history and log meets the full disk.

    Args:
        kinds: name -> hyperparameters
        number: of runs, and of studies
        seed: of the moments

    Returns:
        what was seen, and how the disk was filled
    """
    generator, last = random.Random(seed), list(kinds.values())[-1]
    kinds = {**kinds, "many epochs": {**last, "num_epochs": 300, "checkpoint_minutes": 30, "hidden_size": 32}}
    tasks = [Task(name, ["train.py", "--model_dir"], {"params.json": params}) for name, params in kinds.items()]
    base = {**last, "num_epochs": 15}
    tasks.append(Task("study", ["search_hyperparams.py", "--parent_dir"], {"params.json": base, "search.yaml": STUDY}))
    with tempfile.TemporaryDirectory() as place:
        disk = Disk(Path(place))
        try:
            for i in range(2 * number):
                task = tasks[-1] if i >= number else tasks[i % (len(tasks) - 1)]
                whole = disk.folder / task.name
                if not whole.exists():
                    task.run_undisturbed(whole)
                with tempfile.TemporaryDirectory(dir=disk.folder) as folder:
                    task.soak(Path(folder, "run"), whole, disk, generator)
                print(f"{i + 1} of {2 * number}: {task.name}", file=sys.stderr, flush=True)
        finally:
            disk.unmount()
    return tasks, "a tmpfs was filled" if disk.is_mounted else "RLIMIT_FSIZE ended the files"
