"""The processes of a job, forked from one that has imported torch: starting each of them takes no time."""

import multiprocessing
import os
import socket
import tempfile
from pathlib import Path

from tests.support.processes import PATIENCE

MODULES = ["torch._dynamo", "torch.distributed.fsdp", "fiveline.jobs.job", "fiveline.options.set_up", "fiveline.saving"]


def run_ranks(num_processes, function, *args):
    """Call a function of a module in several processes that are expected to end well; return their output, by rank."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_processes)}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*MODULES, "train"])
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(rank) for rank in range(num_processes)]
        ranks = []
        for rank, path in enumerate(paths):
            environment = {**where, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(context.Process(target=_call, args=(path, environment, function, args)))
            ranks[-1].start()
        try:
            for process in ranks:
                process.join(PATIENCE)
        finally:
            for process in ranks:
                process.kill()
                process.join()
        texts = [path.read_text() for path in paths]
    assert [process.exitcode for process in ranks] == [0] * num_processes, "".join(texts)
    return texts


def _call(path, environment, function, args):
    os.environ.update(environment)
    output = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    function(*args)
