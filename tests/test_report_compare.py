"""Two runs side by side: the statistics are SciPy's, the metrics evaluate.py's, and what is not common is told."""

import csv
import json
import math
import re

import numpy as np
import pytest
import scipy.stats
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import f1_score, precision_score, recall_score

import evaluate
import synthesize_results
import train
import utils
from report.compare import find_run
from report.examples import entities, fetch_shares
from report.resampling import NUM_RESAMPLES, SEED, Shares, compare_by_bootstrap, mcnemar
from report.runs import Run


def shares_of(values, finish=float):
    column = np.asarray(values, dtype=float)[:, None]
    return Shares(column, np.ones_like(column), finish)


@pytest.mark.parametrize(
    ("only_first", "only_second", "both"), [(0, 0, 5), (3, 9, 20), (9, 3, 0), (50, 50, 1), (400, 300, 9)]
)
def test_mcnemar_is_scipys_exact_binomial_test(only_first, only_second, both):
    first = [1] * only_first + [0] * only_second + [1] * both + [0]
    second = [0] * only_first + [1] * only_second + [1] * both + [0]
    total = only_first + only_second
    expected = scipy.stats.binomtest(only_first, total, 0.5).pvalue if total else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("finish", [float, math.sqrt])
def test_intervals_are_scipys(finish):
    generator = np.random.default_rng(1)
    first, second = generator.random(40), generator.random(40)

    def statistic(values, axis):
        mean = np.mean(values, axis=axis)
        return np.sqrt(mean) if finish is math.sqrt else mean

    def expected(samples, function):
        result = scipy.stats.bootstrap(
            samples, function, n_resamples=NUM_RESAMPLES, method="percentile", paired=True, batch=1,
            rng=np.random.default_rng(SEED),
        )  # fmt: skip
        return pytest.approx(tuple(result.confidence_interval), rel=1e-12)

    found = compare_by_bootstrap(shares_of(first, finish), shares_of(second, finish))
    assert found.first_interval == expected((first,), statistic)
    assert found.second_interval == expected((second,), statistic)
    assert found.interval == expected((first, second), lambda a, b, axis: statistic(b, axis) - statistic(a, axis))
    assert found.first == pytest.approx(statistic(first, 0)) and found.second == pytest.approx(statistic(second, 0))


def test_p_of_the_bootstrap_is_small_where_a_t_test_is_sure_and_large_where_there_is_nothing():
    generator = np.random.default_rng(2)
    first = generator.normal(size=200)
    for shift, is_real in ((0.0, False), (1.0, True)):
        second = first + generator.normal(shift, 1, size=200)
        p = compare_by_bootstrap(shares_of(first), shares_of(second)).p
        assert (p < 0.01) == (scipy.stats.ttest_rel(first, second).pvalue < 0.01) == is_real
    assert compare_by_bootstrap(shares_of(first), shares_of(first)).p == 1.0


def test_macro_averages_are_scikit_learns():
    generator = np.random.default_rng(3)
    classes = ["a", "b", "c c"]
    rows = [{"label": str(generator.choice(classes)), "prediction": str(generator.choice(classes))} for _ in range(50)]
    labels, predictions = [row["label"] for row in rows], [row["prediction"] for row in rows]
    for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = function(labels, predictions, average="macro")
        assert fetch_shares(f"macro_{name}", expected, rows, classes).value() == pytest.approx(expected, rel=1e-12)


def test_entities_are_seqevals():
    generator = np.random.default_rng(4)
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    for _ in range(300):
        sentence = [str(tag) for tag in generator.choice(tags, size=generator.integers(1, 9))]
        assert entities(sentence) == {(start, end, kind) for kind, start, end in get_entities(sentence)}


def test_a_metric_that_the_predictions_do_not_give_is_not_made_up():
    rows = [{"label": "a", "prediction": "a", "loss": "0.5"}, {"label": "a", "prediction": "b", "loss": "oh"}]
    assert fetch_shares("accuracy", 0.5, rows, ["a", "b"]) is not None
    assert fetch_shares("accuracy", 0.6, rows, ["a", "b"]) is None
    assert fetch_shares("accuracy", math.nan, rows, ["a", "b"]) is None
    assert fetch_shares("loss", 0.5, rows, ["a", "b"]) is None
    assert fetch_shares("mae", 0.5, rows, ["a", "b"]) is None
    assert fetch_shares("unknown", 0.5, rows, ["a", "b"]) is None


