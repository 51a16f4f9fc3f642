"""Download MNIST, FashionMNIST or CIFAR-10 through torchvision, and write `train.npz` and `test.npz` of it.

    python data/build_dataset.py mnist              writes data/mnist
    python data/build_dataset.py fashion_mnist      writes data/fashion_mnist
    python data/build_dataset.py cifar10            writes data/cifar10

torchvision's files in that folder are checked and not downloaded again. A val split is cut from train when the data is
read.
"""

from __future__ import annotations

import argparse
from http.client import HTTPException
from pathlib import Path

DATASETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}


def main(argv: list[str] | None = None) -> None:
    """Run the script. It exits with 2 where the download fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS, help="which dataset to build")
    parser.add_argument("--output_dir", type=Path, help="where to write; default: the folder of that name, beside this")
    args = parser.parse_args(argv)
    output_dir = args.output_dir or Path(__file__).parent / args.dataset
    import numpy as np
    from torchvision import datasets

    try:
        for split in ("train", "test"):
            dataset = getattr(datasets, DATASETS[args.dataset])(output_dir, train=split == "train", download=True)
            classes = [name.partition(" - ")[0] for name in dataset.classes]  # MNIST: '3 - three'
            images, labels = np.asarray(dataset.data), np.asarray(dataset.targets)
            np.savez(output_dir / f"{split}.npz", images=images, labels=labels, classes=classes)
            print(f"{output_dir}: {len(dataset)} {split} images")
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        parser.exit(2, f"error: {args.dataset} cannot be downloaded ({reason}); is there a network?\n")


if __name__ == "__main__":
    main()
