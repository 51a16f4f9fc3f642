"""Copies between splits, where many rows are near each other anyway."""

import numpy as np
import torch

import sanity_check
from fiveline.sanity import leaks
from fiveline.tasks import fetch_params
from tests.support.data import write_csv
from tests.support.runs import write_params
from tests.support.tasks import needs


@needs("tabular")
def test_rows_of_two_columns_are_near_each_other_by_chance_and_their_copies_are_found(tmp_path):
    """Two interleaved spirals."""
    generator = np.random.default_rng(0)
    turn, side = np.sqrt(generator.uniform(0.05, 1, 900)) * 9, generator.integers(0, 2, 900)
    x = (np.stack([turn * np.cos(turn), turn * np.sin(turn)]) * (2 * side - 1)).T + generator.normal(0, 0.1, (900, 2))
    rows = [[f"{a:.4f}", f"{b:.4f}", label] for (a, b), label in zip(x, side, strict=True)]
    splits = {"train": rows[:600], "val": rows[600:750], "test": rows[750:]}
    for num_copied, status, text in ((0, "PASS", "near ones do not count"), (30, "FAIL", "30 exactly, of 150")):
        splits["val"][:num_copied] = splits["train"][:num_copied]
        for split, lines in splits.items():
            write_csv(tmp_path / f"{split}.csv", [["x", "y", "label"], *lines])
        folder = write_params(tmp_path / "run", task="tabular", data_dir=str(tmp_path), target="label")
        context = sanity_check.fetch_context(fetch_params(folder), torch.device("cpu"))
        finding = leaks.leaks(context)
        assert (finding.status, text in finding.explanation) == (status, True), finding