TASKS = {
    "tabular_digits": ({"accuracy", "macro_precision", "macro_recall", "macro_f1", "loss"}, set(), "McNemar"),
    "tabular_diabetes": ({"mae", "rmse", "loss"}, {"r2"}, None),
    "ner": ({"accuracy", "precision", "recall", "f1", "loss"}, set(), "bootstrap"),
}


@pytest.mark.parametrize("name", TASKS)
def test_intervals_are_those_that_evaluate_prints(name, project, tmp_path, capsys):
    tested, untested, test_of_accuracy = TASKS[name]
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
    assert found.keys() == tested | untested
    for metric in tested:
        for i, run in ((2, "first"), (4, "second")):
            shown, expected = (
                [float(end) for end in text.split(" to ")] for text in (found[metric][i], printed[run][metric])
            )
            assert shown == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert all(found[metric][2] == "-" for metric in untested)
    if test_of_accuracy:
        assert found["accuracy"][-1] == test_of_accuracy and "They disagree on" in output
    assert re.search(r"^\| num_epochs +\| +1 \| +2 \|$", output, re.MULTILINE)


def write_run(folder, predictions, params=None, **test):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "params": params or {"seed": 1}}))
    (folder / "metrics_val_best_weights.json").write_text(json.dumps({"accuracy": 0.5}))
    (folder / "metrics_test_best.json").write_text(json.dumps(test))
    with (folder / "predictions_test_best.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(predictions[0]))
        writer.writeheader()
        writer.writerows(predictions)


def row(name, label, prediction):
    return {"id": name, "label": label, "prediction": prediction, "confidence": "0.5", "loss": "1.0"}


def compare(folder, *names):
    synthesize_results.main(["--parent_dir", str(folder), "--compare", *names])


def test_what_is_not_common_is_told_and_left_out(tmp_path, capsys):
    first = [row("1", "a", "a"), row("2", "a", "b"), row("3", "b", "b"), row("4", "b", "b")]
    second = [row("5", "a", "a"), row("3", "b", "a"), row("2", "a", "a"), row("1", "b", "b")]
    write_run(tmp_path / "a", first, accuracy=0.75, r2=0.5)
    write_run(tmp_path / "b", second, accuracy=0.75, r2=0.25)
    compare(tmp_path, "a", "b")
    output = capsys.readouterr().out
    assert "A was evaluated on 4 examples of test, B on 4; 3 in both, 1 of them with another label." in output
    assert "about the 2 that are the same" in output
    assert re.search(r"^\| test accuracy +\| 0.5 .*\| 1 +\| McNemar", output, re.MULTILINE)
    assert "r2" not in output  # of other examples than the rest
    assert "They disagree on 2 of 2 examples: only A is right on 1, only B on 1, neither on 0." in output
    assert re.search(r"^\| 2 +\| a +\| b \| a \|$", output, re.MULTILINE)


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


@pytest.mark.parametrize(
    "content", [b"id,label\n1,a\n", b"id,label,prediction\n1,a,a\n1,a,b\n", b"id,label,predic\xff"]
)
def test_predictions_that_cannot_be_used_are_named(tmp_path, capsys, content):
    for name in ("a", "b"):
        write_run(tmp_path / name, [row("1", "a", "a")], accuracy=1.0)
    (tmp_path / "b/predictions_test_best.csv").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        compare(tmp_path, "a", "b")
    output = capsys.readouterr()
    assert stopped.value.code == 1 and "b/predictions_test_best.csv: " in output.err
    assert "test accuracy" in output.out


def test_runs_are_found_by_name_path_and_beginning(tmp_path):
    runs = [Run(folder=str(tmp_path / name), name=name) for name in ("lr_0.1", "lr_0.01", "base", "deep/base")]
    (tmp_path / "deep/base").mkdir(parents=True)
    for name in ("lr_0.1", "lr_0.01", "base"):
        (tmp_path / name).mkdir()
    assert find_run(runs, "lr_0.1").name == "lr_0.1"  # although lr_0.1 might begin another
    assert find_run(runs, "lr_0.0").name == "lr_0.01"
    assert find_run(runs, str(tmp_path / "deep/base") + "/").name == "deep/base"
    with pytest.raises(utils.InputError, match=r"--compare lr: 2 runs begin so, lr_0.1, lr_0.01"):
        find_run(runs, "lr")
    with pytest.raises(utils.InputError, match=r"--compare bass: there is no such run .*; there are base"):
        find_run(runs, "bass")
