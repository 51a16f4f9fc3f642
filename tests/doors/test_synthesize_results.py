"""One table of all runs: what varies, sorted, whatever the folders hold."""

import os

import pytest

import utils
from tests.support.results import synthesize, write_run


def test_table_has_what_differs_and_is_sorted_by_the_monitored_metric(tmp_path, capsys):
    write_run(tmp_path / "a", {"learning_rate": 0.1, "seed": 1}, {"accuracy": 0.5, "loss": 2.0}, epochs=3)
    write_run(tmp_path / "deep/b", {"learning_rate": 0.2, "seed": 1}, {"accuracy": 0.9, "loss": 3.0}, {"accuracy": 0.8})
    write_run(tmp_path / "c", {"learning_rate": 0.3, "seed": 1}, status="failed")
    rows = synthesize(tmp_path)
    assert [row["run"] for row in rows] == ["deep/b", "a", "c"]
    assert list(rows[0]) == ["run", "learning_rate", "status", "accuracy", "loss", "test accuracy", "epochs"]
    assert rows[0]["test accuracy"] == "0.8" and rows[1]["epochs"] == "3" and rows[2]["accuracy"] == ""
    assert capsys.readouterr().out == (tmp_path / "results.md").read_text()
    assert [row["run"] for row in synthesize(tmp_path, "--sort", "loss")] == ["a", "deep/b", "c"]
    assert [row["run"] for row in synthesize(tmp_path, "--sort", "learning_rate")] == ["a", "deep/b", "c"]
    capsys.readouterr()
    synthesize(tmp_path, "--html")
    output = capsys.readouterr()
    assert output.err == f"- wrote {tmp_path / 'results.html'}\n" and (tmp_path / "results.html").exists()
    assert output.out == (tmp_path / "results.md").read_text()


def test_runs_of_cs230_are_read(tmp_path):
    write_run(tmp_path / "theirs", val={"accuracy": 0.7, "loss": 1.0})
    (tmp_path / "theirs/params.json").write_text('{"learning_rate": 0.001}')
    write_run(tmp_path / "ours", {"learning_rate": 0.01}, {"accuracy": 0.8, "macro_f1": 0.7})
    theirs = {"learning_rate": "0.001", "status": "unknown", "macro_f1": ""}
    rows = synthesize(tmp_path)
    assert [row["run"] for row in rows] == ["ours", "theirs"] and rows[1].items() >= theirs.items()


def test_half_written_and_foreign_files_are_named_and_the_rest_is_shown(tmp_path, capsys):
    write_run(tmp_path / "good", {"seed": 1}, {"accuracy": 0.7})
    write_run(tmp_path / "torn", {"seed": 2})
    (tmp_path / "torn/metrics_val_best_weights.json").write_text('{"accuracy": 0.')
    write_run(tmp_path / "strange", {"seed": 3}, {"accuracy": "high", "loss": None, "ok": True})
    with pytest.raises(SystemExit) as stopped:
        synthesize(tmp_path)
    output = capsys.readouterr()
    assert stopped.value.code == 1 and "torn/metrics_val_best_weights.json: not valid JSON" in output.err
    assert all(name in output.out for name in ("good", "torn", "strange"))


def test_an_empty_or_missing_folder_is_reported(tmp_path):
    with pytest.raises(utils.InputError, match="no runs in it yet"):
        synthesize(tmp_path)
    with pytest.raises(utils.InputError, match="no such directory"):
        synthesize(tmp_path / "nowhere")
    write_run(tmp_path / "run", {"seed": 1}, {"accuracy": 0.7})
    with pytest.raises(utils.InputError, match="--sort f1: no run has it; choose one of accuracy"):
        synthesize(tmp_path, "--sort", "f1")


def test_any_name_is_shown_and_a_file_that_cannot_be_written_is_reported(tmp_path, run_script):
    name = 'a|b,"c"\nd'
    write_run(tmp_path / "runs" / name, {"seed": 1}, {"accuracy": 0.7})
    assert [row["run"] for row in synthesize(tmp_path / "runs")] == [name]
    assert "a\\|b" in (tmp_path / "runs/results.md").read_text()
    write_run(tmp_path / "runs" / os.fsdecode(b"run\xff\x1b[31m"), val={"accuracy": 0.5})
    result = run_script("synthesize_results.py", "--parent_dir", tmp_path / "runs")
    assert result.returncode == 0 and "run\\udcff\\x1b[31m" in result.stdout
    (tmp_path / "runs/results.md").unlink()
    (tmp_path / "runs/results.md").mkdir()
    (tmp_path / "runs/results.md/x").touch()
    result = run_script("synthesize_results.py", "--parent_dir", tmp_path / "runs")
    assert result.returncode == 1
    assert result.stderr == f"error: {tmp_path / 'runs/results.md'}: could not be written (Is a directory)\n"
