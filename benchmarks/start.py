"""Measure how long train.py takes from the shell to its first step, against a bare script that imports torch.

    python -m benchmarks.start

Both are whole processes that end where the first step would begin. The bare script imports torch, reads the train and
val splits of data/digits, builds the same net and optimizer, and puts the first batch together. It checks and records
nothing. "import torch" is that import alone, below which no script can be. Works in temporary folders.
"""

from __future__ import annotations

import shutil
import tempfile

from benchmarks.timing import PROJECT, new_parser, print_ratios, run_python, take_turns

# train.py itself, which ends where its first step would begin
OURS = "import os, train; train.train_step = lambda *_: os._exit(0); train.main(['--model_dir', {folder!r}])"
BARE = """
import os
import numpy as np, torch
from torch import nn
splits = [np.load(f"data/digits/{split}.npz") for split in ("train", "val")]
images, labels = [(torch.from_numpy(s["images"]).float(), torch.from_numpy(s["labels"])) for s in splits][0]
images = nn.functional.interpolate(images.reshape(len(labels), 1, *images.shape[1:3]), size=(16, 16))
layers = []
for before, after in ((1, 32), (32, 64), (64, 128)):
    layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.MaxPool2d(2), nn.ReLU()]
model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
batch = images[torch.randperm(len(labels))[:32]]
os._exit(0)
"""


def start_ours() -> None:
    """Run train.py up to its first step."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(PROJECT / "experiments/base_model/params.json", folder)
        run_python("-c", OURS.format(folder=folder))


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    args = new_parser(__doc__, rounds=10).parse_args(argv)
    actions = {
        "import torch": lambda: run_python("-c", "import os, torch; os._exit(0)"),
        "bare script": lambda: run_python("-c", BARE),
        "ours": start_ours,
    }
    print_ratios("from the shell to the first step", take_turns(actions, args.rounds))


if __name__ == "__main__":
    main()
