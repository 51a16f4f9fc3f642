"""How a script begins, and how it ends: its exit code, and what it says."""

from __future__ import annotations

import gc
import importlib
import logging
import signal
import sys
from collections.abc import Callable

from record.errors import InterruptedRun, explain


def import_quickly(*names: str) -> None:
    """Import large modules in four fifths of the time: Python does not look for garbage meanwhile, as there is none."""
    missing = [name for name in names if name not in sys.modules]
    if not missing:
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for name in missing:
            importlib.import_module(name)
    finally:
        if was_enabled:
            gc.enable()
    if "torch" in missing:  # so there is no model yet; to look through all that torch made takes half a second at exit
        gc.freeze()


def import_dynamo() -> None:
    """Import torch._dynamo, which the first optimizer would import, more slowly; call before there is a model.

    It loads triton, to know whether that is there. Where there is no GPU, nothing will use it, and it is left out:
    without it, what was imported can be spared the search for garbage at exit. (triton would call itself leaked.)
    """
    import torch

    is_idle = "torch._dynamo" not in sys.modules and "triton" not in sys.modules
    if not is_idle or torch.accelerator.is_available():
        import_quickly("torch._dynamo")
        return
    sys.modules["triton"] = None  # type: ignore[assignment]  # how Python writes that there is no such module
    try:
        import_quickly("torch._dynamo")
    finally:
        del sys.modules["triton"]
    gc.freeze()


def run_script(
    main: Callable[[], None], may_say: Callable[[BaseException, BaseException | None], bool] | None = None
) -> None:
    """Run a script's `main` and exit: 0 done, 2 a mistake, 3 diverged, 4 in use, 130 / 143 interrupted, 1 any other.

    What the user can mend, a full disk too, is said in plain lines; only a bug shows a traceback.

    Args:
        main: the work
        may_say: asked before an error is said, with the error and its explanation: whether no other process of the
            same job has said it; None where there is only one
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # as stderr does: for names of files

    def stop_here(number: int, _: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)  # a second one quits at once
        raise InterruptedRun(f"interrupted by {signal.Signals(number).name}; the same command continues", number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop_here)
    try:
        main()
    except BrokenPipeError:  # the reader of our output, `head` for one, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except (Exception, InterruptedRun) as error:
        stop = error if isinstance(error, InterruptedRun) else explain(error)
        is_said = may_say is not None and not may_say(error, stop)
        if stop is None:
            if is_said:
                sys.exit(1)
            raise
        if is_said:
            pass
        elif logging.getLogger().handlers:
            logging.error(f"error: {stop}")  # into the log as well
        else:
            print(f"error: {stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    finally:
        _end_workers()


def _end_workers() -> None:
    """End the data loading processes that an error has left behind; Python would wait for them at exit."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report their end as an error
    multiprocessing = sys.modules.get("multiprocessing")  # without it, there are none
    for process in multiprocessing.active_children() if multiprocessing is not None else ():
        if process.daemon:
            process.kill()
