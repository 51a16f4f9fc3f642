"""One table of all runs: what varies, sorted, each task and data by itself, whatever the folders hold."""

import itertools
import math
import random
import sys

import pytest

import synthesize_results
from fiveline.report.page import describe_study
from fiveline.report.runs import read_runs
from tests.support.data import refusal
from tests.support.results import synthesize, write_run


def names_of(rows):
    return [row["run"] for row in rows]


def names_on_page(folder):
    return [run["name"] for run in describe_study(read_runs(folder)[0], folder, [])["runs"]]


def test_table_has_what_differs_and_is_sorted_by_the_monitored_metric(tmp_path, capsys):
    write_run(tmp_path / "a", {"learning_rate": 0.1, "seed": 1}, {"accuracy": 0.5, "loss": 2.0}, epochs=3)
    write_run(tmp_path / "deep/b", {"learning_rate": 0.2, "seed": 1}, {"accuracy": 0.9, "loss": 3.0}, {"accuracy": 0.8})
    write_run(tmp_path / "c", {"learning_rate": 0.3, "seed": 1}, status="failed")
    rows = synthesize(tmp_path)
    assert names_of(rows) == ["deep/b", "a", "c"]
    assert list(rows[0]) == ["run", "learning_rate", "status", "accuracy", "loss", "test accuracy", "epochs"]
    assert rows[0]["test accuracy"] == "0.8" and rows[1]["epochs"] == "3" and rows[2]["accuracy"] == ""
    assert capsys.readouterr().out == (tmp_path / "results.md").read_text()
    for name in ("loss", "learning_rate"):
        assert names_of(synthesize(tmp_path, "--sort", name)) == ["a", "deep/b", "c"]
    rows = synthesize(tmp_path, "--html", "--columns", "learning_rate, accuracy,learning_rate", "--top", "2")
    assert capsys.readouterr().err == f"- wrote {tmp_path / 'results.html'}\n" and (tmp_path / "results.html").exists()
    assert list(rows[0]) == ["run", "learning_rate", "accuracy"] and len(rows) == 2


def test_mistakes_are_reported(tmp_path, capsys):
    assert "no runs in it yet" in refusal(synthesize, tmp_path)
    assert "no such directory" in refusal(synthesize, tmp_path / "nowhere")
    write_run(tmp_path / "run", {"seed": 1}, {"accuracy": 0.7})
    for words, message in (
        (["--sort", "f1"], "--sort f1: no run has it; choose one of accuracy"),
        (["--columns", "acuracy"], "--columns acuracy: no run has it; did you mean 'accuracy'"),
        (["--filter", "accuracy > 5"], "no run matches (of 1)"),
    ):
        assert message in refusal(synthesize, tmp_path, *words)
    with pytest.raises(SystemExit, match="2"):
        synthesize(tmp_path, "--top", "0")
    assert "expected a whole number" in capsys.readouterr().err


def test_any_name_is_shown_and_a_file_that_cannot_be_written_is_reported(tmp_path, run_script):
    name = 'a|b,"c"\nd'
    write_run(tmp_path / "runs" / name, {"seed": 1}, {"accuracy": 0.7})
    assert names_of(synthesize(tmp_path / "runs")) == [name]
    assert "a\\|b" in (tmp_path / "runs/results.md").read_text()
    (tmp_path / "runs/results.md").unlink()
    (tmp_path / "runs/results.md/x").mkdir(parents=True)
    result = run_script("synthesize_results.py", "--parent_dir", tmp_path / "runs")
    assert result.returncode == 1
    assert result.stderr == f"error: {tmp_path / 'runs/results.md'}: could not be written (Is a directory)\n"


def of_data(folder, fingerprint, val, name, **params):
    params = {"task": "vision", "data_dir": f"data/{folder.name}", "learning_rate": 0.01, **params}
    write_run(folder.parent / name, params, val, data={"fingerprint": fingerprint}, lower_is_better=["rmse"])


