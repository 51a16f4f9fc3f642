"""Compare the shipped text experiments with what others would use for them.

    python -m benchmarks.text labels    the classifier against logistic regression on counts of words and punctuation
    python -m benchmarks.text next      train.py against nanoGPT's loop on a CPU: with its net and steps, and as shipped

`labels` prints both accuracies on test, each with a 95% interval; it needs scikit-learn. `next` prints the seconds of
whole processes, and the loss of the best weights, which predict each token of val once. In training, nanoGPT estimates
losses from 15,360 tokens of train and of val every 250 steps; ours scores all 60,000 tokens of val twice.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import PROJECT, run_python

INTERVAL_Z = 1.96
CHARACTERS = PROJECT / "experiments/text_characters"
NET = {"context_length": 64, "positions": "learned", "gelu": "exact"}  # nanoGPT's, and as many steps
ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3, "beta2": 0.99, "schedule": "cosine", "warmup_steps": 100}
OURS: dict[str, dict[str, object]] = {  # changes of the shipped hyperparameters
    "ours, same net, steps and batch of 12": {**NET, **ADAMW, "batch_size": 12},
    "ours, same net and steps, a batch of 9": {
        **NET, **ADAMW, "batch_size": 9, "learning_rate": 2e-3, "schedule": "one_cycle"
    },
    "ours, as shipped": {},
}  # fmt: skip


def compare_labels() -> None:
    """Print the accuracy of both classifiers on test."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    data: dict[str, tuple[list[str], list[str]]] = {}
    for split in ("train", "val", "test"):
        with (PROJECT / f"data/python_indent/{split}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        data[split] = [row["text"] for row in rows], [row["label"] for row in rows]
    found = {}
    for strength in (0.01, 0.1, 1.0):  # the best one on val counts
        counts = CountVectorizer(token_pattern=r"\w+|[^\w\s]")
        linear = make_pipeline(counts, LogisticRegression(C=strength, max_iter=2000)).fit(*data["train"])
        found[linear.score(*data["val"])] = linear.score(*data["test"])
    show("logistic regression on counts", found[max(found)], len(data["test"][0]))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(PROJECT / "experiments/text_labels/params.json", folder)
        start = time.perf_counter()
        run_python("train.py", "--model_dir", folder)
        seconds = time.perf_counter() - start
        run_python("evaluate.py", "--model_dir", folder)
        accuracy = json.loads(Path(folder, "metrics_test_best.json").read_text(encoding="utf-8"))["accuracy"]
    show(f"experiments/text_labels, trained in {seconds:.0f} s", accuracy, len(data["test"][0]))


def show(name: str, accuracy: float, number: int) -> None:
    """Print an accuracy with its interval."""
    width = INTERVAL_Z * (accuracy * (1 - accuracy) / number) ** 0.5
    print(f"{name}: accuracy {accuracy:.3f}, 95% interval {accuracy - width:.3f} to {accuracy + width:.3f}")


def train_nanogpt(folder: Path, num_steps: int) -> tuple[float, float]:
    """Return the seconds of nanoGPT's loop, and its val loss. As for nanoGPT, the text is numbers when it starts."""
    from benchmarks.nanogpt import score
    from fiveline.tasks import fetch_facts, fetch_params
    from model.text.readers import read_tokens

    params: Any = fetch_params(CHARACTERS)
    data_dir = PROJECT / params.data_dir
    params = fetch_facts(data_dir, params)
    for split in ("train", "val"):
        read_tokens(split, data_dir, params).astype("uint16").tofile(folder / f"{split}.bin")
    words = str(folder), str(num_steps), str(len(params.facts["token_bytes"]))
    start = time.perf_counter()
    run_python("-m", "benchmarks.nanogpt", *words)
    return time.perf_counter() - start, score(folder, len(params.facts["token_bytes"]))


def train_ours(folder: Path, changes: dict[str, object]) -> tuple[float, float]:
    """Return the seconds of train.py with the shipped hyperparameters, of which some are changed, and its val loss."""
    values = json.loads((CHARACTERS / "params.json").read_text(encoding="utf-8"))
    (folder / "params.json").write_text(json.dumps({**values, **changes}), encoding="utf-8")
    start = time.perf_counter()
    run_python("train.py", "--model_dir", str(folder))
    seconds = time.perf_counter() - start
    return seconds, json.loads((folder / "metrics_val_best_weights.json").read_text(encoding="utf-8"))["loss"]


def compare_next(num_rounds: int, num_steps: int) -> None:
    """Print the seconds and the val loss of nanoGPT's loop and of train.py, in turns, and the median ratios."""
    ratios: dict[str, list[float]] = {name: [] for name in OURS}
    in_steps = {"num_steps": num_steps, "evaluate_every_steps": num_steps // 2}
    for number in range(1, num_rounds + 1):
        for name in ("nanoGPT", *OURS):
            with tempfile.TemporaryDirectory() as folder:
                if name == "nanoGPT":
                    peer, loss = seconds, _ = train_nanogpt(Path(folder), num_steps)
                else:
                    changes = {**OURS[name], **in_steps} if OURS[name] else {}
                    seconds, loss = train_ours(Path(folder), changes)
                    ratios[name].append(seconds / peer)
            print(
                f"round {number}, {name}: {seconds:.1f} s, val loss {loss:.3f}, ratio {seconds / peer:.2f}", flush=True
            )
    for name, found in ratios.items():
        print(f"{name}: {statistics.median(found):.2f} of nanoGPT's time, the median of {num_rounds} rounds")


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=["labels", "next"], help="what to compare")
    parser.add_argument("--rounds", type=int, default=2, help="turns of `next`")
    parser.add_argument(
        "--num_steps", type=int, default=2000, help="steps of `next`, but of the shipped run; an even number"
    )
    args = parser.parse_args()
    if args.comparison == "labels":
        compare_labels()
    else:
        compare_next(args.rounds, args.num_steps)


if __name__ == "__main__":
    main()
