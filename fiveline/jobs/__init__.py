"""Several processes that train one run: torchrun starts them and gives each a rank, from 0.

    torchrun --standalone --nproc_per_node 2 train.py --model_dir experiments/x

The first process does all the writing. Importing this room loads no torch.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fiveline.jobs.endings import explaining_lost_process, rank, reports_first, world_size
from fiveline.record.errors import InputError

__all__ = ["reports_first", "joined", "explaining_lost_process", "rank", "refuse", "world_size"]


def refuse(script: str) -> None:
    """Raise InputError if torchrun started several processes of a script that runs in one."""
    if world_size() > 1:
        raise InputError(f"{script} runs in one process; start it with python, not with torchrun")


def joined() -> contextlib.AbstractContextManager[Any]:
    """Return a context manager that gives the job: one process, or several that are connected for the block."""
    if world_size() == 1:
        from fiveline.jobs.one import OneProcess

        return contextlib.nullcontext(OneProcess())
    from fiveline.jobs.job import connected

    return connected()
