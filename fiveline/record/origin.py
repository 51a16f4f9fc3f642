"""Where a run comes from: the command, the code, the versions, the machine and the data, for run.json."""

from __future__ import annotations

import datetime
import hashlib
import platform
import shlex
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from fiveline.record.files import files_below

PACKAGES = ("torch", "torchvision", "numpy", "pydantic")


def fingerprint(data_dir: Path) -> dict[str, Any]:
    """Return a hash of the names and sizes of all files of a dataset, and their number; hidden ones do not count."""
    names = [name for name in files_below(data_dir) if (data_dir / name).is_file()]
    lines = [f"{name}\0{(data_dir / name).stat().st_size}\n" for name in names]
    digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass"))  # not every name is UTF-8
    return {"fingerprint": digest.hexdigest()[:16], "num_files": len(lines)}


def now() -> str:
    """Return the local time with its zone, to the second, in ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).astimezone().isoformat(timespec="seconds")


def provenance() -> dict[str, Any]:
    """Return the command, the commit and the machine, which are needed to run this again."""
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "git": _git_state(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "start": now(),
    }


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that decide the numbers; None for one that is missing."""
    found = {name: next(iter(metadata.distributions(name=name)), None) for name in PACKAGES}
    releases = {name: each.version if each else None for name, each in found.items()}
    return {"python": platform.python_version(), **releases}


def _git_state() -> dict[str, Any] | None:
    """Return the commit and whether tracked files differ from it; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": found.removesuffix("-dirty"), "dirty": found.endswith("-dirty")}
