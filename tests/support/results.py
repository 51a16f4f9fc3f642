"""Made-up run directories, as train.py and evaluate.py leave them, and the table that is made of them."""

import json

import numpy as np

import synthesize_results
from fiveline.report.shares import Shares, to_npz
from tests.support.data import read_csv, write_csv


def write_run(folder, params=None, val=None, test=None, rows=(), history=(), **record):
    """Write a run directory; without `params` it has no run.json, `rows` are predictions, `history` its epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    if params is not None:
        record = {"status": "finished", "params": {"monitor": "accuracy", **params}, **record}
        (folder / "run.json").write_text(json.dumps(record))
    for name, values in (("metrics_val_best_weights", val), ("metrics_test_best", test)):
        if values is not None:
            (folder / f"{name}.json").write_text(json.dumps(values))
    if history:
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    if rows:
        write_csv(folder / "predictions_test_best.csv", [list(rows[0]), *(row.values() for row in rows)])
    return folder


def row_of(name, label, prediction, loss=1.0):
    """Return a row of predictions of classes."""
    return {"id": name, "label": label, "prediction": prediction, "confidence": 0.9, "loss": loss}


def shares_of(numerators, denominators=None, finish=float):
    """Return the shares of a metric with one number an example."""
    parts = [np.asarray(numerators, dtype=float).reshape(-1, 1)]
    parts.append(np.ones_like(parts[0]) if denominators is None else np.asarray(denominators, float).reshape(-1, 1))
    return Shares(parts[0], parts[1], (parts[0] != 0) | (parts[1] != 0), finish)


def write_shares(folder, shares):
    (folder / "shares_test_best.npz").write_bytes(to_npz(shares))


def synthesize(folder, *words):
    synthesize_results.main(["--parent_dir", str(folder), *words])
    return read_csv(folder / "results.csv")
