"""The table has what was requested, and serves a spreadsheet or a paper."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from fiveline.report.columns import all_columns, mean_and_std
from fiveline.report.filter import parse_filter
from fiveline.report.runs import Run
from fiveline.report.table import Estimate, Mean, Seconds, group_name, to_csv, to_latex, to_markdown
from tests.support.results import synthesize, write_run


@pytest.fixture
def study(tmp_path):
    """Two learning rates with three seeds each, and a run that failed."""
    generator = np.random.default_rng(0)
    for rate in (0.1, 0.01):
        for seed in (1, 2, 3):
            val, test = {"accuracy": rate + generator.random() / 10, "loss": 1.0}, {"accuracy": 0.5 + seed / 100}
            params, record = {"lr": rate, "seed": seed}, {"epochs": 3, "seconds": 60.0 * seed}
            write_run(tmp_path / f"lr_{rate}__seed_{seed}", params, val, test, **record)
    write_run(tmp_path / "failed", {"lr": 1.0, "seed": 1}, status="failed")
    return tmp_path


def test_runs_that_differ_only_in_the_seed_are_one_row_with_scipys_mean_and_deviation(study, capsys):
    rows = synthesize(study)
    assert [row["run"] for row in rows] == ["lr_0.1__seed_*", "lr_0.01__seed_*", "failed"]
    files = [study / f"lr_0.1__seed_{seed}/metrics_val_best_weights.json" for seed in (1, 2, 3)]
    described = scipy.stats.describe([json.loads(path.read_text())["accuracy"] for path in files])
    assert float(rows[0]["accuracy"]) == pytest.approx(described.mean, rel=1e-14)
    assert float(rows[0]["accuracy std"]) == pytest.approx(math.sqrt(described.variance), rel=1e-12)
    assert rows[0]["accuracy n"] == "3" and rows[0]["seed"] == "1, 2, 3" and float(rows[0]["time"]) == 120
    assert rows[2]["accuracy"] == rows[2]["accuracy n"] == ""
    shown = f"{described.mean:.4g} ± {math.sqrt(described.variance):.2g} (3)"
    assert shown in capsys.readouterr().out and shown in (study / "results.md").read_text(encoding="utf-8")
    names = sorted(path.name for path in study.iterdir() if path.is_dir())
    assert [row["run"] for row in synthesize(study, "--each", "--sort", "run")] == names
    assert all(map(math.isnan, [mean_and_std([0.5])[1], *mean_and_std([math.inf, -math.inf])]))
    names = {("1/net", "12/net"): "*/net", ("aa", "aab"): "aa*", ("base", "second", "other"): "base and 2 more"}
    assert {parts: group_name(parts) for parts in names} == names


def test_filter_leaves_out_what_it_cannot_judge_and_says_so(study, capsys):
    rows = synthesize(study, "--each", "--filter", "lr < 0.05 and test_accuracy > 0.515")
    assert sorted(row["run"] for row in rows) == ["lr_0.01__seed_2", "lr_0.01__seed_3"]
    assert "lr" not in rows[0]  # it is the same in all that is shown
    assert capsys.readouterr().err == ""
    assert len(synthesize(study, "--each", "--filter", "accuracy > 0")) == 6
    assert "1 of 7 runs lack a value that it needs (failed)" in capsys.readouterr().err


RUN = Run(
    model_dir="a/b", name="a/b", status="finished", epochs=3, seconds=90.0, val={"accuracy": 0.5, "loss": 2.0},
    test={"accuracy": 0.25}, params={"lr": 0.01, "net": "cs230", "nesterov": True, "clip": None, "lambda": 2,
                                     "optimizer.lr": 3, "betas": [1, 2], "loss": "mse"},
)  # fmt: skip
FILTERS = {
    "lr < 0.1 and status == 'finished'": True,
    "0.001 < lr <= 0.01": True,
    "net not in ('cs230', 'resnet18')": False,
    "'a/' in run": True,
    "-2 < accuracy and accuracy not in [-1, -0.5]": True,
    "not nesterov": False,
    "nesterov == True and clip is None": True,
    "clip > 1": None,
    "lr < 1 or clip > 1": True,
    "not clip > 1": None,
    "net < 3": None,
    "lambda_ == 2 and optimizer.lr == 3": True,
    "loss > 1 and params.loss == 'mse'": True,
    "betas == [1, 2]": True,
    "lr": None,
}
BROKEN = {
    "learning < 1": "--filter learning: no run has it; choose one of",
    "lambda < 1": "write for example",
    "__import__('os').system('true')": "is not understood",
    "run.__class__": "--filter run.__class__: no run has it",
    "'a' * 10 ** 10 == 1": "is not understood",
    "lr < 1j": "is not understood",
    "lr\0": "write for example",
    "(" * 500 + "lr" + ")" * 500: "write for example",
    "not " * 5000 + "nesterov": "write for example",
}


def test_filters_mean_what_they_say_and_a_broken_one_is_reported():
    columns = all_columns([RUN])
    assert {text: parse_filter(text, columns)(RUN) for text in FILTERS} == FILTERS
    for text, message in BROKEN.items():
        with pytest.raises(utils.InputError, match="--filter") as caught:
            parse_filter(text, columns)
        assert message in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="lr<>=!0.1 ()[]',+-*/andortif_:{}", max_size=30))
def test_any_text_is_a_filter_or_a_mistake(text):
    try:
        verdict = parse_filter(text, all_columns([RUN]))
    except utils.InputError:
        return
    assert verdict(RUN) in (True, False, None)


def test_markdown_is_aligned_and_hides_no_cell():
    table = {"run": ["a|b", "<i>", "é"], "x": [0.5, -10.25, None], "time": [Seconds(59.94), Seconds(3700), None]}
    assert to_markdown(table) == (
        "| run   |      x |   time |\n|:------|-------:|-------:|\n"
        "| a\\|b  |   0.5  |  59.9s |\n| \\<i>  | -10.25 | 1h 01m |\n| é     |   -    |      - |\n"
    )


def test_csv_keeps_numbers_numbers():
    test = [Estimate(0.5, 0.25, 0.75), Mean(0.5, 0.1, 2), None]
    table = {"a": [-0.1, 1e-300, None], "b": [Mean(-1.5, 0.25, 3), 2.0, Seconds(90)], "c": test, "d": [True, [1], "x"]}
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [
        ["a", "b", "b std", "b n", "c", "c std", "c n", "c low", "c high", "d"],
        ["-0.1", "-1.5", "0.25", "3", "0.5", "", "1", "0.25", "0.75", "true"],
        ["1e-300", "2.0", "", "1", "0.5", "0.1", "2", "", "", "[1]"],
        ["", "90.0", "", "1", "", "", "", "", "", "x"],
    ]


def test_latex_has_booktabs_rules_and_escapes():
    table = {"_%&#$": ["[c]", r"_ % & # $ ~ ^ \ { }"], "accuracy": [Mean(0.5, 0.25, 3), -1e-7]}
    assert [re.sub(" +", " ", line).strip() for line in to_latex(table).splitlines()] == [
        r"% \usepackage{booktabs}", r"\begin{tabular}{lr}", r"\toprule", r"\_\%\&\#\$ & accuracy \\", r"\midrule",
        r"{}[c] & 0.5 $\pm$ 0.25 (3) \\",
        r"\_ \% \& \# \$ \textasciitilde{} \^{} \textbackslash{} \{ \} & -1e-07 \\",
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
