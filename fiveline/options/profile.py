"""Where the time of a step goes: a trace of some steps, to be opened in Perfetto, and the ten costliest operations."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import utils
from fiveline.state import State

TRACE_FILE = "profile.json.gz"
FIRST_STEPS = 3  # not traced: they are slower, because memory is found and operations are set up


@contextlib.contextmanager
def profiled(state: State, num_steps: int, run: utils.RunDirectory) -> Iterator[None]:
    """Trace `num_steps` steps of the block, after the first few, into TRACE_FILE; the run computes the same bits."""
    if num_steps < 1:
        raise utils.InputError(f"--profile {num_steps}: expected the number of steps to trace, 1 or more")
    schedule = torch.profiler.schedule(wait=FIRST_STEPS - 1, warmup=1, active=num_steps, repeat=1)
    with torch.profiler.profile(schedule=schedule, on_trace_ready=lambda each: _report(each, run)) as profiler:
        hook = state.optimizer.register_step_post_hook(lambda *_: profiler.step())
        try:
            yield
        finally:
            hook.remove()
            if profiler.step_num <= FIRST_STEPS:
                found = f"of {profiler.step_num} step(s) the first {FIRST_STEPS} are not traced"
                logging.warning(f"- WARNING: --profile: {found}; take more epochs, or smaller batches")


def _report(profiler: torch.profiler.profile, run: utils.RunDirectory) -> None:
    if profiler.step_num <= FIRST_STEPS:
        return  # no step was traced
    where = f"{run.path / TRACE_FILE}, to be opened at https://ui.perfetto.dev"
    try:
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / TRACE_FILE
            profiler.export_chrome_trace(str(trace))
            utils.write_atomically(run.path / TRACE_FILE, trace.read_bytes())
    except OSError as error:  # the run goes on
        where = f"the trace could not be written ({error})"
    operations = profiler.key_averages()
    # a machine may not let the profiler look into its GPU
    device = "device" if any(operation.self_device_time_total for operation in operations) else "cpu"
    table = operations.table(sort_by=f"self_{device}_time_total", row_limit=10, max_name_column_width=40)
    logging.info(f"Profile: {where}\n{table}")
