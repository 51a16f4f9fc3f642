"""How fast CS230's net trains on SIGNS: our loop against bare ones, and our scripts against other trainers.

    python -m benchmarks.vision_speed --data_dir data/64x64_SIGNS
    python -m benchmarks.vision_speed --data_dir data/64x64_SIGNS --peers

Without --peers: seconds an epoch of three loops, batch 32, fp32, on data in memory, each in a process of its own and in
turns. `plain` is the seed's five lines as one first writes them: contiguous images, plain Adam, the loss read each
step. `fastest` is a bare loop with our settings: channels-last, fused Adam, freed memory kept, batches as ours.
Targets: ours at most 0.65 of plain, and at most 1.03 of fastest.

With --peers: the whole process, three epochs with evaluation and checkpoints, of train.py and of the scripts in
benchmarks/vision_peers.py, in turns; `pip install -r benchmarks/requirements.txt` first. Targets: 0.65 of CS230's way,
0.50 of Lightning, 0.60 of transformers, 0.65 of accelerate and ignite. (train.py decodes the images in its first turn
and finds them decoded in the others, as a user's second run does; the median is of the latter.) Exit code 1 if a target
is missed. Works in temporary folders.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from benchmarks.our_loop import OurLoop
from fiveline.device import seed_everything
from fiveline.options.forward import tune_cpu
from fiveline.tasks import fetch_facts
from model.vision import net as vision_net
from model.vision.data_loader import fetch_dataset
from model.vision.params import Params
from train import train_step

PROJECT = Path(__file__).resolve().parent.parent
LOOP_TARGETS = {"plain": 0.65, "fastest": 1.03}
PEER_TARGETS = {"cs230": 0.65, "lightning": 0.50, "transformers": 0.60, "accelerate": 0.65, "ignite": 0.65}
PACKAGES = ("lightning", "transformers", "accelerate", "ignite")  # that peers are named after
NUM_EPOCHS = 3  # of a peer


class BareLoop:
    """The five lines, and batches of a random order.

    Args:
        data_dir: the dataset
        params: with facts
        is_fastest: with our settings; else as one first writes it
    """

    def __init__(self, data_dir: Path, params: Params, is_fastest: bool) -> None:
        if is_fastest:
            tune_cpu()
        self.dataset, self.is_fastest = fetch_dataset("train", data_dir, params), is_fastest
        self.model, self.batch_size = vision_net.Net(params), params.batch_size
        if not is_fastest:
            images, self.labels = self.dataset.__getitems__(list(range(len(self.dataset))))
            self.images = images.contiguous()
            self.model = self.model.to(memory_format=torch.contiguous_format)
        else:
            self.dataset.set_epoch(1)
        fused = True if is_fastest else None
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=params.learning_rate, fused=fused)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(self.dataset)).split(self.batch_size):
            yield (
                self.dataset.__getitems__(chosen.tolist())
                if self.is_fastest
                else (self.images[chosen], self.labels[chosen])
            )

    def epoch(self) -> None:
        """Train for one epoch."""
        self.model.train()
        for batch in self._batches():
            loss = train_step(self.model, self.optimizer, vision_net.loss_fn, *batch)[1]
            if not self.is_fastest:
                loss.item()


_loop: BareLoop | OurLoop  # the one of this process


def _start(name: str, data_dir: Path, batch_size: int, num_threads: int) -> None:
    """Make a process ready to train with one of the loops."""
    global _loop
    logging.disable()
    torch.set_num_threads(num_threads)
    params = Params.from_values({"batch_size": batch_size}, "benchmark")
    params = params.with_facts(fetch_facts(data_dir, params).facts)
    seed_everything(230)
    _loop = OurLoop(data_dir, params) if name == "ours" else BareLoop(data_dir, params, name == "fastest")
    _loop.epoch()  # the first is not steady yet


def _time_epoch() -> float:
    """Return the seconds that an epoch takes in this process."""
    start = time.perf_counter()
    _loop.epoch()
    return time.perf_counter() - start


def measure_loops(data_dir: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Let the three loops take turns, each in a process of its own; return the seconds an epoch of each."""
    times: dict[str, list[float]] = {name: [] for name in (*LOOP_TARGETS, "ours")}
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        pools = {
            name: stack.enter_context(
                ProcessPoolExecutor(1, context, _start, (name, data_dir, args.batch_size, args.threads))
            )
            for name in times
        }
        for pool in pools.values():
            pool.submit(int).result()  # wait until it is ready
        for _ in range(args.rounds):
            for name, pool in pools.items():
                times[name].append(pool.submit(_time_epoch).result())
    return times


def measure_peers(data_dir: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Run whole processes in turns; return the seconds of each. A peer that is not installed is said, and left out."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"{name}: not installed; pip install -r benchmarks/requirements.txt")
    times: dict[str, list[float]] = {name: [] for name in (*PEER_TARGETS, "ours") if name not in missing}
    for _ in range(args.rounds):
        for name, seconds in times.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds.append(_time_process(name, data_dir, Path(folder), args.batch_size))
    return times


def _time_process(name: str, data_dir: Path, folder: Path, batch_size: int) -> float:
    """Return the seconds of a script from its start to its end."""
    command = [sys.executable, "-m", "benchmarks.vision_peers", name, "--data_dir", str(data_dir)]
    command += ["--folder", str(folder), "--num_epochs", str(NUM_EPOCHS), "--batch_size", str(batch_size)]
    if name == "ours":
        params = {"task": "vision", "num_epochs": NUM_EPOCHS, "batch_size": batch_size}
        (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
        command = [sys.executable, "train.py", "--model_dir", str(folder), "--data_dir", str(data_dir)]
    start = time.perf_counter()
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if result.returncode:
        sys.exit(f"{name} ended with exit code {result.returncode}\n{result.stderr[-2000:]}")
    return seconds


def compare(times: Mapping[str, Sequence[float]], targets: Mapping[str, float]) -> bool:
    """Print medians, ratios and their spread; return whether all targets are met."""
    ours, rows, are_met = times["ours"], [], True
    for name, values in times.items():
        ratios = [mine / theirs for mine, theirs in zip(ours, values, strict=True)]
        ratio = statistics.median(ours) / statistics.median(values)
        are_met = are_met and ratio <= targets.get(name, 1.0)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append([name, statistics.median(values), min(values), max(values), ratio, spread, targets.get(name)])
    headers = ["", "median s", "least", "most", "ours / it", "by round", "target"]
    print(tabulate(rows, headers=headers, floatfmt=".2f"))
    return are_met


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/64x64_SIGNS", help="SIGNS, in CS230's layout")
    parser.add_argument("--peers", action="store_true", help="whole processes against other trainers")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each; the median counts")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="that a loop computes with")
    args = parser.parse_args(argv)
    data_dir = Path(args.data_dir).resolve()
    if args.peers:
        is_fast = compare(measure_peers(data_dir, args), PEER_TARGETS)
    else:
        is_fast = compare(measure_loops(data_dir, args), LOOP_TARGETS)
    sys.exit(int(not is_fast))


if __name__ == "__main__":
    main()
