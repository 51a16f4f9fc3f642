"""A grid from the shell: names, checks before the first trial, failures that cost one trial, running it again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import search_hyperparams
import utils
from search_hyperparams import parse_space, plan_trials, trial_name

PROJECT = Path(__file__).resolve().parent.parent
QUICK = {
    "image_size": 8, "image_channels": 1, "num_channels": 2, "horizontal_flip": False, "batch_size": 200,
    "num_epochs": 1, "data_dir": str(PROJECT / "data/digits"),
}  # fmt: skip


@pytest.fixture
def parent_dir(tmp_path):
    folder = tmp_path / "a study"  # the space is meant: no shell may see it
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(QUICK))
    return folder


def search(parent_dir, *words):
    command = [sys.executable, "search_hyperparams.py", "--parent_dir", str(parent_dir), *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


def test_space_is_read_as_yaml_values():
    assert parse_space(["learning_rate=1e-4,1e-3", "optimizer=adam,sgd", "nesterov=true"]) == {
        "learning_rate": [1e-4, 1e-3],
        "optimizer": ["adam", "sgd"],
        "nesterov": [True],
    }


@pytest.mark.parametrize("word", ["learning_rate", "learning_rate=", "=1,2", "a b=1", "x=[1"])
def test_space_that_is_none_is_refused(word):
    with pytest.raises(utils.InputError, match="--space"):
        parse_space([word])


def test_trial_names_are_cs230s():
    assert [trial_name({"learning_rate": rate}) for rate in (1e-4, 1e-3, 1e-2)] == [
        "learning_rate_0.0001", "learning_rate_0.001", "learning_rate_0.01",
    ]  # fmt: skip
    assert trial_name({"optimizer": "adam", "seed": 3}) == "optimizer_adam__seed_3"


@pytest.mark.parametrize("text", ["../../etc", "/tmp/x", "a b; touch y $(z)", "日本" * 200, "x" * 300, "a\nb", ".."])
def test_trial_names_stay_in_their_folder_and_do_not_collide(tmp_path, text):
    name, other = trial_name({"net": text}), trial_name({"net": text + "'"})
    assert name != other and "/" not in name and "\n" not in name and len(name.encode()) < 255
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    (tmp_path / name).mkdir()


def test_all_mistakes_are_told_before_the_first_trial_starts(parent_dir):
    with pytest.raises(utils.InputError, match=r"(?s)batch_size.*optimizer"):
        plan_trials(parent_dir, {"batch_size": [0, 100], "optimizer": ["adam", "adamm"]})
    with pytest.raises(utils.InputError, match="learning_rate: .*finite"):
        plan_trials(parent_dir, parse_space(["learning_rate=1e-3,.nan"]))
    with pytest.raises(utils.InputError, match="unknown key 'learning_rat'; did you mean 'learning_rate'"):
        plan_trials(parent_dir, {"learning_rat": [1]})
    assert [path.name for path in parent_dir.iterdir()] == ["params.json"]


def test_a_failing_trial_does_not_end_the_study_and_the_table_tells(parent_dir):
    result = search(parent_dir, "--space", "net=cs230,resnet81,mnist")  # mnist needs 10 pixels: refused while planning
    assert result.returncode == 2 and "net 'mnist' needs at least 10" in result.stderr
    result = search(parent_dir, "--space", "net=resnet81,cs230")
    assert result.returncode == 1 and "1 of 2 trials failed: net_resnet81 (exit code 2)" in result.stderr
    assert "Traceback" not in result.stderr
    assert "did you mean resnet18" in result.stderr
    rows = {line.split("|")[1].strip(): line for line in result.stdout.splitlines() if line.startswith("| net_")}
    assert "finished" in rows["net_cs230"] and "failed" in rows["net_resnet81"]


def test_the_same_command_skips_what_is_finished_and_a_wider_space_runs_what_is_new(parent_dir):
    first = search(parent_dir, "--space", "learning_rate=1e-3")
    assert first.returncode == 0, first.stderr
    before = (parent_dir / "learning_rate_0.001/last.pth.tar").stat().st_mtime_ns
    second = search(parent_dir, "--space", "learning_rate=1e-3,1e-2")
    assert second.returncode == 0, second.stderr
    assert (parent_dir / "learning_rate_0.001/last.pth.tar").stat().st_mtime_ns == before
    assert "is finished" in second.stdout and (parent_dir / "learning_rate_0.01/best.pth.tar").exists()
    explicit = json.loads((parent_dir / "learning_rate_0.01/params.json").read_text())
    assert explicit == {**QUICK, "learning_rate": 0.01}

    (parent_dir / "params.json").write_text(json.dumps({**QUICK, "weight_decay": 0.1}))
    third = search(parent_dir, "--space", "learning_rate=1e-3,1e-2")
    assert third.returncode == 2 and third.stderr.count("has begun with another weight_decay: 0.0 -> 0.1") == 2


def test_data_dir_of_the_command_line_is_handed_on(parent_dir, tmp_path):
    result = search(parent_dir, "--data_dir", str(tmp_path / "no data; here"), "--space", "seed=1")
    assert result.returncode == 1 and f"{tmp_path}/no data; here: there is no such data directory" in result.stderr


def test_interrupting_stops_the_study(parent_dir, monkeypatch):
    monkeypatch.setattr(search_hyperparams, "launch_training_job", lambda *_: 130)
    with pytest.raises(utils.InterruptedRun) as stopped:
        search_hyperparams.main(["--parent_dir", str(parent_dir), "--space", "seed=1,2"])
    assert stopped.value.exit_code == 130
