"""A disk that can be made full, for `python -m benchmarks.soak --full_disk`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

NUM_BYTES = 64 * 2**20


class Disk:
    """A folder with a small disk of its own, a tmpfs, which a file can fill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", f"size={NUM_BYTES}", "tmpfs", str(folder)]
        if subprocess.run(command, check=False).returncode:
            sys.exit("--full_disk mounts a tmpfs; type `unshare --user --map-root-user --mount` before the command")

    def fill(self, seconds: float) -> None:
        """Keep the disk full for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # room that others free meanwhile is filled as well
            with contextlib.suppress(OSError), (self.folder / "ballast").open("ab", buffering=0) as file:
                while file.write(bytes(2**14)):
                    pass
            time.sleep(0.002)
        (self.folder / "ballast").unlink()

    def unmount(self) -> None:
        """Remove the disk with all that is on it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
