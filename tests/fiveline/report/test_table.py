"""The table has what was requested, fits where it is shown, and serves a spreadsheet or a paper."""

import csv
import io
import json
import math
import re
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import synthesize_results
import utils
from fiveline.report.columns import all_columns, mean_and_std
from fiveline.report.filter import parse_filter
from fiveline.report.runs import Run
from fiveline.report.table import Estimate, Mean, Seconds, duration, group_name, to_csv, to_latex, to_markdown
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


def test_group_names_show_what_is_common():
    assert group_name(["lr_1__seed_1", "lr_1__seed_10"]) == "lr_1__seed_*"
    assert group_name(["1/net", "12/net"]) == "*/net"
    assert group_name(["aa", "aab"]) == "aa*"
    assert group_name(["base", "second", "other"]) == "base and 2 more"


def test_columns_top_and_sort_choose_what_is_shown(study, capsys):
    rows = synthesize(study, "--each", "--columns", "lr, accuracy,lr", "--top", "2", "--sort", "accuracy")
    assert list(rows[0]) == ["run", "lr", "accuracy"]
    assert [row["lr"] for row in rows] == ["0.1", "0.1"]
    with pytest.raises(utils.InputError, match=r"--columns acuracy: no run has it; did you mean 'accuracy'"):
        synthesize(study, "--columns", "acuracy")
    for words in (["--top", "0"], ["--top", "2.5"]):
        with pytest.raises(SystemExit) as stopped:
            synthesize_results.main(["--parent_dir", str(study), *words])
        assert stopped.value.code == 2 and "expected a whole number" in capsys.readouterr().err


def test_filter_leaves_out_what_it_cannot_judge_and_says_so(study, capsys):
    rows = synthesize(study, "--each", "--filter", "lr < 0.05 and test_accuracy > 0.515")
    assert sorted(row["run"] for row in rows) == ["lr_0.01__seed_2", "lr_0.01__seed_3"]
    assert "lr" not in rows[0]  # it is the same in all that is shown
    assert capsys.readouterr().err == ""
    assert len(synthesize(study, "--each", "--filter", "accuracy > 0")) == 6
    assert "1 of 7 runs lack a value that it needs (failed)" in capsys.readouterr().err
    with pytest.raises(utils.InputError, match=r"no run matches \(of 7\)"):
        synthesize(study, "--filter", "lr > 5")


RUN = Run(
    model_dir="a/b", name="a/b", status="finished", epochs=3, seconds=90.0, val={"accuracy": 0.5, "loss": 2.0},
    test={"accuracy": 0.25}, params={"lr": 0.01, "net": "cs230", "nesterov": True, "clip": None, "lambda": 2,
                                     "optimizer.lr": 3, "betas": [1, 2], "loss": "mse"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr < 0.1 and status == 'finished'", True),
        ("0.001 < lr <= 0.01", True),
        ("net in ['cs230', 'resnet18']", True),
        ("net not in ('cs230', 'resnet18')", False),
        ("'a/' in run", True),
        ("-2 < accuracy and accuracy not in [-1, -0.5]", True),
        ("not nesterov", False),
        ("nesterov == True and nesterov != False", True),
        ("clip == None and clip is None", True),
        ("clip > 1", None),
        ("lr < 1 or clip > 1", True),
        ("not clip > 1", None),
        ("net < 3", None),
        ("lambda_ == 2 and optimizer.lr == 3", True),
        ("loss > 1 and params.loss == 'mse'", True),
        ("betas == [1, 2]", True),
        ("lr", None),
    ],
)
def test_filters_mean_what_they_say(text, expected):
    assert parse_filter(text, all_columns([RUN]))(RUN) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning < 1", "--filter learning: no run has it; choose one of"),
        ("lambda < 1", "write for example"),
        ("lr <", "write for example"),
        ("__import__('os').system('true')", "is not understood"),
        ("run.__class__", "--filter run.__class__: no run has it"),
        ("'a' * 10 ** 10 == 1", "is not understood"),
        ("-lr < 0", "is not understood"),
        ("lr < 1j", "is not understood"),
        ("lr\0", "write for example"),
        ("(" * 500 + "lr" + ")" * 500, "write for example"),
        ("not " * 5000 + "nesterov", "write for example"),
    ],
)
def test_a_broken_filter_is_reported(text, message):
    with pytest.raises(utils.InputError, match="--filter") as caught:
        parse_filter(text, all_columns([RUN]))
    assert message in str(caught.value)


