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

from fiveline.record.walk import files_below

PACKAGES = ("torch", "torchvision", "numpy", "pydantic")


def fingerprint(data_dir: Path) -> dict[str, Any]:
    """Return a hash of the names and sizes of all files of a dataset, and their number; hidden ones do not count."""
    lines = []
    for name in files_below(data_dir):
        path = data_dir / name
        if path.is_file():
            lines.append(f"{name}\0{path.stat().st_size}\n")
    digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass"))  # a name may be no UTF-8
    return {"fingerprint": digest.hexdigest()[:16], "num_files": len(lines)}


def now() -> str:
    """Return the local time with its zone, to the second, in ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).astimezone().isoformat(timespec="seconds")


def provenance() -> dict[str, Any]:
    """Return what one needs to know to run this again: command, code, versions, machine."""
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "git": _git_state(Path(__file__).resolve().parents[2]),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "start": now(),
    }


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit and whether tracked files differ from it, or None outside a git checkout."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
