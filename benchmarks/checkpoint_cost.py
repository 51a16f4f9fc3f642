"""What checkpoints cost: a save next to plain `torch.save`, and the share of training that goes into saving.

    python -m benchmarks.checkpoint_cost

Saves a checkpoint of 13 MB in turn with our way (checksum, flush to the disk, atomic) and with `torch.save(path)`,
then trains two of the shipped runs at the default interval, three times each. Exit code 1 if a save takes more than
2.5 times as long, or if saving takes more than 2% of the time. Works in a temporary folder, below --folder if given.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from tabulate import tabulate

import train
import utils
from fiveline.saving import Saver

PROJECT = Path(__file__).resolve().parent.parent
MOST_RATIO, MOST_SHARE = 2.5, 0.02
CHECKPOINT_BYTES = 13_000_000
SAVES_A_ROUND = 15
RUNS: dict[str, tuple[str, list[str]]] = {
    "digits, about half a second an epoch": ("base_model", []),
    "rows, far below a second": ("tabular_digits", ["num_epochs=150"]),
}
REPEATS = 3


def make_state() -> dict[str, Any]:
    """Return a checkpoint of 13 MB: a third weights, the rest Adam's moments."""
    net = torch.nn.Sequential(*(torch.nn.Linear(300, 300) for _ in range(12)))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 300)).sum().backward()
    optimizer.step()
    return {"epoch": 1, "state_dict": net.state_dict(), "optim_dict": optimizer.state_dict()}


def timed(action: Callable[[], object]) -> float:
    """Return how long it takes, in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compare_saves(folder: Path, num_rounds: int) -> float:
    """Print the time of both kinds of save, and return the ratio of their medians."""
    state = make_state()
    ours, plain, ratios = [], [], []
    for _ in range(num_rounds):
        pairs = []
        for _ in range(SAVES_A_ROUND):
            os.sync()  # what the one has left to the system to write, the other would have to wait for
            first = timed(lambda: utils.save_checkpoint(state, False, folder))
            os.sync()
            pairs.append((first, timed(lambda: torch.save(state, folder / "plain.pth.tar"))))
        ours += [pair[0] for pair in pairs]
        plain += [pair[1] for pair in pairs]
        ratios.append(statistics.median(pair[0] for pair in pairs) / statistics.median(pair[1] for pair in pairs))
    size = (folder / "last.pth.tar").stat().st_size
    rows = [
        [name, *(1000 * value for value in (statistics.median(times), *statistics.quantiles(times, n=4)[::2]))]
        for name, times in (("ours", ours), ("torch.save", plain))
    ]
    print(tabulate(rows, headers=[f"save of {size:,} bytes", "median ms", "quartile", "quartile"], floatfmt=".1f"))
    ratio = statistics.median(ratios)
    print(f"ratio {ratio:.2f}; by round {' '.join(f'{value:.2f}' for value in ratios)}\n")
    return ratio


def share_of_saving(folder: Path, experiment: str, words: list[str]) -> tuple[float, float, int]:
    """Train one of the shipped runs, and return seconds of saving, seconds of training, and the number of saves."""
    params = json.loads((PROJECT / "experiments" / experiment / "params.json").read_text(encoding="utf-8"))
    folder.mkdir()
    utils.save_dict_to_json(params, folder / "params.json")
    times: list[float] = []
    saver_class, script = cast(Any, Saver), cast(Any, train)  # functions of theirs are replaced by timed ones
    save, train_and_evaluate = Saver.save, train.train_and_evaluate
    seconds = [0.0]

    def timed_save(saver: Saver) -> None:
        times.append(timed(lambda: save(saver)))

    def timed_training(*args: Any) -> None:
        seconds[0] = timed(lambda: train_and_evaluate(*args))

    saver_class.save, script.train_and_evaluate = timed_save, timed_training
    try:
        train.main(["--model_dir", str(folder), *words])
    finally:
        saver_class.save, script.train_and_evaluate = save, train_and_evaluate
    return sum(times), seconds[0], len(times)


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=None, help="on the disk to measure; default: the system's temporary one")
    parser.add_argument("--rounds", type=int, default=5, help=f"of {SAVES_A_ROUND} saves of each kind")
    args = parser.parse_args(argv)
    logging.disable()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        is_slow = compare_saves(folder, args.rounds) > MOST_RATIO
        rows = []
        for run, (experiment, words) in RUNS.items():
            seen = [share_of_saving(folder / f"{experiment}_{i}", experiment, words) for i in range(REPEATS)]
            saving, training, number = sorted(seen, key=lambda entry: entry[0] / entry[1])[REPEATS // 2]
            rows.append([run, number, saving, training, 100 * saving / training])
            is_slow = is_slow or saving / training > MOST_SHARE
    headers = ["run", "saves", "seconds of saving", "seconds of training", "share in %"]
    print(tabulate(rows, headers=headers, floatfmt=".2f"))
    sys.exit(int(is_slow))


if __name__ == "__main__":
    main()