def test_each_data_is_ranked_by_itself_and_named(tmp_path):
    for name, value in (("easy_1", 0.98), ("easy_2", 0.99), ("hard_1", 0.6), ("hard_2", 0.7), ("hard_3", 0.5)):
        of_data(tmp_path / name[:4], name[0] * 16, {"accuracy": value, "loss": 1 - value}, name, seed=1)
    for name, value in (("number_1", 5.0), ("number_2", 4.0)):
        of_data(tmp_path / "prices", "c" * 16, {"rmse": value}, name, task="tabular", monitor="rmse")
    write_run(tmp_path / "cs230", val={"accuracy": 1.0, "loss": 0.0})
    (tmp_path / "cs230/params.json").write_text('{"learning_rate": 0.001}')
    write_run(tmp_path / "failed", {"task": "vision", "data_dir": "data/hard", "seed": 1}, status="failed")
    expected = {
        "tabular prices": ["number_2", "number_1"], "vision easy": ["easy_2", "easy_1"],
        "vision hard": ["hard_2", "hard_1", "hard_3", "failed"], "data not recorded": ["cs230"],
    }  # fmt: skip
    rows = synthesize(tmp_path)
    assert [(row["data"], row["run"]) for row in rows] == [(data, name) for data in expected for name in expected[data]]
    assert rows[-1].items() >= {"learning_rate": "0.001", "status": "unknown", "rmse": ""}.items()  # as CS230 left it
    for name in ("results.md", "results.tex"):
        assert (tmp_path / name).read_text(encoding="utf-8").count("vision hard") == 4
    best = ["number_2", "easy_2", "hard_2", "cs230"]
    assert names_of(synthesize(tmp_path, "--top", "1")) == names_on_page(tmp_path)[:4] == best
    assert names_of(synthesize(tmp_path, "--sort", "loss", "--top", "1"))[1:] == best[1:]
    assert list(synthesize(tmp_path, "--columns", "accuracy")[0]) == ["run", "data", "accuracy"]
    rows = synthesize(tmp_path, "--filter", "data == 'vision hard'")
    assert names_of(rows) == expected["vision hard"] and "data" not in rows[0]


def test_data_that_changed_is_other_data_under_the_same_name(tmp_path):
    for seed, fingerprint in ((1, "a" * 16), (2, "a" * 16), (3, "b" * 16)):
        of_data(tmp_path / "images", fingerprint, {"accuracy": seed / 10}, f"seed_{seed}", seed=seed)
    rows = synthesize(tmp_path)  # nor is its seed a repetition
    expected = [("vision images (aaaaaa)", "seed_*"), ("vision images (bbbbbb)", "seed_3")]
    assert [(row["data"], row["run"]) for row in rows] == expected
    assert float(rows[0]["accuracy"]) == pytest.approx(0.15)


@pytest.mark.parametrize("monitor", ["rmse", "accuracy"])
def test_best_is_first_of_equals_the_lower_loss_and_last_what_is_not_finite(tmp_path, monitor):
    """Against a sort of the values themselves."""
    expected, sign = [], 1 if monitor == "rmse" else -1
    pairs = [*itertools.product((0.5, 1.0), (0.1, 0.2, None, 0.3)), *((odd, 0.0) for odd in ("inf", "-inf", "nan"))]
    for i, (value, loss) in enumerate(random.Random(0).sample(pairs, len(pairs))):
        val = {monitor: float(value), "loss": loss}
        write_run(tmp_path / f"{i:02}", {"monitor": monitor, "lr": i, "seed": 1}, val, lower_is_better=["rmse"])
        is_odd = isinstance(value, str)
        expected.append((is_odd, 0 if is_odd else sign * value, math.inf if loss is None else loss, i, str(value)))
    rows = synthesize(tmp_path)
    assert [(row[monitor], int(row["run"])) for row in rows] == [(text, i) for *_, i, text in sorted(expected)]
    assert names_on_page(tmp_path) == names_of(rows)


@pytest.mark.parametrize("width", [40, 400])
def test_the_table_fits_the_terminal_and_its_names_can_be_pasted(tmp_path, monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for i in range(3):
        val = {"accuracy": i / 2, **{f"metric_{j}": 0.5 for j in range(8)}}
        write_run(tmp_path / f"short/{i}", {"lr": i, "note": "n" * 90}, val)
        write_run(tmp_path / f"long/{'long_' * 30}{i}__and_more", {"lr": i, "note": "n" * 90}, val)
    synthesize_results.main(["--parent_dir", str(tmp_path / "short")])
    *table, last = capsys.readouterr().out.splitlines()
    head = [name.strip() for name in table[0].strip("|").split("|")]
    full = [name.strip() for name in (tmp_path / "short/results.md").read_text().splitlines()[0].strip("|").split("|")]
    left_out = [name for name in full if name not in head]
    assert head[0] == "run" and "accuracy" in head and max(map(len, table)) <= width
    assert (left_out == []) == (width == 400) == last.startswith("|")
    assert not left_out or f"No room for {', '.join(left_out)}: --columns chooses columns" in last
    synthesize_results.main(["--parent_dir", str(tmp_path / "long")])
    lines = capsys.readouterr().out.splitlines()
    pasted = [line.split("|")[1].strip() for line in lines if "long_" in line]
    assert "accuracy" in lines[0]
    synthesize_results.main(["--parent_dir", str(tmp_path / "long"), "--compare", *pasted[:2]])
    assert f"A is {pasted[0]}, B is {pasted[1]}" in capsys.readouterr().out
