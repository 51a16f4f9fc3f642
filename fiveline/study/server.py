"""The fork server: a process that has torch loaded already, and starts each trial as a copy of itself.

    python -m fiveline.study.server SOCKET TASK

It reads requests from an inherited socket, one JSON object a line, and answers in kind. It runs no tensor operation and
asks no GPU before it forks: neither OpenMP's threads nor CUDA survive a fork. When the study that started it is gone,
it stops the trials, which save first, and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import utils

GRACE_SECONDS = 60.0  # to save in, for trials whose study is gone
PAUSE = 0.02  # seconds between two looks at who has ended


class Server:
    """Serves one study.

    Args:
        connection: to the study
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._names: dict[int, str] = {}  # process -> trial

    def serve(self) -> None:
        """Answer requests until the study closes the connection."""
        self._say({"ready": os.getpid()})
        unread = b""
        while True:
            readable, _, _ = select.select([self.connection], [], [], PAUSE)
            if readable:
                received = b""  # as at its end, if the study was killed with answers unread
                with contextlib.suppress(ConnectionError):
                    received = self.connection.recv(65536)
                if not received:
                    break
                *lines, unread = (unread + received).split(b"\n")
                for line in lines:
                    self._answer(json.loads(line))
            self._reap()
        self._stop_all()

    def _answer(self, request: Mapping[str, Any]) -> None:
        if "start" in request:
            server, process = os.getpid(), os.fork()
            if process == 0:
                self.connection.close()
                _become(request, server)
            self._names[process] = request["start"]
            self._say({"begun": request["start"], "process": process})
        else:
            for process, name in self._names.items():
                if name == request["stop"]:
                    _signal_group(process, request["signal"])

    def _reap(self) -> None:
        while self._names:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            name = self._names.pop(process)
            _signal_group(process, signal.SIGKILL)  # its data loading processes, if it left any
            self._say({"ended": name, "code": os.waitstatus_to_exitcode(status)})

    def _say(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the study is gone: the next read will tell
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def _stop_all(self) -> None:
        for process in self._names:
            _signal_group(process, signal.SIGTERM)
        latest = time.monotonic() + GRACE_SECONDS
        while self._names and time.monotonic() < latest:
            self._reap()
            time.sleep(PAUSE)
        for process in self._names:
            _signal_group(process, signal.SIGKILL)


def _signal_group(process: int, number: int) -> None:
    """Send a signal to a trial; one that cannot be caught goes to its data loading processes as well."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: on macOS, it has ended already
        if number == signal.SIGKILL:
            os.killpg(process, number)
        else:
            os.kill(process, number)


def _become(request: Mapping[str, Any], server: int) -> None:
    """Turn a fresh copy of the server into a run of train.py; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        die_with(server)
        output = _open_output(request["output"])
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.environ.update(request["environment"])
        sys.argv = ["train.py", *request["words"]]
        import torch

        import train

        torch.set_num_threads(request["threads"])
        try:
            utils.run_script(train.main)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    except utils.Stop as stop:
        print(f"error: {stop}", file=sys.stderr)
    except BaseException:  # whatever it is, this copy must not go on as a second server
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _open_output(path: str) -> int:
    """Open a trial's output to add to it, behind whole lines; a link is not followed.

    Raises:
        Stop: it cannot be opened
    """
    try:
        output = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise utils.Stop(f"{path}: cannot be written ({error.strerror})") from None
    status = os.fstat(output)
    utils.check_regular(path, status.st_mode)
    size = status.st_size
    if size and os.pread(output, 1, size - 1) != b"\n":  # the disk was full
        with contextlib.suppress(OSError):
            os.write(output, b"\n")
    return output


def die_with(parent: int) -> None:
    """Let the system send SIGTERM to this process when its parent is gone; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was gone before
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Load what a trial needs, then serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which says what it means for the trials
    task = f"model.{sys.argv[2]}"
    modules = ("torch", "train", "fiveline.saving", "fiveline.options.set_up", f"{task}.net", f"{task}.data_loader")
    utils.import_quickly(*modules)  # frozen, too: the copies go on sharing its memory
    Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    os._exit(0)  # taking torch down in good order takes long, and is of no use to anybody


if __name__ == "__main__":
    main()
