"""What our loop adds to a step: `train.train` on rows that are in memory, against the leanest loop around five lines.

    python -m benchmarks.step_overhead
    python -m benchmarks.step_overhead --rounds 1000 --device cuda

Both train the two-layer net on the digits as rows: the same batch size and the same fused Adam, so the same steps. The
bare loop fetches whole tensors by a random order and looks at nothing: no loss, no metrics, no signals, no checkpoints.
The two take turns, an epoch each, and the median of the rounds' differences counts. Exit code 1 if it is more than 15
microseconds a step. Writes nothing.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate

import runtime
from benchmarks.our_loop import OurLoop
from model.data_loader import fetch_facts
from model.tabular import net as tabular_net
from model.tabular.data_loader import RowDataset, fetch_dataset
from model.tabular.params import Params

PROJECT = Path(__file__).resolve().parent.parent
DATA_DIR = PROJECT / "data/digits_rows"
MOST_MICROSECONDS = 15.0


class BareLoop:
    """The five lines and what they need.

    Args:
        params: with facts
        device: where to compute
    """

    def __init__(self, params: Params, device: torch.device) -> None:
        rows: RowDataset = fetch_dataset("train", DATA_DIR, params)
        self.inputs, self.labels = (tensor.to(device) for tensor in rows.tensors)
        self.batch_size, self.device = params.batch_size, device
        self.model = tabular_net.Net(params).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=params.learning_rate, fused=True)

    def epoch(self) -> None:
        """Train for one epoch."""
        for chosen in torch.randperm(len(self.labels), device=self.device).split(self.batch_size):
            outputs = self.model(self.inputs.index_select(0, chosen))
            loss = F.cross_entropy(outputs, self.labels.index_select(0, chosen))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def time_epoch(loop: BareLoop | OurLoop) -> float:
    """Return the seconds that an epoch takes."""
    start = time.perf_counter()
    loop.epoch()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
    runtime.tune_cpu()  # as train.py does; for both
    params = Params.from_values({"batch_size": args.batch_size, "net": "two_layer"}, "benchmark")
    params = params.with_facts(fetch_facts(DATA_DIR, params).facts)
    device = runtime.fetch_device(args.device)
    bare, ours = BareLoop(params, device), OurLoop(DATA_DIR, params, device)
    loops: list[BareLoop | OurLoop] = [bare, ours]
    for loop in loops * 10:
        time_epoch(loop)  # warm up
    num_steps = math.ceil(len(bare.labels) / args.batch_size)
    times = [[1e6 * time_epoch(loop) / num_steps for loop in loops] for _ in range(args.rounds)]
    rows = [
        [name, statistics.median(values), *statistics.quantiles(values, n=4)[::2]]
        for name, values in zip(("bare loop", "ours"), zip(*times, strict=True), strict=True)
    ]
    print(tabulate(rows, headers=["microseconds a step", "median", "quartile", "quartile"], floatfmt=".1f"))
    quartiles = statistics.quantiles((mine - theirs for theirs, mine in times), n=4)
    print(
        f"ours - bare: {quartiles[1]:.1f} (quartiles {quartiles[0]:.1f} and {quartiles[2]:.1f}, {args.rounds} rounds)"
    )
    sys.exit(int(quartiles[1] > MOST_MICROSECONDS))


if __name__ == "__main__":
    main()
