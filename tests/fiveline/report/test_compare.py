"""Two runs side by side: the statistics are SciPy's, the metrics evaluate.py's, and what is not common is reported."""

import io
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch

import evaluate
import synthesize_results
import train
import utils
from fiveline.report.intervals import compare_paired
from fiveline.report.scores import ExampleScores, write_report
from tests.support.results import row_of, shares_of, write_run, write_shares
from tests.support.tasks import need, task_of


@pytest.mark.parametrize(("only_first", "only_second", "both"), [(0, 0, 5), (3, 9, 20), (400, 300, 9)])
def test_p_of_hits_is_scipys_exact_binomial_test(only_first, only_second, both):
    """As in McNemar's test: of the examples that only one run has right, half are expected for each."""
    first = [1] * only_first + [0] * only_second + [1] * both + [0]
    second = [0] * only_first + [1] * only_second + [1] * both + [0]
    total = only_first + only_second
    exact = scipy.stats.binomtest(only_first, total, 0.5).pvalue if total else 1.0
    (low, high), p = compare_paired(shares_of(first), shares_of(second))
    assert p == pytest.approx(exact, abs=0.03) and (low > 0 or high < 0) == (p <= 0.05)
    assert low < (only_second - only_first) / len(first) < high


@pytest.mark.parametrize(("shift", "most_swapped"), [(0.0, 2000), (1.0, 2000), (0.09, 100)])
def test_p_and_interval_of_swaps_are_near_a_t_test_also_where_examples_are_swapped_together(
    monkeypatch, shift, most_swapped
):
    generator = np.random.default_rng(3)
    first = generator.normal(size=500)
    second = first + generator.normal(shift, 1, size=500)
    monkeypatch.setattr("fiveline.report.intervals.MOST_SWAPPED", most_swapped)
    ends, p = compare_paired(shares_of(first), shares_of(second))
    expected = scipy.stats.ttest_rel(second, first)
    assert p == pytest.approx(expected.pvalue, abs=0.03)
    assert ends == pytest.approx(tuple(expected.confidence_interval()), abs=0.08 if shift == 1.0 else 0.03)


def compare(folder, *names):
    synthesize_results.main(["--parent_dir", str(folder), "--compare", *names])


def rows_of(output):
    """Return the cells of each row of a table for a metric of test, by the metric's name."""
    lines = [line for line in output.splitlines() if line.startswith("| test ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].removeprefix("test "): row for row in rows}


CLASSES = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "loss"}
TASKS = [
    pytest.param("base_model", CLASSES | {"top_5_accuracy"}, marks=pytest.mark.slow),
    pytest.param("ner", {"accuracy", "precision", "recall", "f1", "loss"}, marks=pytest.mark.slow),
    ("tabular_digits", CLASSES),
    ("tabular_diabetes", {"mae", "rmse", "r2", "loss"}),
]


@pytest.mark.parametrize(("name", "tested"), TASKS)
def test_every_metric_of_every_task_is_tested_with_the_intervals_of_evaluate(name, tested, project, tmp_path, capsys):
    need(task_of(project / "experiments" / name))
    for epochs, run in enumerate(("first", "second"), start=1):
        (tmp_path / run).mkdir()
        (tmp_path / run / "params.json").write_bytes((project / "experiments" / name / "params.json").read_bytes())
        words = ["--model_dir", str(tmp_path / run), "--disable_cuda"]
        train.main([*words, f"num_epochs={epochs}"])
        evaluate.main(words)
    capsys.readouterr()
    compare(tmp_path, "first", str(tmp_path / "second") + "/")
    output = capsys.readouterr().out
    found = rows_of(output)
    assert found.keys() == tested
    for i, run in ((2, "first"), (4, "second")):
        intervals = utils.read_json(tmp_path / run / "scored_test_best.json")["intervals"]
        for metric, row in found.items():
            # a net that has found no entity has no precision
            assert row[i] == ("{:.4g} to {:.4g}".format(*intervals[metric]) if metric in intervals else "-")
            assert metric in intervals or metric == "precision"
            assert 0 < float(row[-1]) <= 1
    assert ("They disagree on" in output) == ("accuracy" in tested)
    assert re.search(r"^\| num_epochs +\| +1 \| +2 \|$", output, re.MULTILINE)


def test_metrics_of_ones_own_are_tested_whatever_their_names(tmp_path, capsys):
    """Names that belong to other metrics, and SciPy's figures: only numerators and denominators count."""
    generator = np.random.default_rng(4)
    labels = torch.tensor(generator.normal(size=300))
    metrics = {
        "accuracy": lambda outputs, labels: ((outputs - labels).abs().sum(), len(labels)),  # is an error
        "rmse": lambda outputs, labels: (((outputs - labels).abs() < 1).sum(), len(labels)),  # counts hits
    }
    errors = []
    for name, scale in (("a", 1.0), ("b", 1.5)):
        outputs = labels + torch.tensor(generator.normal(size=300) * scale)
        scores = ExampleScores(lambda outputs, labels: (outputs - labels).square().mean(), metrics)
        rows = [{"label": a, "prediction": b} for a, b in zip(labels.tolist(), outputs.tolist(), strict=True)]
        scores.add(outputs, labels, rows)
        errors.append((outputs - labels).abs().numpy())
        scores.values = {"accuracy": errors[-1].mean(), "rmse": (errors[-1] < 1).mean()}
        write_report(write_run(tmp_path / name, {"seed": 1}), "test_best", scores, SimpleNamespace(facts={}))
    compare(tmp_path, "a", "b")
    found = rows_of(capsys.readouterr().out)
    difference = lambda a, b, axis: b.mean(axis) - a.mean(axis)  # noqa: E731
    for metric, values in (("accuracy", errors), ("rmse", [each < 1 for each in errors])):
        for i, each in ((2, values[0]), (4, values[1])):
            expected = scipy.stats.bootstrap((each,), np.mean, method="BCa", rng=np.random.default_rng(0))
            if metric == "rmse":
                expected = scipy.stats.binomtest(int(each.sum()), 300).proportion_ci(method="wilson")
            expected = tuple(getattr(expected, "confidence_interval", expected))
            ends = tuple(map(float, found[metric][i].split(" to ")))
            assert ends == pytest.approx(expected, abs=0.02 if metric == "rmse" else 0.03)
        exact = scipy.stats.permutation_test(
            values, difference, permutation_type="samples", n_resamples=2000, rng=np.random.default_rng(0)
        )
        assert float(found[metric][-1]) == pytest.approx(exact.pvalue, abs=0.03)


ROWS = [row_of("1", "a", "a"), row_of("2", "a", "b")]
SHARES, PREDICTIONS = "shares_test_best.npz", "predictions_test_best.csv"


def write_evaluated(folder, rows, **test):
    """Write a run directory with predictions, and the shares of accuracy."""
    write_run(folder, {"seed": 1}, {"accuracy": 0.5}, test, rows)
    write_shares(folder, {"accuracy": shares_of([row["label"] == row["prediction"] for row in rows])})


def test_shares_of_another_evaluation_are_not_used_and_other_names_are_refused(tmp_path, capsys):
    for name, accuracy in (("a", 0.5), ("b", 0.6), ("c", 0.5)):
        write_evaluated(tmp_path / name, ROWS, accuracy=accuracy)
    compare(tmp_path, "a", "b")
    output = capsys.readouterr().out
    assert rows_of(output)["accuracy"][1:3] == ["0.5", "-"]
    assert f"No test of accuracy: {tmp_path / 'b'}/{SHARES} gives 0.5, and metrics_test_best.json" in output
    write_shares(tmp_path / "c", {"accuracy": shares_of([1, 0, 1])})
    with pytest.raises(SystemExit):
        compare(tmp_path, "a", "c")
    assert f"c/{SHARES}: not used (of 3 examples, expected 2 as in {PREDICTIONS})" in capsys.readouterr().err
    (tmp_path / "c" / SHARES).unlink()
    compare(tmp_path, "a", "c")
    assert f"No tests: no {SHARES} in {tmp_path / 'c'}; evaluate.py --model_dir" in capsys.readouterr().out
    with pytest.raises(utils.InputError, match=r"--compare d: there is no such run .*; there are a, b, c"):
        compare(tmp_path, "a", "d")


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, names=np.array(["accuracy"]), **arrays)
    return buffer.getvalue()


