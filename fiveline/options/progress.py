"""How far the epoch is: a bar on a terminal, now and then a plain line in a file or a batch job."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

from fiveline.jobs import processes


class Progress:
    """Progress through the batches of one epoch.

    Args:
        num_steps: batches in the epoch
        done: batches that an earlier process did
        save_summary_steps: steps between plain lines
    """

    def __init__(self, num_steps: int, done: int, save_summary_steps: int) -> None:
        self.num_processes = processes.world_size()
        self.is_terminal = sys.stderr.isatty() and processes.rank() == 0
        self.num_steps, self.num_done, self.num_examples = num_steps, done, 0
        self.every = save_summary_steps  # in a job, all processes take part in the mean that is shown
        if self.is_terminal and self.num_processes == 1:
            self.every = min(save_summary_steps, max(1, num_steps // 50))
        self._bar = tqdm(total=num_steps, initial=done, leave=False, dynamic_ncols=True) if self.is_terminal else None
        self._start = time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def examples_per_second(self) -> float:
        """Return the speed of the job in this epoch; its processes have about as many examples each."""
        return self.num_processes * self.num_examples / max(time.perf_counter() - self._start, 1e-9)

    def step(self, num_examples: int) -> bool:
        """Count one batch; return whether `show` is due."""
        self.num_done += 1
        self.num_examples += num_examples
        if self._bar is not None:
            self._bar.update()
        return self.num_done % self.every == 0

    def show(self, loss: float) -> None:
        """Show the mean loss of the epoch so far."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss={loss:05.3f}, {self.examples_per_second:,.0f} examples/s", refresh=False)
        else:
            speed = f"{self.examples_per_second:,.0f} examples/s"
            logging.info(f"- step {self.num_done}/{self.num_steps} ; loss: {loss:05.3f} ; {speed}")
