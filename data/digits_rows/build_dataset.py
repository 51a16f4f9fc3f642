"""Write the digits as rows of 64 numbers, split once and for all; the same rows as the images of data/digits.

    python data/digits_rows/build_dataset.py

Needs scikit-learn (requirements-dev.txt), which ships them. Writes train.csv, val.csv and test.csv beside it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

SEED = 230
SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}


def split_positions(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the sorted positions of each split, the same shares of every class.

    Args:
        labels: (num_examples,), int
    """
    generator = np.random.default_rng(SEED)
    chosen: dict[str, list[int]] = {name: [] for name in SHARES}
    for label in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == label))
        first = round(SHARES["train"] * len(positions))
        second = first + round(SHARES["val"] * len(positions))
        for name, part in zip(SHARES, np.split(positions, [first, second]), strict=True):
            chosen[name] += part.tolist()
    return {name: np.sort(part) for name, part in chosen.items()}


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default=Path(__file__).parent, type=Path, help="where to write the files")
    args = parser.parse_args(argv)
    from sklearn.datasets import load_digits

    digits = load_digits()
    for name, positions in split_positions(digits.target).items():
        with (args.output_dir / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*digits.feature_names, "digit"])
            for position in positions:
                writer.writerow([*digits.data[position].astype(int).tolist(), int(digits.target[position])])
        print(f"{name}: {len(positions)} rows, {np.bincount(digits.target[positions]).tolist()} of each class")


if __name__ == "__main__":
    main()
