"""Measure the data path of images: starts with decoded images, sets larger than memory, a million examples.

    python -m benchmarks.data_path
    python -m benchmarks.data_path --parts start --data_dir data/64x64_SIGNS
    python -m benchmarks.data_path --parts memory --gigabytes 20 --seconds 120

Prints a table for each part. `start`: seconds until the batches of a folder of images are there, before and after its
images were decoded once. `speed`: examples per second of packed sets from 1,000 to 1,000,000, in alternation; medians.
`memory`: the most memory that `train.py` has of its own (RssAnon: mapped files do not count) while it trains on a set
of many gigabytes. `stream`: the same for files that two processes decode as they are needed. Writes into a temporary
folder below --folder; the large files are sparse and take next to no room. Linux only.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader

from fiveline.loader import batches_from, fetch_dataloader
from model.vision import decode
from model.vision import net as vision_net
from model.vision.data_loader import fetch_facts
from model.vision.params import Params
from train import train_step

PROJECT = Path(__file__).resolve().parent.parent
ZEROS = bytes(16 * 2**20)
PARTS = ("start", "speed", "memory", "stream")


class SparseFile(io.FileIO):
    """A file in which long runs of zeros take no room."""

    def write(self, data: Any, /) -> int:
        """Write bytes; move on over those of ZEROS."""
        if data is not ZEROS:
            return super().write(data)
        self.seek(len(ZEROS), os.SEEK_CUR)
        return len(ZEROS)


def write_npz(path: Path, num_examples: int, image_size: int) -> None:
    """Write black images of ten classes as `np.savez` would: uncompressed, with true checksums."""
    labels = io.BytesIO()
    np.save(labels, np.random.default_rng(230).integers(0, 10, num_examples))
    header = {"descr": "|u1", "fortran_order": False, "shape": (num_examples, image_size, image_size, 3)}
    with SparseFile(path, "w") as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("images.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, header)
            for start in range(0, num_examples * image_size**2 * 3, len(ZEROS)):
                left = num_examples * image_size**2 * 3 - start
                entry.write(ZEROS if left >= len(ZEROS) else bytes(left))
        archive.writestr("labels.npy", labels.getvalue())


def write_images(folder: Path, number: int) -> None:
    """Write JPEG files of 64 x 64 pixels, of two classes: a hundred pictures, under as many names as are wanted."""
    generator = np.random.default_rng(230)
    for i in range(number):
        path = folder / "ab"[i % 2] / f"photograph_{i:08d}.jpg"
        if i < 100:
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(generator.integers(0, 256, size=(8, 8, 3), dtype=np.uint8))
            coarse.resize((64, 64), Image.Resampling.BICUBIC).save(path)
        else:
            os.link(folder / "ab"[i % 100 % 2] / f"photograph_{i % 100:08d}.jpg", path)


def measure_start(folder: Path, data_dir: Path | None, rounds: int) -> None:
    """Print how long it takes to have the batches of train and val, with and without decoded images."""
    if data_dir is None:
        data_dir = folder / "photographs"
        write_images(data_dir / "train", 1000)
        write_images(data_dir / "val", 100)
    decoded = 0
    original = decode.decode

    def counting(image: Path | np.ndarray, params: Params) -> np.ndarray:
        nonlocal decoded
        decoded += 1
        return original(image, params)

    decode.decode = counting
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    rows = []
    for kind in ["memory", *["disk"] * rounds]:
        before, start = decoded, time.perf_counter()
        params = Params.from_values({"cache": kind, "normalize": "train"}, "benchmark")
        params = params.with_facts(fetch_facts(data_dir, params))
        batch, _ = next(iter(fetch_dataloader("train", data_dir, params, training=True)))
        rows.append([kind, len(batch), decoded - before, time.perf_counter() - start])
    print(tabulate(rows, ["cache", "first batch", "images decoded", "seconds"], floatfmt=".3f"), "\n")


def steps_of(dataloader: DataLoader[Any]) -> Iterator[Any]:
    """Yield batches for ever; of large sets, beginning in the midst of the epoch's order."""
    for epoch in itertools.count(1):
        yield from batches_from(dataloader, epoch, len(dataloader) // 2)[0]


def measure_speed(folder: Path, rounds: int, num_steps: int = 150) -> None:
    """Print examples per second by the number of examples: of the batches alone, and of training on them."""
    numbers = [1_000, 10_000, 100_000, 1_000_000]
    loops, starts = {}, {}
    for number in numbers:
        data_dir = folder / f"{number}"
        data_dir.mkdir()
        write_npz(data_dir / "train.npz", number, 32)
        write_npz(data_dir / "val.npz", 100, 32)
        values = {"image_size": 32, "shift": 2, "num_channels": 8, "batch_size": 32}
        params = Params.from_values(values, "benchmark")
        params = params.with_facts(fetch_facts(data_dir, params))
        dataloader = fetch_dataloader("train", data_dir, params, training=True)
        start = time.perf_counter()
        next(iter(dataloader))
        starts[number] = time.perf_counter() - start
        batches = steps_of(dataloader)
        next(batches)  # the order of a million examples takes a while, once an epoch: that is the last column
        model = vision_net.Net(params)
        loops[number] = (batches, model, torch.optim.Adam(model.parameters(), fused=True))
    speeds: dict[tuple[str, int], list[float]] = {(k, n): [] for k in ("batches alone", "training") for n in numbers}
    for _ in range(rounds):
        for number, (batches, model, optimizer) in loops.items():
            model.train()
            for kind in ("batches alone", "training"):
                start, num_examples = time.perf_counter(), 0
                for images, labels in itertools.islice(batches, num_steps):
                    num_examples += len(labels)
                    if kind == "training":
                        train_step(model, optimizer, vision_net.loss_fn, images, labels)
                speeds[kind, number].append(num_examples / (time.perf_counter() - start))
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    rows = []
    for number in numbers:
        both = [f"{medians[k, number]:,.0f} ({_ratio(speeds, k, number)})" for k in ("batches alone", "training")]
        rows.append([f"{number:,}", *both, f"{starts[number] * 1e3:.1f}"])
    head = ["examples", "batches alone, per second", "training, per second", "first batch of an epoch, ms"]
    print(tabulate(rows, head), "\nin brackets: the ratio to 1,000 examples, in each round: median, least to most\n")


def _ratio(speeds: dict[tuple[str, int], list[float]], kind: str, number: int) -> str:
    ratios = [a / b for a, b in zip(speeds[kind, number], speeds[kind, 1_000], strict=True)]
    return f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"


def watch_training(data_dir: Path, model_dir: Path, seconds: float, **values: Any) -> list[str]:
    """Train by train.py for some seconds; return the most RssAnon and RssFile of a process, and its log's end."""
    model_dir.mkdir()
    settings = {"data_dir": str(data_dir), "num_channels": 8, "batch_size": 64, "save_summary_steps": 50, **values}
    (model_dir / "params.json").write_text(json.dumps(settings))
    command = [sys.executable, "train.py", "--model_dir", str(model_dir)]
    process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log: list[str] = []
    deadline = None
    most = {"RssAnon": 0, "RssFile": 0}
    os.set_blocking(process.stderr.fileno(), False)
    while process.poll() is None:
        log += process.stderr.readlines()
        if deadline is None and any("Starting training" in line for line in log):
            deadline = time.monotonic() + seconds
        for name in most:
            most[name] = max(most[name], _memory(process.pid, name))
        if deadline is not None and time.monotonic() > deadline:
            process.send_signal(signal.SIGTERM)  # it saves, and ends
            deadline = float("inf")
        time.sleep(0.1)
    if process.returncode not in (0, 143):
        sys.exit("".join(log))
    last = (model_dir / "train.log").read_text().splitlines()[-1]
    return [
        f"{most['RssAnon'] / 1e9:.2f} GB",
        f"{most['RssFile'] / 1e9:.2f} GB",
        last.rpartition("error: ")[2].partition(";")[0],
    ]


def _memory(pid: int, name: str) -> int:
    """Return the most bytes that a process, or one of its children, holds."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))
    return max(own, *(_memory(int(child), name) for child in children), 0)


def measure_memory(folder: Path, gigabytes: float, seconds: float) -> None:
    """Print the memory of train.py for a small packed set and for one of many gigabytes."""
    rows = []
    for number in (1_000, int(gigabytes * 1e9 / (64 * 64 * 3))):
        data_dir = folder / f"packed_{number}"
        data_dir.mkdir()
        write_npz(data_dir / "train.npz", number, 64)
        write_npz(data_dir / "val.npz", 100, 64)
        size = f"{(data_dir / 'train.npz').stat().st_size / 1e9:.2f} GB"
        told = watch_training(data_dir, folder / f"run_packed_{number}", seconds, num_epochs=10_000)
        rows.append([f"{number:,}", size, *told])
    print(tabulate(rows, ["examples", "train.npz", "most of its own", "most mapped", "ended"]), "\n")


def measure_stream(folder: Path, seconds: float) -> None:
    """Print the memory of train.py and its two data loading processes, for a few files and for many."""
    rows = []
    for number in (1_000, 200_000):
        data_dir = folder / f"files_{number}"
        write_images(data_dir / "train", number)
        write_images(data_dir / "val", 100)
        settings = {"cache": "none", "num_workers": 2, "num_epochs": 10_000}
        told = watch_training(data_dir, folder / f"run_files_{number}", seconds, **settings)
        rows.append([f"{number:,}", *told])
    print(tabulate(rows, ["files", "most of one process's own", "most mapped", "ended"]), "\n")


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--data_dir", type=Path, default=None, help="start: a dataset; default: 1,100 made-up JPEGs")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder goes")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="memory: size of the set")
    parser.add_argument("--seconds", type=float, default=60.0, help="memory, stream: how long each run trains")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)\n")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        if "start" in args.parts:
            measure_start(folder, args.data_dir, args.rounds)
        if "speed" in args.parts:
            measure_speed(folder, args.rounds)
        if "memory" in args.parts:
            measure_memory(folder, args.gigabytes, args.seconds)
        if "stream" in args.parts:
            measure_stream(folder, args.seconds)


if __name__ == "__main__":
    main()
