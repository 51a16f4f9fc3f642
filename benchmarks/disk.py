"""A disk that can be made full, for `python -m benchmarks.soak --full_disk`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

NUM_BYTES = 64 * 2**20


class Disk:
    """A folder whose disk can be full: a tmpfs and a file that fills it, where this user may mount one.

    Elsewhere, on Linux, RLIMIT_FSIZE keeps a process from writing beyond some bytes of a file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.is_mounted = folder, False
        command = ["mount", "-t", "tmpfs", "-o", f"size={NUM_BYTES}", "tmpfs", str(folder)]
        with contextlib.suppress(FileNotFoundError):
            self.is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        if not self.is_mounted and not hasattr(resource, "prlimit"):
            sys.exit("--full_disk needs the right to mount a tmpfs, or Linux")
        self.kind = "a tmpfs that was filled" if self.is_mounted else "a limit on the size of files (RLIMIT_FSIZE)"

    def fill(self, seconds: float, process: int, num_bytes: int) -> None:
        """Keep the disk full for a while.

        Args:
            seconds: how long
            process: without a mount, the process whose files are limited, with its children
            num_bytes: without a mount, the most bytes of a file
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.is_mounted:
                _limit(process, num_bytes)
            else:  # room that others free meanwhile is filled as well
                with contextlib.suppress(OSError), (self.folder / "ballast").open("ab", buffering=0) as file:
                    while file.write(bytes(2**14)):
                        pass
            time.sleep(0.002)
        if self.is_mounted:
            (self.folder / "ballast").unlink()
        else:
            _limit(process, resource.RLIM_INFINITY)

    def unmount(self) -> None:
        """Remove the disk with all that is on it."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def _limit(process: int, num_bytes: int) -> None:
    with contextlib.suppress(OSError):  # it has ended
        resource.prlimit(process, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
        for child in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split():
            _limit(int(child), num_bytes)