@settings(max_examples=100)
@given(st.text(alphabet="lr<>=!0.1 ()[]',+-*/andortif_:{}", max_size=30))
def test_any_text_is_a_filter_or_a_mistake(text):
    try:
        verdict = parse_filter(text, all_columns([RUN]))
    except utils.InputError:
        return
    assert verdict(RUN) in (True, False, None)


@pytest.fixture
def on_a_terminal(monkeypatch, capsys):
    """A function from a width and a folder to the text that the script prints on a terminal."""

    def run(columns, folder):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        synthesize_results.main(["--parent_dir", str(folder)])
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("columns", [40, 80, 400])
def test_the_table_fits_the_terminal_and_says_what_found_no_room(study, on_a_terminal, columns):
    (study / "failed/metrics_val_best_weights.json").write_text(json.dumps({f"metric_{i}": 0.5 for i in range(8)}))
    text = on_a_terminal(columns, study)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 5 and max(map(len, table)) <= max(columns, 44)
    head = [name.strip() for name in table[0].strip("|").split("|")]
    full = [name.strip() for name in (study / "results.md").read_text().splitlines()[0].strip("|").split("|")]
    left_out = [name for name in full if name not in head]
    assert head[0] == "run" and (left_out == []) == (columns == 400)
    if left_out:
        assert f"No room for {', '.join(left_out)}: --columns chooses columns" in text
    assert columns < 80 or "accuracy" in head  # what the table is sorted by


def test_a_terminal_shows_names_of_runs_that_can_be_pasted(tmp_path, on_a_terminal, capsys):
    names = [f"{'long_' * 30}{i}__and_more" for i in range(2)]
    for i, name in enumerate(names):
        write_run(tmp_path / name, {"lr": i, "note": "n" * 90}, {"accuracy": i / 2})
    text = on_a_terminal(80, tmp_path)
    pasted = [line.split("|")[1].strip() for line in text.splitlines() if "long_" in line]
    assert pasted == names[::-1] and "accuracy" in text.splitlines()[0]
    synthesize_results.main(["--parent_dir", str(tmp_path), "--compare", *pasted])
    assert f"A is {names[1]}, B is {names[0]}" in capsys.readouterr().out


def test_markdown_is_aligned_and_hides_no_cell():
    table = {"run": ["a|b", "<i>", "é"], "x": [0.5, -10.25, None], "time": [Seconds(5), Seconds(3700), None]}
    assert to_markdown(table) == (
        "| run   |      x |   time |\n|:------|-------:|-------:|\n"
        "| a\\|b  |   0.5  |   5.0s |\n| \\<i>  | -10.25 | 1h 02m |\n| é     |   -    |      - |\n"
    )


def test_durations_are_shown_as_people_say_them():
    texts = {0.04: "0.0s", 59.94: "59.9s", 60: "1m 00s", 3599.9: "59m 59s", 7170: "1h 59m"}
    assert {seconds: duration(seconds) for seconds in texts} == texts


def test_csv_keeps_numbers_numbers():
    test = [Estimate(0.5, 0.25, 0.75), Mean(0.5, 0.1, 2), None]
    table = {"a": [-0.1, 1e-300, None], "b": [Mean(-1.5, 0.25, 3), 2.0, None], "c": test}
    head, *rows = csv.reader(io.StringIO(to_csv(table)))
    assert head == ["a", "b", "b std", "b n", "c", "c std", "c n", "c low", "c high"]
    assert rows[0] == ["-0.1", "-1.5", "0.25", "3", "0.5", "", "1", "0.25", "0.75"]
    assert rows[1] == ["1e-300", "2.0", "", "1", "0.5", "0.1", "2", "", ""] and rows[2] == [""] * 9


def test_latex_has_booktabs_rules_and_escapes():
    table = {"run": ["a_b & 50%", "[c]"], "accuracy": [Mean(0.5, 0.25, 3), -1e-7]}
    assert [re.sub(" +", " ", line).strip() for line in to_latex(table).splitlines()] == [
        r"% \usepackage{booktabs}", r"\begin{tabular}{lr}", r"\toprule", r"run & accuracy \\", r"\midrule",
        r"a\_b \& 50\% & 0.5 $\pm$ 0.25 (3) \\", r"{}[c] & -1e-07 \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
