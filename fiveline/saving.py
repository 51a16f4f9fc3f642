"""When a run is saved, and in which order; the progress line."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

import utils
from fiveline.device import to_cpu
from fiveline.record.script import Signals, notice_dead_workers_at_the_fetch
from fiveline.state import State

# Saving may take about 1% of the time, so not every short epoch is saved. A killed run repeats the epochs since its
# last save, with bit-identical results.
SAVING_COSTS_ONE_IN = 100
FIRST_SECONDS = 5.0


class Saver:
    """Saves a run: after an epoch, every params.checkpoint_minutes, and when a signal arrives.

    A context manager. At its start it raises OtherRunError if the directory holds a longer run. At its end it saves
    the state; after an error, only the best weights. In a job, all processes save at the same step, and the first one
    writes.

    Args:
        run: where to write
        state: what to save
        signals: checked between two steps
        on_rows: called with the new rows of the history when they are saved
    """

    def __init__(
        self,
        run: utils.RunDirectory,
        state: State,
        signals: Signals,
        on_rows: Callable[[list[dict[str, Any]]], None] | None = None,
    ) -> None:
        self.run, self.state, self.signals, self.on_rows = run, state, signals, on_rows
        self.is_writer = run.is_writer
        self._rows: list[dict[str, Any]] = []  # of epochs that are not on the disk yet
        self._best: tuple[dict[str, Any], dict[str, float]] | None = None  # unsaved best: checkpoint, val metrics
        self._is_saved = True
        now = time.monotonic()
        self._may_save_at, self._must_save_at = now + FIRST_SECONDS, now + 60 * state.params.checkpoint_minutes
        self._bar: Any = None  # a tqdm bar on a terminal
        self._steps_between = state.params.save_summary_steps  # steps between two checks of the loss
        self.num_examples, self._start = 0, time.perf_counter()

    def between_steps(self) -> None:
        """Save if it is time.

        Raises:
            InterruptedRun: a signal arrived; the state is saved
        """
        number, is_due = self.state.job.agree(self.signals.received, time.monotonic() >= self._must_save_at)
        if number or is_due:
            self.save()
        if number:
            raise utils.InterruptedRun(
                f"stopped by signal {number} in epoch {self.state.epoch + 1}, step {self.state.step}; saved. Rerun the "
                "same command to continue",
                number,
            )

    def watched(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches; before each of them, check signals and the clock."""
        notice_dead_workers_at_the_fetch()
        while True:
            self.between_steps()  # before the fetch, which may draw random numbers
            try:
                yield next(batches)
            except StopIteration:
                return
            except InterruptedError:  # on Windows, Ctrl-C ends the wait for a worker's batch
                continue
            except Exception as error:
                # a ConnectionError or EOFError also means that a worker died, while it sent a batch
                if not utils.is_dead_worker(error) and not isinstance(error, ConnectionError | EOFError):
                    raise
                saved = "The run was not saved now"
                if self.state.job.world_size == 1:  # in a job, all processes must save together
                    self.save()  # the state is consistent: this process has drawn no random number since the last step
                    saved = "Saved"
                reason = utils.explain(error) or f"a data loading process died ({type(error).__name__})"
                raise utils.Stop(f"{reason}. {saved}; rerun the same command to continue") from error

    def start_progress(self) -> None:
        """Start the progress of an epoch, or of the rest of one: a bar on a terminal, else lines in the log."""
        self.num_examples, self._start = 0, time.perf_counter()
        if self.is_writer and sys.stderr.isatty():
            total, initial = self.state.steps_per_epoch, self.state.step
            self._bar = tqdm(total=total, initial=initial, leave=False, dynamic_ncols=True)
            if self.state.job.world_size == 1:  # all processes of a job must look at the same step
                self._steps_between = min(self._steps_between, max(1, total // 50))

    def log_step(self, num_examples: int) -> None:
        """Count a batch. Every params.save_summary_steps steps, or more often with a bar, check and show the mean loss.

        Args:
            num_examples: in the batch of this process

        Raises:
            DivergedError: the loss is not finite
        """
        state = self.state
        self.num_examples += num_examples
        if self._bar is not None:
            self._bar.update()
        if state.step % self._steps_between == 0:
            loss, speed = state.sums.mean_loss(), f"{self.examples_per_second:,.0f} examples/s"
            state.check_loss(loss)
            if self._bar is not None:
                self._bar.set_postfix_str(f"loss={loss:05.3f}, {speed}", refresh=False)
            else:
                logging.info(f"- step {state.step}/{state.steps_per_epoch} ; loss: {loss:05.3f} ; {speed}")
        if state.step == state.steps_per_epoch:
            self._close_bar()

    @property
    def examples_per_second(self) -> float:
        """The speed of the job in this epoch; its processes have about the same number of examples each."""
        return self.state.job.world_size * self.num_examples / max(time.perf_counter() - self._start, 1e-9)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def end_epoch(self, train_metrics: dict[str, float], val_metrics: dict[str, float]) -> None:
        """Count an epoch as complete, and save it unless the last save was only a moment ago."""
        state = self.state
        row = {"epoch": state.epoch + 1, "train": train_metrics, "val": val_metrics}
        row |= {"learning_rate": state.learning_rate(state.step - 1), "seconds": state.elapsed()}
        row |= {"examples_per_second": self.examples_per_second}
        is_best = state.end_epoch(val_metrics[state.params.monitor], val_metrics["loss"])
        if is_best:
            logging.info(f"- Found new best {state.params.monitor}")
        self._rows.append(row)
        self.run.append_history(row)
        self._is_saved = False
        is_due = state.job.all_gather(time.monotonic() >= self._may_save_at)[0]
        if is_best:
            contents = {} if is_due else state.state_dict()  # if a save is due, `save` gets the contents itself
            # a copy, because training changes the tensors; on the CPU, because the net needs the GPU's memory
            contents = to_cpu(contents, copy=True) if self.is_writer else {}
            self._best = contents, val_metrics
        if is_due:
            self.save()

    def save(self) -> None:
        """Save everything now.

        Raises:
            Stop: the disk is full or read-only, or the directory is no longer the one that was locked. The files of
                the last save are untouched
        """
        start = time.monotonic()
        try:
            self._write()
        except OSError as error:
            raise utils.Stop(
                f"{error.filename or self.run.path}: could not be saved ({error.strerror or error}). Fix that; then "
                "rerun the same command to continue from the last checkpoint"
            ) from error
        self._rows, self._best, self._is_saved = [], None, True
        end = time.monotonic()
        self._may_save_at = end + (end - start) * SAVING_COSTS_ONE_IN
        self._must_save_at = end + 60 * self.state.params.checkpoint_minutes

    def _write(self) -> None:
        """Write all files, the checkpoint last, so that it never refers to a file that does not exist."""
        state, run = self.state, self.run
        state.check_weights()
        contents = state.state_dict()
        if not self.is_writer:
            return
        run.check_place()
        if self._rows:
            run.write_history()
            if self.on_rows is not None:
                self.on_rows(self._rows)
            utils.save_dict_to_json(self._rows[-1]["val"], run.path / "metrics_val_last_weights.json")
        is_best = self._best is not None and state.step == 0 and state.epoch == state.best_epoch
        with run.replacing_best() if self._best is not None else contextlib.nullcontext():
            if self._best is not None:
                utils.save_dict_to_json(self._best[1], run.path / "metrics_val_best_weights.json")
                if not is_best:  # training has passed the best epoch
                    utils.write_checkpoint(self._best[0], run.path / "best.pth.tar")
            best = {"best_epoch": state.best_epoch, "best": state.best, "best_loss": state.best_loss}
            seconds = sum(row.get("seconds") or 0.0 for row in run.history())
            run.update_record(epochs=state.epoch, **best, seconds=seconds)
            utils.save_checkpoint(contents, is_best, run.path)
        run.settle()

    def __enter__(self) -> Saver:
        self.run.check_nothing_is_lost(self.state.epoch)
        self.run.cut_history(self.state.epoch)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close_bar()
        if kind is None and not self._is_saved:
            self.save()
        elif kind is not None and issubclass(kind, Exception) and self._best is not None and self._best[0]:
            # for example after a divergence, which a rerun would repeat; only the first process has contents to write
            self.run.check_place()
            with contextlib.suppress(OSError), self.run.replacing_best():  # the first error is the one to report
                utils.write_checkpoint(self._best[0], self.run.path / "best.pth.tar")
                utils.save_dict_to_json(self._best[1], self.run.path / "metrics_val_best_weights.json")
