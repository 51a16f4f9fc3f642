"""Made-up run directories, as train.py and evaluate.py leave them, and the table that is made of them."""

import csv
import json

import synthesize_results


def write_run(folder, params=None, val=None, test=None, **record):
    folder.mkdir(parents=True)
    if params is not None:
        record = {"status": "finished", "params": {"monitor": "accuracy", **params}, **record}
        (folder / "run.json").write_text(json.dumps(record))
    for name, values in (("metrics_val_best_weights", val), ("metrics_test_best", test)):
        if values is not None:
            (folder / f"{name}.json").write_text(json.dumps(values))


def synthesize(folder, *words):
    synthesize_results.main(["--parent_dir", str(folder), *words])
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
