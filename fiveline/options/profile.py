"""Where the time of a step goes: a trace of some steps, to be opened in Perfetto, and the ten costliest operations."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity

import utils
from fiveline.state import State

TRACE_FILE = "profile.json.gz"
FIRST_STEPS = 3  # not traced: they are slower, because memory is found and operations are set up
NUM_SHOWN = 10


@contextlib.contextmanager
def profiled(state: State, num_steps: int, run: utils.RunDirectory) -> Iterator[None]:
    """Trace the first steps inside, of whatever trains there; the run itself is as it would be without.

    Args:
        state: of the run, whose optimizer's steps are counted
        num_steps: how many to trace, after the first few
        run: where to write TRACE_FILE
    """
    is_cuda = state.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    profiler = torch.profiler.profile(activities=activities)
    num_done = 0

    def count(*_: object) -> None:
        nonlocal num_done
        num_done += 1
        if num_done == FIRST_STEPS:
            profiler.start()
        elif num_done == FIRST_STEPS + num_steps:
            _finish(profiler, num_steps, run)

    hook = state.optimizer.register_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()
        if FIRST_STEPS < num_done < FIRST_STEPS + num_steps:  # the run was shorter, or was stopped
            _finish(profiler, num_done - FIRST_STEPS, run)
        elif num_done <= FIRST_STEPS:
            if num_done == FIRST_STEPS:  # it runs already
                profiler.stop()
            logging.warning(
                f"- WARNING: --profile: of {num_done} step(s) the first {FIRST_STEPS} are not traced; "
                "take more epochs, or smaller batches"
            )


def _finish(profiler: torch.profiler.profile, num_steps: int, run: utils.RunDirectory) -> None:
    profiler.stop()
    where = f"{run.path / TRACE_FILE}, to be opened at https://ui.perfetto.dev"
    try:
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / TRACE_FILE
            profiler.export_chrome_trace(str(trace))
            utils.write_atomically(run.path / TRACE_FILE, trace.read_bytes())
    except OSError as error:  # the run goes on
        where = f"the trace could not be written ({error}); is there room in the folder and in {tempfile.gettempdir()}?"
    logging.info(f"Profile of {num_steps} step(s): {where}\n{table(profiler.key_averages(), num_steps)}")


def table(operations: Any, num_steps: int) -> str:
    """Return the operations that take most time of their own, without those that they call.

    That is time on the GPU, where there is any: a machine may not let the profiler look into its GPU.
    """
    # a GPU's kernels are entries, too, whose time the operations that began them have already
    operations = [operation for operation in operations if operation.device_type.name == "CPU"]
    is_cuda = any(operation.self_device_time_total for operation in operations)

    def own_time(operation: Any) -> float:
        return float(operation.self_device_time_total if is_cuda else operation.self_cpu_time_total)

    total = sum(own_time(operation) for operation in operations)
    costliest = sorted(operations, key=own_time, reverse=True)[:NUM_SHOWN]
    rows = [
        [
            operation.key[:60],
            f"{own_time(operation) / total:.1%}",
            f"{own_time(operation) / num_steps / 1000:.3f}",
            f"{operation.count / num_steps:.1f}",
        ]
        for operation in costliest
    ]
    where = "GPU" if is_cuda else "CPU"
    return tabulate(
        rows, headers=["operation", f"share of {where}", "ms a step", "calls a step"], disable_numparse=True
    )
