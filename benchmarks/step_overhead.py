"""What our loop adds to a step: `train.train` on rows that are in memory, against the leanest loop around five lines.

    python -m benchmarks.step_overhead
    python -m benchmarks.step_overhead --rounds 1000 --device cuda

All train the two-layer net on the digits as rows: the same batch size and the same fused Adam, so the same steps. The
bare loop fetches whole tensors by a random order and looks at nothing: no loss, no metrics, no signals, no checkpoints.
Ours also reports the metrics of the train split; a third loop is the bare one that adds them up step by step. They take
turns, an epoch each, and the median of the rounds' differences counts: between two steps of an epoch, whose beginning
and end are left out, and of epochs as a whole. Exit code 1 if ours takes more than 15 microseconds more between two
steps than the bare loop, or more for a whole epoch than the bare loop with the metrics. Writes nothing.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import logging
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate

from benchmarks.our_loop import OurLoop
from fiveline.device import fetch_device
from fiveline.metrics import Metrics
from fiveline.options.forward import tune_cpu
from fiveline.tasks import fetch_facts
from model.tabular import net as tabular_net
from model.tabular.data_loader import RowDataset, fetch_dataset
from model.tabular.params import Params

PROJECT = Path(__file__).resolve().parent.parent
DATA_DIR = PROJECT / "data/digits_rows"
MOST_MICROSECONDS = 15.0
WARM_UP = 10  # rounds


class BareLoop:
    """The five lines and what they need.

    Args:
        params: with facts
        device: where to compute
        metrics: name -> fn(outputs, labels) -> (numerator, denominator), added up in each step
    """

    def __init__(self, params: Params, device: torch.device, metrics: Metrics | None = None) -> None:
        rows: RowDataset = fetch_dataset("train", DATA_DIR, params)
        self.inputs, self.labels = (tensor.to(device) for tensor in rows.tensors)
        self.batch_size, self.device, self.metrics = params.batch_size, device, metrics
        self.model = tabular_net.Net(params).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=params.learning_rate, fused=True)

    def epoch(self) -> None:
        """Train for one epoch."""
        sums: dict[str, Any] = collections.defaultdict(float)
        for chosen in torch.randperm(len(self.labels), device=self.device).split(self.batch_size):
            labels = self.labels.index_select(0, chosen)
            outputs = self.model(self.inputs.index_select(0, chosen))
            loss = F.cross_entropy(outputs, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.metrics is not None:
                for name, metric in self.metrics.items():
                    numerator, denominator = metric(outputs.detach(), labels)
                    sums[name] += numerator
                    sums[f"of {name}"] += denominator
                sums["loss"] += loss.detach() * len(labels)


def note_steps(loop: BareLoop | OurLoop) -> list[float]:
    """Return a list to which the moment after each step of a loop will be added, in seconds."""
    moments: list[float] = []
    optimizer = loop.optimizer if isinstance(loop, BareLoop) else loop.state.optimizer
    optimizer.register_step_post_hook(lambda *_: moments.append(time.perf_counter()))
    return moments


def time_epoch(loop: BareLoop | OurLoop, moments: list[float]) -> tuple[float, float]:
    """Return the microseconds a step that an epoch takes as a whole, and between two steps, which is a median.

    Args:
        loop: to train with
        moments: of `note_steps`
    """
    moments.clear()
    start = time.perf_counter()
    loop.epoch()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    between = statistics.median(after - before for before, after in itertools.pairwise(moments))
    return 1e6 * seconds / len(moments), 1e6 * between


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="epochs of each loop")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument(
        "--threads", type=int, default=1, help="that torch computes with; the net is too small for more"
    )
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    logging.disable()
    torch.set_num_threads(args.threads)
    tune_cpu()  # as train.py does; for all
    params = Params.from_values({"batch_size": args.batch_size, "net": "two_layer"}, "benchmark")
    params = params.with_facts(fetch_facts(DATA_DIR, params).facts)
    device = fetch_device(args.device)
    loops: dict[str, BareLoop | OurLoop] = {
        "bare loop": BareLoop(params, device),
        "bare loop with the metrics": BareLoop(params, device, tabular_net.metrics(params)),
        "ours": OurLoop(DATA_DIR, params, device),
    }
    moments = {name: note_steps(loop) for name, loop in loops.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for number in range(WARM_UP + args.rounds):
        for name, loop in loops.items():
            pair = time_epoch(loop, moments[name])
            if number >= WARM_UP:
                times[name].append(pair)
    rows: list[list[Any]] = []
    medians: dict[str, list[float]] = {}
    for name, pairs in times.items():
        row = [name]
        for values, bare in zip(zip(*pairs, strict=True), zip(*times["bare loop"], strict=True), strict=True):
            differences = [mine - theirs for mine, theirs in zip(values, bare, strict=True)]
            low, median, high = statistics.quantiles(differences, n=4)
            row += [statistics.median(values), f"{median:.1f} ({low:.1f} to {high:.1f})"]
            medians.setdefault(name, []).append(median)
        rows.append(row)
    headers = ["microseconds a step", "epochs", "- bare (quartiles)", "between steps", "- bare (quartiles)"]
    print(tabulate(rows, headers=headers, floatfmt=".1f"))
    (epochs, between), (epochs_with_metrics, _) = medians["ours"], medians["bare loop with the metrics"]
    sys.exit(int(between > MOST_MICROSECONDS or epochs > epochs_with_metrics))


if __name__ == "__main__":
    main()
