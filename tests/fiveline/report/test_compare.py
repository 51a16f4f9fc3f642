"""Two runs side by side: the statistics are SciPy's, the metrics evaluate.py's, and what is not common is reported."""

import csv
import json
import math
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
from fiveline.report.compare import find_run
from fiveline.report.resampling import compare_paired
from fiveline.report.runs import Run
from fiveline.report.scores import ExampleScores, write_report
from fiveline.report.shares import Shares, to_npz
from tests.support.tasks import need, task_of


def shares_of(values, finish=float):
    column = np.asarray(values, dtype=float)[:, None]
    return Shares(column, np.ones_like(column), np.ones_like(column, dtype=bool), finish)


@pytest.mark.parametrize(
    ("only_first", "only_second", "both"), [(0, 0, 5), (3, 9, 20), (9, 3, 0), (50, 50, 1), (400, 300, 9)]
)
def test_p_of_hits_is_scipys_exact_binomial_test(only_first, only_second, both):
    """As in McNemar's test: of the examples that only one run has right, half are expected for each."""
    first = [1] * only_first + [0] * only_second + [1] * both + [0]
    second = [0] * only_first + [1] * only_second + [1] * both + [0]
    total = only_first + only_second
    exact = scipy.stats.binomtest(only_first, total, 0.5).pvalue if total else 1.0
    found = compare_paired(shares_of(first), shares_of(second))
    assert found.p == pytest.approx(exact, abs=0.03)
    assert (found.interval[0] > 0 or found.interval[1] < 0) == (found.p <= 0.05)
    assert found.interval[0] < (only_second - only_first) / len(first) < found.interval[1]


@pytest.mark.parametrize("finish", [float, math.sqrt])
def test_p_of_swaps_is_scipys_permutation_test(finish):
    generator = np.random.default_rng(1)
    first, second = generator.random(10), generator.random(10) + 0.2

    def statistic(a, b, axis):
        return (np.sqrt if finish is math.sqrt else np.array)(b.mean(axis)) - (
            np.sqrt if finish is math.sqrt else np.array
        )(a.mean(axis))

    exact = scipy.stats.permutation_test((first, second), statistic, permutation_type="samples", n_resamples=2**10)
    found = compare_paired(shares_of(first, finish), shares_of(second, finish))
    assert found.p == pytest.approx(exact.pvalue, abs=0.03)
    assert (found.interval[0] > 0) == (found.p <= 0.05)


def test_p_of_swaps_is_small_where_a_t_test_is_sure_and_large_where_there_is_nothing():
    generator = np.random.default_rng(2)
    first = generator.normal(size=200)
    for shift, is_real in ((0.0, False), (1.0, True)):
        second = first + generator.normal(shift, 1, size=200)
        found = compare_paired(shares_of(first), shares_of(second))
        expected = scipy.stats.ttest_rel(second, first)
        assert (found.p < 0.01) == (expected.pvalue < 0.01) == is_real
        ends = expected.confidence_interval()
        assert found.interval == pytest.approx((ends.low, ends.high), abs=0.08)
    assert compare_paired(shares_of(first), shares_of(first)).p == 1.0


def test_many_examples_are_swapped_together(monkeypatch):
    generator = np.random.default_rng(3)
    first = generator.normal(size=500)
    second = first + generator.normal(0.09, 1, size=500)
    expected = scipy.stats.ttest_rel(second, first)
    monkeypatch.setattr("fiveline.report.resampling.MOST_SWAPPED", 100)
    found = compare_paired(shares_of(first), shares_of(second))
    assert found.p == pytest.approx(expected.pvalue, abs=0.03) and found.p < 0.2
    ends = expected.confidence_interval()
    assert found.interval == pytest.approx((ends.low, ends.high), abs=0.03)


def test_two_runs_that_agree_on_all_examples_may_still_differ_on_others():
    right, half = shares_of([1.0] * 30), shares_of([0.5] * 30)
    for pair in ((right, right), (half, half)):
        found = compare_paired(*pair)
        assert found.p == 1.0 and found.interval[0] < -0.05 and found.interval[1] > 0.05


