"""Save a run: when, and in which order its files are written. Show the progress line."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import sys
import time
from typing import Any

from tqdm import tqdm

import utils
from fiveline.device import to_cpu
from fiveline.loader import saving_between
from fiveline.record.directory import delete_or_restore
from fiveline.record.script import Signals
from fiveline.state import State

# Saving may take about 1% of the time, so not every short epoch is saved. A killed run repeats the unsaved epochs.
SAVING_COSTS_ONE_IN = 100
FIRST_SECONDS = 5.0


class Saver:
    """Saves a run: after an epoch, every params.checkpoint_minutes, and when a signal arrives; shows its progress.

    A context manager. At its start it raises OtherRunError if the directory holds a longer run. At its end it saves
    the state; after an error, only the best weights. In a job, all processes save at the same step, and the first one
    writes.
    """

    def __init__(self, run: utils.RunDirectory, state: State, signals: Signals) -> None:
        self.run, self.state, self.signals = run, state, signals
        self.saving_between = functools.partial(saving_between, self)  # yields batches, and calls `act` between them
        self._unsaved: dict[str, float] | None = None  # val metrics of the last epoch, if it is not saved
        self._best: tuple[dict[str, Any], dict[str, float]] | None = None  # unsaved best: checkpoint, val metrics
        self._bar: Any = tqdm(disable=True)  # closed; on a terminal, each epoch opens one
        self._has_bar = run.is_writer and sys.stderr.isatty()
        self._steps_between = state.params.save_summary_steps  # steps between two checks of the loss
        if self._has_bar and state.job.world_size == 1:  # in a job, all processes must check at the same step
            self._steps_between = min(self._steps_between, max(1, state.steps_per_epoch // 100))
        self._plan_saves(FIRST_SECONDS)

    def _plan_saves(self, seconds: float) -> None:
        """Plan the next save: at the first epoch end after `seconds`, or within an epoch after checkpoint_minutes."""
        now = time.monotonic()
        self._may_save_at, self._must_save_at = now + seconds, now + 60 * self.state.params.checkpoint_minutes
        # the processes of a job may vote between any two steps
        self.acts_at = self._must_save_at if self.state.job.world_size == 1 else -math.inf

    def plan_log(self) -> None:
        """Set the next step after which to log: none during validation."""
        step, total = self.state.step, self.state.steps_per_epoch
        next_step = step + self._steps_between - step % self._steps_between
        self.logs_at_step = min(next_step, total) if step < total else math.inf

    def act(self) -> None:
        """Log if it is time. Save if it is time or a signal arrived; after a signal, raise InterruptedRun."""
        state = self.state
        if state.step >= self.logs_at_step:
            self._log()
            self.plan_log()
        number, is_due = state.job.agree(self.signals.received, time.monotonic() >= self._must_save_at)
        if number or is_due:
            self.save()
        if number:
            place = f"epoch {state.epoch + 1}, step {state.step}; saved. Rerun the same command to continue"
            raise utils.InterruptedRun(f"stopped by signal {number} in {place}", number)

    def _log(self) -> None:
        """Check the mean loss, and show it: in a bar on a terminal, else in a line of the log."""
        state = self.state
        if state.step % self._steps_between == 0:
            loss, speed = state.sums.mean_loss(), f"{self._examples_per_second:,.0f} examples/s"
            state.check_loss(loss)
            if self._has_bar:
                if self._bar.disable:
                    self._bar = tqdm(total=state.steps_per_epoch, leave=False, dynamic_ncols=True)
                self._bar.update(state.step - self._bar.n)
                self._bar.set_postfix_str(f"loss={loss:05.3f}, {speed}", refresh=False)
            else:
                logging.info(f"- step {state.step}/{state.steps_per_epoch} ; loss: {loss:05.3f} ; {speed}")
        if state.step == state.steps_per_epoch:
            self._bar.close()

    @property
    def _examples_per_second(self) -> float:
        """The speed of the job in this epoch; its processes have about the same number of examples each."""
        state = self.state
        return state.job.world_size * state.sums.num_examples / max(state.elapsed() - state.seconds, 1e-9)

    def end_epoch(self, train_metrics: dict[str, float], val_metrics: dict[str, float]) -> None:
        """Count an epoch as complete, and save it unless the last save was only a moment ago."""
        state, monitor, old_best = self.state, self.state.params.monitor, self.state.best
        row = {"epoch": state.epoch + 1, "train": train_metrics, "val": val_metrics}
        row |= {"learning_rate": state.learning_rate(state.step - 1), "seconds": state.elapsed()}
        row |= {"examples_per_second": self._examples_per_second}
        is_best = state.end_epoch(val_metrics[monitor], val_metrics["loss"])
        self._unsaved = val_metrics
        self.run.append_history(row)
        is_due = state.job.all_gather(time.monotonic() >= self._may_save_at)[0] or state.is_finished()
        if is_best:
            logging.info(f"- Found {'a lower loss at the' if state.best == old_best else 'new'} best {monitor}")
            contents = {} if is_due else state.state_dict()  # if a save is due, `save` gets the contents itself
            if contents:  # a copy, because training changes the tensors; on the CPU, to spare the GPU's memory
                contents = to_cpu(contents, copy=True) if self.run.is_writer else {}
            self._best = contents, val_metrics
        if is_due:
            self.save()

    def save(self) -> None:
        """Save everything now; raise Stop if that fails, for example on a full disk: the last save is then kept."""
        start = time.monotonic()
        try:
            self._write()
        except OSError as error:
            reason = f"{error.filename or self.run.path}: could not be saved ({error.strerror or error})"
            hint = "Fix that; then rerun the same command to continue from the last checkpoint"
            raise utils.Stop(f"{reason}. {hint}") from error
        self._unsaved = self._best = None
        self._plan_saves(SAVING_COSTS_ONE_IN * (time.monotonic() - start))

    def _write(self) -> None:
        """Write all files, the checkpoint last, so that it never refers to a file that does not exist."""
        state, run = self.state, self.run
        state.check_weights()
        contents = state.state_dict()
        if not run.is_writer:
            return
        run.check_lock()
        if self._unsaved is not None:
            run.write_history()
            utils.save_dict_to_json(self._unsaved, run.path / "metrics_val_last_weights.json")
        is_best = self._best is not None and not self._best[0]  # `contents` are of the epoch that has just ended
        with run.replacing_best() if self._best is not None else contextlib.nullcontext():
            self._write_best()
            best = {"best_epoch": state.best_epoch, "best": state.best, "best_loss": state.best_loss}
            seconds = sum(row.get("seconds") or 0.0 for row in run.history())
            run.update_record(epochs=state.epoch, **best, seconds=seconds)
            utils.save_checkpoint(contents, is_best, run.path)
        delete_or_restore(run.path)

    def _write_best(self) -> None:
        if self._best is not None:
            utils.save_dict_to_json(self._best[1], self.run.path / "metrics_val_best_weights.json")
            if self._best[0]:  # otherwise save_checkpoint writes the weights
                utils.write_checkpoint(self._best[0], self.run.path / "best.pth.tar")

    def __enter__(self) -> Saver:
        self.run.check_nothing_is_lost(self.state.epoch)
        self.run.cut_history(self.state.epoch)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        if kind is None and self._unsaved is not None:
            self.save()
        elif kind is not None and issubclass(kind, Exception) and self._best is not None and self._best[0]:
            # a rerun might never save it, for example after a divergence; only the first process has contents to write
            self.run.check_lock()
            with contextlib.suppress(OSError), self.run.replacing_best():  # the first error is the one to report
                self._write_best()
