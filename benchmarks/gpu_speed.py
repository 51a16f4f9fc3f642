"""What is left of a GPU's speed in our loop: `train.train` against a bare loop whose batches lie on the device.

    python -m benchmarks.gpu_speed --data_dir data/64x64_SIGNS
    python -m benchmarks.gpu_speed --device cpu --num_images 512 --rounds 2      only to see it run

CS230's net on SIGNS at batch 32, and ResNet-18 on images of CIFAR-10's size at batch 128, which are made up; both in
fp32 and in bf16. The bare loop has the same net in the same precision, the five lines and fused Adam; its batches were
put on the device before, scaled and in the same memory format, and it looks at nothing. Ours shuffles, mirrors and
scales bytes, reports the metrics of the train split and minds signals and the clock. They take turns of some hundred
steps; the ratio is that of the medians, and 0.97 is asked for. The last columns are of one epoch under torch's
profiler: how often the host waited for the device, and the same of the bare loop (once is the profiler's own). Exit
code 1 if a ratio is lower. Works in a temporary folder.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity

from benchmarks.our_loop import OurLoop
from fiveline.device import fetch_device, to_device
from fiveline.loader import fetch_dataloader
from fiveline.options.forward import prepare
from fiveline.tasks import fetch_facts
from model.vision import net as vision_net
from model.vision.params import Params
from train import train_step

LEAST_RATIO = 0.97
STEPS_A_TURN = 300
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class BareLoop:
    """The five lines on batches that are on the device.

    Args:
        data_dir: the dataset
        params: with facts
        device: where to compute
    """

    def __init__(self, data_dir: Path, params: Params, device: torch.device) -> None:
        loader = fetch_dataloader("train", data_dir, params)
        self.batches = [to_device(batch, device) for batch in loader]
        self.model = prepare(vision_net.Net(params), params, device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=params.learning_rate, fused=True)

    def epoch(self) -> None:
        """Train for one epoch."""
        self.model.train()
        for batch in self.batches:
            train_step(self.model, self.optimizer, vision_net.loss_fn, *batch)


def time_turn(loop: BareLoop | OurLoop, num_epochs: int) -> float:
    """Return the seconds that some epochs take."""
    _wait()
    start = time.perf_counter()
    for _ in range(num_epochs):
        loop.epoch()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def count_waits(loop: BareLoop | OurLoop) -> int:
    """Return how often the host waits for the device in an epoch."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_initialized() else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        loop.epoch()
    return sum(event.count for event in profiler.key_averages() if event.key in WAITS)


def make_images(folder: Path, number: int) -> Path:
    """Write images of CIFAR-10's size with random pixels and classes; return their folder."""
    generator = np.random.default_rng(0)
    for split, count in (("train", number), ("val", 100)):
        images = generator.integers(0, 256, size=(count, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", images=images, labels=np.arange(count) % 10)
    return folder


def measure(data_dir: Path, params: Params, device: torch.device, num_rounds: int) -> list[Any]:
    """Let the two loops take turns; return a row of the table, the ratio third."""
    params = fetch_facts(data_dir, params)  # type: ignore[assignment]
    mine = OurLoop(data_dir, params, device)
    loops: list[OurLoop | BareLoop] = [mine, BareLoop(data_dir, params, device)]
    num_steps = len(mine.dataloader)
    num_epochs = -(-STEPS_A_TURN // num_steps) if device.type != "cpu" else 1
    times: list[list[float]] = [[], []]
    for number in range(num_rounds + 1):
        for loop, seconds in zip(loops, times, strict=True):
            turn = time_turn(loop, num_epochs)
            if number:  # the first is not steady yet
                seconds.append(turn)
    num_examples = num_epochs * len(mine.dataloader.dataset)  # type: ignore[arg-type]
    ours, bare = (num_examples / statistics.median(seconds) for seconds in times)
    ratios = [theirs / its for its, theirs in zip(*times, strict=True)]
    return [ours, bare, ours / bare, f"{min(ratios):.2f} to {max(ratios):.2f}", num_steps, *map(count_waits, loops)]


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="SIGNS, in CS230's layout; without it, only the other images are measured")
    parser.add_argument("--num_images", type=int, default=50_000, help="made up, of CIFAR-10's size")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each; the median counts")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args(argv)
    logging.disable()
    device = fetch_device(args.device)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sets: list[tuple[str, Path, dict[str, Any]]] = []
        if args.data_dir is not None:
            sets.append(("SIGNS", Path(args.data_dir), {}))
        made_up = make_images(Path(folder), args.num_images)
        sets.append(("ResNet-18", made_up, {"net": "resnet18", "image_size": 32, "batch_size": 128}))
        for name, data_dir, values in sets:
            for precision in ("fp32", "bf16"):
                params = Params.from_values({**values, "precision": precision}, "benchmark")
                rows.append([name, precision, *measure(data_dir, params, device, args.rounds)])
    headers = ["", "precision", "ours, examples/s", "bare", "ours / bare", "by round", "steps", "waits", "bare's waits"]
    print(tabulate(rows, headers=headers, floatfmt=("", "", ".0f", ".0f", ".3f")))
    sys.exit(int(any(row[4] < LEAST_RATIO for row in rows)))


if __name__ == "__main__":
    main()
