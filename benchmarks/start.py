"""How long a run takes from the shell to its first step, against a bare script that reads the same data.

    python -m benchmarks.start
    python -m benchmarks.start --rounds 20

For each task, on the data that ships with it: the whole process, until the first step would be taken. The bare script
imports torch, reads train and val, builds a net of the same kind and the optimizer, and puts the first batch together;
it checks nothing, records nothing, and knows one task only. The two take turns, and the ratio is that of the medians.
Exit code 1 if it is above 1.15. Works in temporary folders.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

PROJECT = Path(__file__).resolve().parent.parent
MOST = 1.15
EXPERIMENTS = {"vision": "base_model", "ner": "ner", "tabular": "tabular_digits"}

# train.py itself, which ends where its first step would begin
OURS = "import os, train; train.train_step = lambda *_: os._exit(0); train.main(['--model_dir', {folder!r}])"

BARE = {
    "vision": """
import numpy as np, torch
from torch import nn
splits = [np.load(f"data/digits/{split}.npz") for split in ("train", "val")]
images, labels = [(torch.from_numpy(s["images"]).float(), torch.from_numpy(s["labels"])) for s in splits][0]
images = images.reshape(len(labels), 1, *images.shape[1:3])
layers = []
for before, after in ((1, 32), (32, 64), (64, 128)):
    layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.MaxPool2d(2), nn.ReLU()]
model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, 10))
model(images[:2])
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
batch = images[torch.randperm(len(labels))[:32]]
""",
    "ner": """
import torch
from torch import nn
words, tags, splits = {"<pad>": 0}, {}, {}
for split in ("train", "val"):
    lines = [open(f"data/ner_small/{split}/{name}.txt", encoding="utf-8").read().splitlines()
             for name in ("sentences", "labels")]
    splits[split] = [
        ([words.setdefault(w, len(words)) for w in s.split()], [tags.setdefault(t, len(tags)) for t in line.split()])
        for s, line in zip(*lines)
    ]
characters = nn.Embedding(100, 25)
embedding, lstm, conv = nn.Embedding(len(words), 100), nn.LSTM(150, 128, bidirectional=True), nn.Conv1d(25, 50, 3)
model = nn.ModuleList([characters, conv, embedding, lstm, nn.Linear(256, len(tags))])
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, fused=True)
chosen = [splits["train"][i] for i in torch.randperm(len(splits["train"]))[:16].tolist()]
batch = nn.utils.rnn.pad_sequence([torch.tensor(s) for s, _ in chosen], batch_first=True)
""",
    "tabular": """
import csv, numpy as np, torch
from torch import nn
splits = []
for split in ("train", "val"):
    with open(f"data/digits_rows/{split}.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    splits.append(torch.from_numpy(np.array(rows, dtype=np.float32)))
inputs = (splits[0] - splits[0].mean(dim=0)) / (splits[0].std(dim=0) + 1e-6)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, fused=True)
batch = inputs[torch.randperm(len(inputs))[:64]]
""",
}


def time_ours(task: str) -> float:
    """Return the seconds of a run up to its first step."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(PROJECT / "experiments" / EXPERIMENTS[task] / "params.json", folder)
        return time_code(OURS.format(folder=folder))


def time_code(code: str) -> float:
    """Return the seconds that a process takes to run some code."""
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=os.environ, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if result.returncode:
        sys.exit(f"{code}\nended with exit code {result.returncode}\n{result.stderr[-2000:]}")
    return seconds


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each; the median counts")
    args = parser.parse_args(argv)
    rows, is_quick = [], True
    for task, bare in BARE.items():
        code = f"{bare}\nimport os; os._exit(0)"
        for warm in (lambda task=task: time_ours(task), lambda code=code: time_code(code)):
            warm()  # the files are read from the disk once
        times = [(time_ours(task), time_code(code)) for _ in range(args.rounds)]
        ours, theirs = (statistics.median(values) for values in zip(*times, strict=True))
        ratios = [mine / other for mine, other in times]
        is_quick = is_quick and ours / theirs <= MOST
        rows.append([task, ours, theirs, ours / theirs, f"{min(ratios):.2f} to {max(ratios):.2f}"])
    print(tabulate(rows, headers=["task", "ours, s", "bare, s", "ours / bare", "by round"], floatfmt=".2f"))
    sys.exit(int(not is_quick))


if __name__ == "__main__":
    main()