NOTHING = np.array([""])
PICKLED = npz(finishes=NOTHING, numerators_0=np.array([{}]), denominators_0=np.ones((1, 1)))
SHAPES = npz(finishes=NOTHING, numerators_0=np.ones(1), denominators_0=np.ones((1, 1)))
DAMAGES = [(SHARES, how) for how in (b"", b"PK", b"not a zip file", npz()[:-40], npz(), PICKLED, SHAPES, "a pipe")]
DAMAGES += [(PREDICTIONS, how) for how in (b"a,label\n1,a\n", b"id,label\n1,2,3\n", b"id,label,predic\xff", "a pipe")]


@pytest.mark.parametrize(("file", "how"), DAMAGES)
def test_a_damaged_file_is_named_and_the_metrics_are_shown(tmp_path, capsys, file, how):
    for name in ("a", "b"):
        write_evaluated(tmp_path / name, ROWS[:1], accuracy=1.0)
    path = tmp_path / "b" / file
    path.unlink()
    os.mkfifo(path) if how == "a pipe" else path.write_bytes(how)
    with pytest.raises(SystemExit) as stopped:
        compare(tmp_path, "a", "b")
    output = capsys.readouterr()
    assert stopped.value.code == 1 and f"b/{file}: " in output.err and "test accuracy" in output.out


LAST, OTHER = row_of("3", "b", "b"), row_of("4", "b", "b")


@pytest.mark.parametrize(
    "rows", [[*ROWS, OTHER], [*ROWS, row_of("3", "a", "b")], [*ROWS, LAST, OTHER], [LAST, *ROWS], []]
)
def test_other_examples_are_reported_and_not_tested(tmp_path, capsys, rows):
    write_evaluated(tmp_path / "a", [*ROWS, LAST], accuracy=0.75, r2=0.5)
    write_evaluated(tmp_path / "b", rows, accuracy=0.5, r2=0.25)
    compare(tmp_path, "a", "b")
    output = capsys.readouterr().out
    different = f"A and B were evaluated on different examples (3 and {len(rows)}), or in a different order"
    missing = f"No tests: no predictions in {tmp_path / 'b'}; evaluate.py --model_dir"
    assert (different if rows else missing) in output and "disagree" not in output
    assert rows_of(output)["accuracy"][1:] == ["0.75", "-", "0.5", "-", "-0.25", "-", "-"]


def test_many_disagreements_are_counted_and_the_first_are_shown(tmp_path, capsys):
    write_evaluated(tmp_path / "a", [row_of(str(i), "x|y", "x|y") for i in range(30)], accuracy=1.0)
    write_evaluated(tmp_path / "b", [row_of(str(i), "x|y", "=\x1b[0m") for i in range(30)], accuracy=0.0)
    compare(tmp_path, "a", "b")
    output = capsys.readouterr().out
    assert "only A is right on 30, only B on 0, neither on 0.\nThe first 10:" in output and "\x1b" not in output
    assert len(re.findall(r"^\| \d+ +\| x", output, re.MULTILINE)) == 10