def test_shares_of_another_evaluation_are_not_used(tmp_path, capsys):
    rows = [row("1", "a", "a"), row("2", "a", "b")]
    for name, accuracy in (("a", 0.5), ("b", 0.6), ("c", 0.5)):
        write_run(tmp_path / name, rows, accuracy=0.5)
        write_metrics(tmp_path / name, accuracy=accuracy)
    compare(tmp_path, "a", "b")
    assert re.search(r"^\| test accuracy +\| 0.5 +\| +- ", capsys.readouterr().out, re.MULTILINE)
    write_shares(tmp_path / "c", [*rows, row("3", "a", "a")])
    with pytest.raises(SystemExit):
        compare(tmp_path, "a", "c")
    assert (
        "c/shares_test_best.npz: not used (of 3 examples, expected 2 as in predictions_test_best.csv)"
        in capsys.readouterr().err
    )
    (tmp_path / "c/shares_test_best.npz").unlink()
    compare(tmp_path, "a", "c")
    assert f"No tests: no shares_test_best.npz in {tmp_path / 'c'}; evaluate.py --model_dir" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all", "cut", "other arrays", "pickled", "shapes"])
def test_damaged_shares_are_named(tmp_path, capsys, content):
    for name in ("a", "b"):
        write_run(tmp_path / name, [row("1", "a", "a")], accuracy=1.0)
    path = tmp_path / "b/shares_test_best.npz"
    if content == "cut":
        content = path.read_bytes()[:-40]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        names, numbers = np.array(["accuracy"]), np.ones((1, 1))
        arrays = {
            "other arrays": {"names": names},
            "pickled": {"names": np.array([{}], dtype=object), "finishes": np.array([""])},
            "shapes": {
                "names": names,
                "finishes": np.array([""]),
                "numerators_0": numbers[0],
                "denominators_0": numbers,
            },
        }
        np.savez(path, **arrays[content])
    with pytest.raises(SystemExit) as stopped:
        compare(tmp_path, "a", "b")
    output = capsys.readouterr()
    assert stopped.value.code == 1 and "b/shares_test_best.npz: not used (" in output.err
    assert "test accuracy" in output.out


CLASSES = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "loss"}
TASKS = {
    "base_model": CLASSES | {"top_5_accuracy"},
    "tabular_digits": CLASSES,
    "tabular_diabetes": {"mae", "rmse", "r2", "loss"},
    "ner": {"accuracy", "precision", "recall", "f1", "loss"},
}


@pytest.mark.parametrize("name", [pytest.param("base_model", marks=pytest.mark.slow), *list(TASKS)[1:]])
def test_intervals_are_those_that_evaluate_prints(name, project, tmp_path, capsys):
    need(task_of(project / "experiments" / name))
    tested = TASKS[name]
    printed = {}
    for run, epochs in (("first", 1), ("second", 2)):
        (tmp_path / run).mkdir()
        (tmp_path / run / "params.json").write_bytes((project / "experiments" / name / "params.json").read_bytes())
        words = ["--model_dir", str(tmp_path / run), "--disable-cuda"]
        train.main([*words, f"num_epochs={epochs}"])
        capsys.readouterr()
        evaluate.main(words)
        output = capsys.readouterr().out
        printed[run] = dict(re.findall(r"^(\w+) +-?[\d.]+ +(-?[\d.]+ to -?[\d.]+)$", output, re.MULTILINE))
    synthesize_results.main(["--parent_dir", str(tmp_path), "--compare", "first", "second"])
    output = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line[:1] == "|"]
    found = {row[0].removeprefix("test "): row for row in rows if row[0].startswith("test ")}
    assert found.keys() == tested
    for metric in tested:
        for i, run in ((2, "first"), (4, "second")):
            if metric not in printed[run]:  # a net that has found no entity: nothing to take the precision of
                assert metric == "precision" and found[metric][i] == "-"
                continue
            shown, expected = (
                [float(end) for end in text.split(" to ")] for text in (found[metric][i], printed[run][metric])
            )
            assert shown == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert 0 < float(found[metric][-1]) <= 1
    assert ("They disagree on" in output) == ("accuracy" in tested)
    assert re.search(r"^\| num_epochs +\| +1 \| +2 \|$", output, re.MULTILINE)


