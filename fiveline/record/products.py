"""The files that a run writes."""

# What a run writes, and all that `--restart` replaces.
PRODUCTS = (
    "run.json", "history.jsonl", "train.log", "evaluate.log", "output.txt", "last.pth.tar", "best.pth.tar",
    "last.previous.pth.tar", "last.damaged.pth.tar", "metrics_*.json", "predictions_*.csv", "per_class_*.csv",
    "shares_*.npz", "scored_*.json", "events.out.tfevents.*", "profile.json.gz",
)  # fmt: skip
# What evaluate.py says of the best weights, which is no longer so once others take their place.
SCORES_OF_BEST = tuple(
    name.format(f"{split}_best")
    for split in ("train", "val", "test")
    for name in ("scored_{}.json", "shares_{}.npz", "metrics_{}.json", "predictions_{}.csv", "per_class_{}.csv")
)
