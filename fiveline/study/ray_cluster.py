"""The connection to a Ray cluster. Ray is optional: nothing else imports it."""

from __future__ import annotations

import importlib
import os
import signal
import socket
from pathlib import Path
from typing import Any

import utils

CONNECT_SECONDS = 10.0


def connect(address: str) -> Any:
    """Connect to a cluster and return the module `ray`.

    Raises:
        InputError: Ray is not installed, or there is no cluster
    """
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise utils.InputError("--ray_address: Ray is not installed; pip install -r requirements-ray.txt") from None
    found = _find_cluster(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        _check_answers(found)  # Ray itself would try for minutes
        ray.init(address=found, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:  # Ray's own errors of connecting are among them
        told = str(error).strip().partition("\n")[0]
        raise utils.InputError(
            f"--ray_address {address}: no Ray cluster can be reached at {found} ({told}); on this machine, "
            "ray start --head, or ray start --address HOST:PORT to join one"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray takes it
    return ray


def _find_cluster(address: str) -> str:
    """Return HOST:PORT, as Ray does: from RAY_ADDRESS, or where `ray start` has written it."""
    if address != "auto":
        found = address
    elif os.environ.get("RAY_ADDRESS", "auto") != "auto":
        found = os.environ["RAY_ADDRESS"]
    else:
        try:
            path = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray/ray_current_cluster")
            found = utils.read_bytes(path).decode().strip()
        except (OSError, ValueError):
            raise utils.InputError(
                "--ray_address auto: no Ray runs on this machine; ray start --head, or ray start --address HOST:PORT "
                "to join a cluster"
            ) from None
    host, _, port = found.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise utils.InputError(f"--ray_address {found}: expected auto, or HOST:PORT as `ray start` prints it")
    return found


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