def write_run(folder, predictions, params=None, **test):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "params": params or {"seed": 1}}))
    (folder / "metrics_val_best_weights.json").write_text(json.dumps({"accuracy": 0.5}))
    write_metrics(folder, **test)
    if "accuracy" in test:
        write_shares(folder, predictions)
    with (folder / "predictions_test_best.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(predictions[0]))
        writer.writeheader()
        writer.writerows(predictions)


def write_metrics(folder, **test):
    (folder / "metrics_test_best.json").write_text(json.dumps(test))


def write_shares(folder, predictions):
    right = shares_of([row["label"] == row["prediction"] for row in predictions])
    (folder / "shares_test_best.npz").write_bytes(to_npz({"accuracy": right}))


def row(name, label, prediction):
    return {"id": name, "label": label, "prediction": prediction, "confidence": "0.5", "loss": "1.0"}


def compare(folder, *names):
    synthesize_results.main(["--parent_dir", str(folder), "--compare", *names])


@pytest.mark.parametrize("change", ["another example", "another label", "one more", "another order"])
def test_other_examples_are_reported_and_not_tested(tmp_path, capsys, change):
    first = [row("1", "a", "a"), row("2", "a", "b"), row("3", "b", "b")]
    second = {
        "another example": [*first[:2], row("4", "b", "b")],
        "another label": [*first[:2], row("3", "a", "b")],
        "one more": [*first, row("4", "b", "b")],
        "another order": first[::-1],
    }[change]
    write_run(tmp_path / "a", first, accuracy=0.75, r2=0.5)
    write_run(tmp_path / "b", second, accuracy=0.5, r2=0.25)
    compare(tmp_path, "a", "b")
    output = capsys.readouterr().out
    assert f"A and B were evaluated on different examples (3 and {len(second)}), or in a different order" in output
    assert re.search(r"^\| test accuracy +\| 0.75 .* 0.5 .* -0.25 .*- \|$", output, re.MULTILINE)
    assert "disagree" not in output


def test_many_disagreements_are_counted_and_the_first_are_shown(tmp_path, capsys):
    write_run(tmp_path / "a", [row(str(i), "x|y", "x|y") for i in range(30)], accuracy=1.0)
    write_run(tmp_path / "b", [row(str(i), "x|y", "=\x1b[0m") for i in range(30)], accuracy=0.0)
    compare(tmp_path, "a", "b")
    output = capsys.readouterr().out
    assert "only A is right on 30, only B on 0, neither on 0. The 10 first:" in output and "\x1b" not in output
    assert len(re.findall(r"^\| \d+ +\| x", output, re.MULTILINE)) == 10


def test_without_predictions_the_metrics_are_still_side_by_side(tmp_path, capsys):
    write_run(tmp_path / "a", [row("1", "a", "a")], accuracy=1.0)
    write_run(tmp_path / "b", [row("1", "a", "a")], accuracy=0.25)
    (tmp_path / "b/predictions_test_best.csv").unlink()
    compare(tmp_path, "a", "b")
    output = capsys.readouterr().out
    assert f"No tests: no predictions in {tmp_path / 'b'}; evaluate.py --model_dir" in output
    assert re.search(r"^\| test accuracy +\| 1 .* 0.25 .*-0.75", output, re.MULTILINE)


@pytest.mark.parametrize("content", [b"id,label\n1,a\n", b"id,label,predic\xff"])
def test_predictions_that_cannot_be_used_are_named(tmp_path, capsys, content):
    for name in ("a", "b"):
        write_run(tmp_path / name, [row("1", "a", "a")], accuracy=1.0)
    (tmp_path / "b/predictions_test_best.csv").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        compare(tmp_path, "a", "b")
    output = capsys.readouterr()
    assert stopped.value.code == 1 and "b/predictions_test_best.csv: " in output.err
    assert "test accuracy" in output.out
    (reason,) = re.findall("^No tests: (.*)$", output.out, re.MULTILINE)
    assert f"skipped: {reason}\n" in output.err and "evaluate.py --model_dir" not in reason


def test_a_metric_that_its_shares_do_not_give_is_named(tmp_path, capsys):
    rows = [row("1", "a", "a"), row("2", "a", "b")]
    for name in ("a", "b"):
        write_run(tmp_path / name, rows, accuracy=0.5, loss=0.25)
        shares = {"accuracy": shares_of([True, False]), "loss": shares_of([0.25, 0.25])}
        (tmp_path / name / "shares_test_best.npz").write_bytes(to_npz(shares))
    compare(tmp_path, "a", "b")
    assert "No test" not in capsys.readouterr().out
    shares["loss"] = shares_of([math.nan, 0.25])
    (tmp_path / "b/shares_test_best.npz").write_bytes(to_npz(shares))
    compare(tmp_path, "a", "b")
    output = capsys.readouterr().out
    (line,) = [text for text in output.split("\n") if text.startswith("No test")]
    assert "No test of loss: " in line and "b/shares_test_best.npz gives nan" in line
    assert re.search(r"^\| test accuracy .*\| +1 +\|$", output, re.MULTILINE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders")
@pytest.mark.parametrize("file", ["shares_test_best.npz", "predictions_test_best.csv"])
def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(tmp_path, capsys, file):
    for name in ("a", "b"):
        write_run(tmp_path / name, [row("1", "a", "a")], accuracy=1.0)
    (tmp_path / "b" / file).unlink()
    os.mkfifo(tmp_path / "b" / file)
    with pytest.raises(SystemExit):
        compare(tmp_path, "a", "b")
    output = capsys.readouterr()
    assert f"b/{file}: a pipe; expected a regular file" in output.err and "test accuracy" in output.out


def test_runs_are_found_by_name_path_and_beginning(tmp_path):
    runs = [Run(folder=str(tmp_path / name), name=name) for name in ("lr_0.1", "lr_0.01", "base", "deep/base")]
    (tmp_path / "deep/base").mkdir(parents=True)
    for name in ("lr_0.1", "lr_0.01", "base"):
        (tmp_path / name).mkdir()
    assert find_run(runs, "lr_0.1").name == "lr_0.1"  # although lr_0.1 might begin another
    assert find_run(runs, "lr_0.0").name == "lr_0.01"
    assert find_run(runs, str(tmp_path / "deep/base") + "/").name == "deep/base"
    with pytest.raises(utils.InputError, match=r"--compare lr: the names of 2 runs begin with it: lr_0.1, lr_0.01"):
        find_run(runs, "lr")
    with pytest.raises(utils.InputError, match=r"--compare bass: there is no such run .*; there are base"):
        find_run(runs, "bass")


def test_metrics_of_ones_own_are_tested_whatever_their_names(tmp_path, capsys):
    """Names that belong to other metrics, and SciPy's figures: only numerators and denominators count."""
    generator = np.random.default_rng(4)
    labels = torch.tensor(generator.normal(size=300))
    metrics = {
        "accuracy": lambda outputs, labels: ((outputs - labels).abs().sum(), len(labels)),  # is an error
        "rmse": lambda outputs, labels: (((outputs - labels).abs() < 1).sum(), len(labels)),  # counts hits
    }
    errors, hits = [], []
    for name, scale in (("a", 1.0), ("b", 1.5)):
        outputs = labels + torch.tensor(generator.normal(size=300) * scale)
        scores = ExampleScores(lambda outputs, labels: (outputs - labels).square().mean(), metrics)
        rows = [{"label": a, "prediction": b} for a, b in zip(labels.tolist(), outputs.tolist(), strict=True)]
        scores.add(outputs, labels, rows)
        errors.append((outputs - labels).abs().numpy())
        hits.append(errors[-1] < 1)
        write_run(tmp_path / name, [row("1", "a", "a")])
        values = {"accuracy": errors[-1].mean(), "rmse": hits[-1].mean()}
        write_report(tmp_path / name, "test_best", values, scores, SimpleNamespace(facts={}))
    compare(tmp_path, "a", "b")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| test ")]
    (error, hit) = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert (error[0], hit[0]) == ("test accuracy", "test rmse")

    for i, each in ((2, errors[0]), (4, errors[1])):
        expected = scipy.stats.bootstrap((each,), np.mean, method="BCa", rng=np.random.default_rng(0))
        low, high = map(float, error[i].split(" to "))
        assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.03)
    for i, each in ((2, hits[0]), (4, hits[1])):
        low, high = map(float, hit[i].split(" to "))
        expected = scipy.stats.binomtest(int(each.sum()), 300).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)
    for cells, (a, b) in ((error, errors), (hit, hits)):
        exact = scipy.stats.permutation_test(
            (a, b), lambda a, b, axis: b.mean(axis) - a.mean(axis), permutation_type="samples",
            n_resamples=2000, vectorized=True, rng=np.random.default_rng(0),
        )  # fmt: skip
        assert float(cells[-1]) == pytest.approx(exact.pvalue, abs=0.03)
