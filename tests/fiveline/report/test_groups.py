"""Only runs of the same task and data are ranked against each other; what is not a number ranks as nothing."""

import itertools
import math
import random

import pytest

from fiveline.report.page import describe_study
from fiveline.report.runs import read_runs
from tests.support.results import synthesize, write_run


def of_data(folder, fingerprint, **params):
    """Return the arguments of write_run for a run on some data."""
    return {"task": "vision", "data_dir": f"data/{folder}", **params}, {"data": {"fingerprint": fingerprint}}


@pytest.fixture
def mixed(tmp_path):
    """Runs of two datasets and of two tasks, whose metrics mean nothing to each other, and CS230's."""
    for name, folder, fingerprint, value in (
        ("easy_1", "easy", "a" * 16, 0.98), ("easy_2", "easy", "a" * 16, 0.99),
        ("hard_1", "hard", "b" * 16, 0.6), ("hard_2", "hard", "b" * 16, 0.7), ("hard_3", "hard", "b" * 16, 0.5),
    ):  # fmt: skip
        params, record = of_data(folder, fingerprint, seed=1)
        write_run(tmp_path / name, params, {"accuracy": value, "loss": 1 - value}, **record)
    for name, value in (("number_1", 5.0), ("number_2", 4.0)):
        params, record = of_data("prices", "c" * 16, task="tabular", monitor="rmse")
        write_run(tmp_path / name, params, {"rmse": value}, **record, lower_is_better=["rmse"])
    write_run(tmp_path / "cs230", val={"accuracy": 1.0, "loss": 0.0})
    return tmp_path


def test_each_data_is_ranked_by_itself_and_named(mixed):
    rows = synthesize(mixed)
    assert [(row["data"], row["run"]) for row in rows] == [
        ("tabular prices", "number_2"), ("tabular prices", "number_1"),
        ("vision easy", "easy_2"), ("vision easy", "easy_1"),
        ("vision hard", "hard_2"), ("vision hard", "hard_1"), ("vision hard", "hard_3"),
        ("data not recorded", "cs230"),
    ]  # fmt: skip
    for name in ("results.md", "results.tex"):
        assert (mixed / name).read_text(encoding="utf-8").count("vision hard") == 3
    assert [row["run"] for row in synthesize(mixed, "--top", "1")] == ["number_2", "easy_2", "hard_2", "cs230"]
    rows = synthesize(mixed, "--sort", "loss", "--top", "1")
    assert [row["run"] for row in rows][1:] == ["easy_2", "hard_2", "cs230"]
    rows = synthesize(mixed, "--columns", "accuracy")
    assert list(rows[0]) == ["run", "data", "accuracy"]  # without it, the order would mean nothing
    study = describe_study(read_runs(mixed)[0], mixed, [])  # of too many runs, the best of each data are kept
    assert [run["name"] for run in study["runs"][:4]] == ["number_2", "easy_2", "hard_2", "cs230"]
    rows = synthesize(mixed, "--filter", "data == 'vision hard'")
    assert [row["run"] for row in rows] == ["hard_2", "hard_1", "hard_3"] and "data" not in rows[0]


def test_data_that_changed_is_other_data_under_the_same_name(tmp_path):
    for seed, fingerprint in ((1, "a" * 16), (2, "a" * 16), (3, "b" * 16)):
        params, record = of_data("images", fingerprint, seed=seed)
        write_run(tmp_path / f"seed_{seed}", params, {"accuracy": seed / 10}, **record)
    rows = synthesize(tmp_path)  # nor is its seed a repetition
    assert [(row["data"], row["run"]) for row in rows] == [
        ("vision images (aaaaaa)", "seed_*"), ("vision images (bbbbbb)", "seed_3"),
    ]  # fmt: skip
    assert float(rows[0]["accuracy"]) == pytest.approx(0.15)


def test_a_run_that_failed_before_it_saw_the_data_makes_no_group(tmp_path):
    params, record = of_data("images", "a" * 16)
    write_run(tmp_path / "good", params, {"accuracy": 0.5}, **record)
    write_run(tmp_path / "failed", params, status="failed")
    assert [row["run"] for row in synthesize(tmp_path)] == ["good", "failed"]
    assert "data" not in synthesize(tmp_path)[0]


ODD = [math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("is_low_better", [False, True])
def test_what_is_not_a_finite_number_ranks_last(tmp_path, is_low_better):
    monitor = "rmse" if is_low_better else "accuracy"
    for name, value in zip("abcdef", [*ODD, 0.9, 0.2, 0.5], strict=True):
        write_run(tmp_path / name, {"monitor": monitor}, {monitor: value}, lower_is_better=["rmse"])
    expected = ["e", "f", "d"] if is_low_better else ["d", "f", "e"]
    rows = synthesize(tmp_path)
    assert [row["run"] for row in rows] == [*expected, "a", "b", "c"]
    assert [row[monitor] for row in rows[3:]] == ["inf", "-inf", "nan"]  # shown all the same
    study = describe_study(read_runs(tmp_path)[0], tmp_path, [])
    assert [run["name"] for run in study["runs"]] == [*expected, "a", "b", "c"]


def test_a_metric_that_is_not_a_number_is_named(tmp_path, capsys):
    odd = {"a": "0.95", "b": True, "c": [0.9], "d": 10**400}
    write_run(tmp_path / "run", {"lr": 1}, {**odd, "accuracy": 0.5, "loss": None})  # null is how NaN is saved
    with pytest.raises(SystemExit) as stop:
        synthesize(tmp_path)
    err = capsys.readouterr().err
    assert stop.value.code == 1 and err.count("skipped") == len(odd)
    path = tmp_path / "run/metrics_val_best_weights.json"
    assert all(f"skipped: {path}: {name}: expected a number, found " in err for name in odd)


def test_of_equal_metrics_the_lower_loss_is_first(tmp_path):
    """Against a sort of the values themselves."""
    chance, expected = random.Random(0), []
    for i, (accuracy, loss) in enumerate(itertools.product((0.5, 1.0), (0.1, 0.2, None, 0.3))):
        write_run(tmp_path / f"{chance.random()}", {"lr": i, "seed": 1}, {"accuracy": accuracy, "loss": loss})
        expected.append((-accuracy, math.inf if loss is None else loss))
    rows = synthesize(tmp_path)
    shown = [(-float(row["accuracy"]), float(row["loss"] or "inf")) for row in rows]
    assert shown == sorted(expected)
    study = describe_study(read_runs(tmp_path)[0], tmp_path, [])
    assert [run["name"] for run in study["runs"]] == [row["run"] for row in rows]
