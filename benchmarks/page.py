"""Measure the page of a study: how large it is, how long it takes to write, and to open in a headless Chromium.

    python -m benchmarks.page
    python -m benchmarks.page --runs 200 2000 --rounds 5

Makes up studies in a temporary folder, of runs with six hyperparameters, 20 epochs of history and, for a tenth of them,
predictions on the test split of data/digits. Prints the medians over the rounds. Opened means that the table is there,
every chart is drawn, and clicks are answered; then a click on a column, and a filter, are timed as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fiveline.report.page import write_page
from fiveline.report.runs import read_runs

IS_DRAWN = "return document.documentElement.dataset.drawn !== 'no'"
SORT = "document.querySelector('#table thead [data-column=\"1\"] button').click(); document.body.offsetHeight"
FILTER = "document.getElementById('filter').value = 'optimizer == \"sgd\"'; filterChanged()"
CLASSES, NUM_EXAMPLES = [str(digit) for digit in range(10)], 270  # of the test split of data/digits


def make_study(parent_dir: Path, num_runs: int, num_predicted: int, num_epochs: int = 20) -> None:
    """Write run directories as train.py and evaluate.py leave them, with made-up numbers.

    Args:
        parent_dir: gets a folder for each run
        num_runs: how many
        num_predicted: how many of them have predictions
        num_epochs: of history
    """
    chance = random.Random(230)
    for number in range(num_runs):
        params: dict[str, Any] = {
            "task": "vision",
            "data_dir": "data/digits",
            "monitor": "accuracy",
            "num_channels": 32,
            "seed": chance.choice([1, 2, 3]),
            "learning_rate": float(f"{10 ** chance.uniform(-4, -1):.3g}"),
            "weight_decay": float(f"{chance.uniform(0, 0.1):.3g}"),
            "dropout_rate": chance.choice([0.0, 0.3, 0.6]),
            "batch_size": chance.choice([16, 32, 64, 128]),
            "optimizer": chance.choice(["adam", "adamw", "sgd"]),
        }
        far = abs(math.log10(params["learning_rate"]) + 2.5) / 2 + (params["optimizer"] == "sgd") * 0.2
        quality = min(0.999, 0.98 - 0.25 * far**2 + chance.gauss(0, 0.006))
        _write_run(parent_dir / f"run_{number:05d}", params, quality, num_epochs, chance)
        if number < num_predicted:
            _write_predictions(parent_dir / f"run_{number:05d}", quality, chance)


def _write_run(folder: Path, params: dict[str, Any], quality: float, num_epochs: int, chance: random.Random) -> None:
    folder.mkdir(parents=True)
    history = []
    for epoch in range(1, num_epochs + 1):
        share = 1 - math.exp(-epoch / 4)
        value = quality * share + chance.gauss(0, 0.004)
        splits = {name: _metrics(value + add) for name, add in (("train", 0.01), ("val", 0.0))}
        history.append({"epoch": epoch, **splits, "learning_rate": params["learning_rate"], "seconds": 1.0})
    record: dict[str, Any] = {
        "status": "finished" if chance.random() < 0.96 else "failed", "params": params, "epochs": num_epochs,
        "best_epoch": num_epochs, "seconds": 20 + chance.random() * 60, "lower_is_better": [],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
    for name, value in (("metrics_val_best_weights", quality), ("metrics_test_best", quality - 0.004)):
        (folder / f"{name}.json").write_text(json.dumps(_metrics(value)), encoding="utf-8")


def _metrics(value: float) -> dict[str, float]:
    names = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
    return {**{name: value - 0.001 * i for i, name in enumerate(names)}, "loss": 2.5 * (1.02 - value)}


def _write_predictions(folder: Path, quality: float, chance: random.Random) -> None:
    lines = ["id,label,prediction,confidence,loss"]
    for example in range(NUM_EXAMPLES):
        label = CLASSES[example % 10]
        prediction = label if chance.random() < quality else chance.choice(CLASSES)
        lines.append(f"test[{example}],{label},{prediction},{chance.random():.4f},{chance.random():.4f}")
    (folder / "predictions_test_best.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = ["class,examples,precision,recall,f1", *(f"{name},27,0.9,0.9,0.9" for name in CLASSES)]
    (folder / "per_class_test_best.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def measure(num_runs: int, rounds: int, browser: Any) -> list[Any]:
    """Return a row of the table: the medians for a study of so many runs.

    Args:
        num_runs: of the study
        rounds: how often to write and open its page
        browser: of `open_browser`, or None where there is none
    """
    with tempfile.TemporaryDirectory() as folder:
        parent_dir = Path(folder)
        path = parent_dir / "results.html"
        make_study(parent_dir, num_runs, num_runs // 10)
        runs, _ = read_runs(parent_dir)
        written = [_timed(lambda: write_page(runs, path, parent_dir)) for _ in range(rounds)]
        row: list[Any] = [num_runs, f"{path.stat().st_size / 1e6:.1f} MB", _median(written)]
        if browser is None:
            return [*row, "-", "-", "-"]
        opened, sorts, filters = [], [], []
        for _ in range(rounds):
            opened.append(open_page(browser, path))
            sorts.append(_timed(lambda: browser.execute_script(SORT)))
            filters.append(_timed(lambda: (browser.execute_script(FILTER), wait_drawn(browser))))
        return [*row, _median(opened), _median(sorts), _median(filters)]


def open_browser() -> Any:
    """Start Chromium with the screen of a laptop; return its driver, or None after printing what is missing."""
    if importlib.util.find_spec("selenium") is None or shutil.which("chromedriver") is None:
        print("no browser: pip install selenium; apt-get install chromium chromium-driver")
        return None
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "google-chrome"
    for word in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1366,768"):
        options.add_argument(word)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def wait_drawn(browser: Any) -> Any:
    """Wait until the charts are drawn."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 30, poll_frequency=0.02).until(lambda _: browser.execute_script(IS_DRAWN))


def open_page(browser: Any, path: Path) -> float:
    """Open a page afresh; return the seconds until its charts are drawn."""
    browser.get("about:blank")
    return _timed(lambda: (browser.get(path.resolve().as_uri()), wait_drawn(browser)))


def _timed(action: Any) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _median(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} s"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[200, 2000], help="sizes of the studies")
    parser.add_argument("--rounds", type=int, default=5, help="how often each page is written and opened")
    args = parser.parse_args()
    head = ["runs", "size", "write", "open", "sort", "filter and draw"]
    browser = open_browser()
    try:
        rows = [measure(number, args.rounds, browser) for number in args.runs]
    finally:
        if browser is not None:
            browser.quit()
    print(tabulate(rows, head, stralign="right"))


if __name__ == "__main__":
    main()
