"""Compare the shipped text experiments with what others would use for them.

    python -m benchmarks.text labels    the classifier against logistic regression on counts of words and punctuation
    python -m benchmarks.text next      train.py against a minimal loop of nanoGPT's kind: same net, batch and steps

`labels` prints both accuracies on test, each with a 95% interval. `next` prints the seconds of whole processes and the
val loss of both. Works in temporary folders; needs scikit-learn for `labels`.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.timing import PROJECT, run_python

INTERVAL_Z = 1.96
# nanoGPT's settings for a CPU
RECIPE = {
    "positions": "learned", "learning_rate": 1e-3, "weight_decay": 0.1, "decay_all": False, "clip_grad_norm": 1.0,
    "schedule": "cosine", "warmup_steps": 100, "batch_size": 12, "num_steps": 2000, "evaluate_every_steps": 250,
}  # fmt: skip
LOOP = """
import math, sys, torch
from pathlib import Path
from fiveline.device import seed_everything
from fiveline.tasks import fetch_facts, fetch_params
from model.text.net import Net, loss_fn
from model.text.readers import read_tokens

params = fetch_params(Path(sys.argv[1]))
data_dir = Path(params.data_dir)
params = fetch_facts(data_dir, params)
data = {split: torch.from_numpy(read_tokens(split, data_dir, params).astype("int64")) for split in ("train", "val")}
seed_everything(params.seed)
net, steps, length = Net(params), params.num_steps, params.context_length
decayed = [weight for weight in net.parameters() if weight.dim() > 1]
others = [weight for weight in net.parameters() if weight.dim() < 2]
groups = [{"params": decayed, "weight_decay": params.weight_decay}, {"params": others, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=params.learning_rate)

def val_loss():
    net.eval()
    starts = torch.arange(0, len(data["val"]) - length, length).split(params.batch_size)
    with torch.no_grad():
        batches = [torch.stack([data["val"][i : i + length + 1] for i in part]) for part in starts]
        losses = [loss_fn(net(batch[:, :-1]), batch[:, 1:]).item() * len(batch) for batch in batches]
    net.train()
    return sum(losses) / sum(map(len, batches))

best = math.inf
for step in range(steps + 1):
    if step and step % params.evaluate_every_steps == 0:
        loss = val_loss()
        if loss < best:
            best = loss
            torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, Path(sys.argv[1], "ckpt.pt"))
        if step == steps:
            break
    share = (step - params.warmup_steps) / (steps - params.warmup_steps)
    factor = (step + 1) / (params.warmup_steps + 1) if share < 0 else 0.5 * (1 + math.cos(math.pi * share))
    for group in optimizer.param_groups:
        group["lr"] = params.learning_rate * factor
    starts = torch.randint(len(data["train"]) - length, (params.batch_size,))
    batch = torch.stack([data["train"][i : i + length + 1] for i in starts])
    loss = loss_fn(net(batch[:, :-1]), batch[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), params.clip_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
print(best)
"""


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


def compare_next(num_rounds: int, num_steps: int) -> None:
    """Print the seconds and the best val loss of train.py and of the loop, in turns."""
    values = json.loads((PROJECT / "experiments/text_characters/params.json").read_text(encoding="utf-8"))
    steps = {"num_steps": num_steps, "evaluate_every_steps": max(1, num_steps // 8)}
    for number in range(1, num_rounds + 1):
        found = {}
        for name in ("loop", "ours", "shipped recipe"):
            with tempfile.TemporaryDirectory() as folder:
                recipe = {} if name == "shipped recipe" else RECIPE
                Path(folder, "params.json").write_text(json.dumps({**values, **recipe, **steps}), encoding="utf-8")
                start = time.perf_counter()
                words = ["-c", LOOP, folder] if name == "loop" else ["train.py", "--model_dir", folder]
                output = run_python(*words)
                seconds = time.perf_counter() - start
                metrics = Path(folder, "metrics_val_best_weights.json")
                loss = float(output) if name == "loop" else json.loads(metrics.read_text(encoding="utf-8"))["loss"]
            found[name] = seconds, loss
            ratio = f", {seconds / found['loop'][0]:.2f} of the loop's time"
            print(f"round {number}, {name}: {seconds:.1f} s, val loss {loss:.3f}{ratio}", flush=True)


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=["labels", "next"], help="what to compare")
    parser.add_argument("--rounds", type=int, default=2, help="turns of `next`")
    parser.add_argument("--num_steps", type=int, default=2000, help="steps of `next`; a multiple of 8")
    args = parser.parse_args()
    if args.comparison == "labels":
        compare_labels()
    else:
        compare_next(args.rounds, args.num_steps)


if __name__ == "__main__":
    main()
