"""Write the diabetes data of Efron et al. (2004) as one CSV file, in the units they were measured in.

    python data/diabetes/build_dataset.py

Needs scikit-learn (requirements-dev.txt), which ships them. Writes data.csv beside it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default=Path(__file__).parent, type=Path, help="where to write the file")
    args = parser.parse_args(argv)
    from sklearn.datasets import load_diabetes

    diabetes = load_diabetes(scaled=False)
    with (args.output_dir / "data.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*diabetes.feature_names, "progression"])
        for row, target in zip(diabetes.data, diabetes.target, strict=True):
            writer.writerow([f"{value:.10g}" for value in [*row, target]])
    print(f"data.csv: {len(diabetes.target)} rows, target from {diabetes.target.min():g} to {diabetes.target.max():g}")


if __name__ == "__main__":
    main()
