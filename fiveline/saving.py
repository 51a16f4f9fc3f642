"""When to save a checkpoint, and everything that has to be on the disk before it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import utils
from fiveline.device import Signals, notice_dead_workers_at_the_fetch, to_cpu
from fiveline.jobs import processes
from fiveline.options.tensorboard import Events
from fiveline.state import Training

# Saving may take one part in so many of the time, and need not begin at once: of short epochs, not each is saved.
# Nothing is lost by that: a run that is killed does them again, to the same bits.
LONGEST_SHARE = 100
FIRST_SECONDS = 5.0


class Keeper:
    """Saves the state of a run: after an epoch, every params.checkpoint_minutes, and when a signal asks to stop.

    Of a job's processes, all take part in saving, at the same step, and the first one writes. A context manager: at the
    end, what is not saved yet is saved; after an error, the best weights are.

    Args:
        run: where to write
        training: what to save
        signals: looked at between two steps
    """

    def __init__(self, run: utils.RunDirectory, training: Training, signals: Signals) -> None:
        self.run, self.training, self.signals = run, training, signals
        self._events = Events(run, training.params) if training.params.tensorboard and run.is_writer else None
        self._votes = processes.Votes() if processes.world_size() > 1 else None
        self._rows: list[dict[str, Any]] = []  # of epochs that are not on the disk yet
        self._best: tuple[dict[str, Any], dict[str, float]] | None = None  # the same: state and val metrics
        self._is_saved = True
        self._earliest = time.monotonic() + FIRST_SECONDS
        self._latest = time.monotonic() + 60 * training.params.checkpoint_minutes

    def between_steps(self) -> None:
        """Save if it is time to; called where the state of the run is a whole one.

        Raises:
            InterruptedRun: a signal came; the state is saved
        """
        number, is_due = self.signals.received, time.monotonic() >= self._latest
        if self._votes is not None:
            number, is_due = self._votes.agree(number, is_due)
        if number:
            self.save()
            raise utils.InterruptedRun(
                f"stopped by signal {number} in epoch {self.training.epoch + 1}, step {self.training.step}; "
                "saved, and the same command continues",
                number,
            )
        if is_due:
            self.save()

    def watched(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield batches, minding signals and the clock before each."""
        iterator = iter(batches)
        notice_dead_workers_at_the_fetch()
        while True:
            self.between_steps()  # before the fetch, which may draw random numbers
            try:
                yield next(iterator)
            except StopIteration:
                return
            except InterruptedError:  # on Windows, Ctrl-C ends the wait for a worker's batch, which is asked for again
                continue
            except Exception as error:
                # a pipe that broke was that of a data loading process, too: it died while it handed over a batch
                if not utils.is_dead_worker(error) and not isinstance(error, ConnectionError | EOFError):
                    raise
                saved = ""
                if processes.world_size() == 1:  # the other processes of a job are not here
                    self.between_steps()  # nothing was drawn from the generators here: the state is whole
                    self.save()
                    saved = "Saved, and "
                told = utils.explain(error) or f"a data loading process died ({type(error).__name__})"
                raise utils.Stop(f"{told}. {saved or 'It was not saved now; '}the same command continues") from error

    def end_epoch(self, row: dict[str, Any], is_best: bool) -> None:
        """Take note of an epoch, and save it unless the last save was only just now.

        Args:
            row: for history.jsonl, with the val metrics
            is_best: whether its weights are the best so far
        """
        self._rows.append(row)
        if self.run.is_writer:
            self.run.show_epoch(row)
        self._is_saved = False
        is_due = processes.from_first(time.monotonic() >= self._earliest)
        if is_best:
            state = {} if is_due else self.training.state_dict()  # all take part; if it is due, `save` asks for it
            # not copied on a GPU, whose memory is the net's
            self._best = to_cpu(state, copy=True) if self.run.is_writer else {}, row["val"]
        if is_due:
            self.save()

    def save(self) -> None:
        """Save everything now.

        Raises:
            Stop: the disk is full or read-only, or the directory is another one than was locked; says what is needed.
                The files of the last save are untouched
        """
        start = time.monotonic()
        try:
            self._write()
        except OSError as error:  # says how much room is needed
            raise utils.Stop(
                f"{error.filename or self.run.path}: could not be saved ({error.strerror or error}). Fix that; then "
                "the same command continues from the last checkpoint"
            ) from error
        self._rows, self._best, self._is_saved = [], None, True
        end = time.monotonic()
        self._earliest = end + (end - start) * LONGEST_SHARE
        self._latest = end + 60 * self.training.params.checkpoint_minutes

    def _write(self) -> None:
        """Write in an order in which the checkpoint, last of all, never speaks of anything that is not there."""
        training, run = self.training, self.run
        training.check_finite()
        state = training.state_dict()
        if not run.is_writer:
            return
        run.check_place()
        if self._rows:
            run.append_history(self._rows)
            if self._events is not None:
                self._events.write(self._rows)
            utils.save_dict_to_json(self._rows[-1]["val"], run.path / "metrics_val_last_weights.json")
        is_best = self._best is not None and training.step == 0 and training.epoch == training.best_epoch
        seconds = sum(row.get("seconds") or 0.0 for row in run.history())
        with run.replacing_best() if self._best is not None else contextlib.nullcontext():
            if self._best is not None:
                utils.save_dict_to_json(self._best[1], run.path / "metrics_val_best_weights.json")
                if not is_best:  # the run has gone on since
                    utils.write_checkpoint(self._best[0], run.path / "best.pth.tar")
            best = {"best_epoch": training.best_epoch, "best": training.best, "best_loss": training.best_loss}
            run.update_record(epochs=training.epoch, **best, seconds=seconds)
            utils.save_checkpoint(state, is_best, run.path)
        run.settle()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if not self._is_saved:
                self.save()
            if self._events is not None:
                self._events.close()
        elif issubclass(kind, Exception):  # the run may have diverged, and would again: this is all there will be of it
            self._keep_best()

    def _keep_best(self) -> None:
        if self._best is not None and self._best[0] and self.run.is_writer:
            self.run.check_place()
            with contextlib.suppress(OSError), self.run.replacing_best():  # the first error is the one to report
                utils.write_checkpoint(self._best[0], self.run.path / "best.pth.tar")
                utils.save_dict_to_json(self._best[1], self.run.path / "metrics_val_best_weights.json")
