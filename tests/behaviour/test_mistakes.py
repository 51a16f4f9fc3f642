"""Mistakes that people make, as they type them: reported in a few plain lines with the culprit, never a traceback."""

import os
import random

import numpy as np
import pytest

import evaluate
import train
import utils
from tests.support.photos import write_photos
from tests.support.tasks import needs


def reported_by(done, exit_code):
    """Return a failed script's error message, after checking that it is short and plain."""
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith(("error: ", "usage: ")) or exit_code != 2, done.stderr
    return done.stderr


def refusal(main, *words, exit_code=2):
    """Return the message that stops a script, called in this process because torch is loaded here already."""
    with pytest.raises(utils.Stop) as caught:
        main([str(word) for word in words])
    message = str(caught.value)
    assert caught.value.exit_code == exit_code
    assert len(message.splitlines()) == 1 and len(message) < 500
    return message


@pytest.fixture
def write_params(tmp_path):
    """Return a function that writes a run directory with a params file of some text."""

    def write(text, name="params.json"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / name).write_text(text, encoding="utf-8")
        return tmp_path / "run"

    return write


# --- in the shell, before torch is loaded


def test_a_missing_directory_is_reported(run_script, tmp_path):
    stderr = reported_by(run_script("train.py", "--model_dir", tmp_path / "experiments/nope"), 2)
    assert f"error: {tmp_path}/experiments/nope: there is no such directory" in stderr


def test_a_directory_without_params_is_reported(run_script, tmp_path):
    stderr = reported_by(run_script("train.py", "--model_dir", tmp_path), 2)
    assert str(tmp_path) in stderr and "params.json" in stderr


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("params.json", '{"learning_rate": 1e-3,}', "line 1 column 24"),
        ("params.yaml", "learning_rate: 1e-3\n  batch_size: 3\n", "line 2 column 13"),
    ],
)
def test_a_broken_params_file_is_reported_with_the_place(run_script, write_params, name, text, place):
    model_dir = write_params(text, name)
    stderr = reported_by(run_script("train.py", "--model_dir", model_dir), 2)
    assert f"error: {model_dir / name}: not valid" in stderr and place in stderr


@needs("vision")
def test_all_mistakes_in_a_params_file_are_reported_together(run_script, write_params):
    model_dir = write_params('{"learning_rat": 1e-3, "batch_size": "32", "num_epochs": 1, "num_epochs": 2}')
    stderr = reported_by(run_script("train.py", "--model_dir", model_dir, "seed=x"), 2)
    assert "'learning_rat'; did you mean 'learning_rate'?" in stderr
    assert "batch_size" in stderr and "duplicate key 'num_epochs'" in stderr and "seed" in stderr
    assert len(stderr.splitlines()) == 5


@needs("vision")
def test_an_unknown_task_is_reported(run_script, write_params):
    model_dir = write_params('{"task": "visoin"}')
    stderr = reported_by(run_script("train.py", "--model_dir", model_dir), 2)
    assert f"{model_dir / 'params.json'}: unknown task 'visoin'; did you mean 'vision'?" in stderr
    assert "unknown task 'visoin'" in reported_by(run_script("train.py", "--task", "visoin", "--describe_params"), 2)


def test_an_unknown_flag_is_reported_with_the_usage(run_script):
    stderr = reported_by(run_script("train.py", "--learning_rate", "3"), 2)
    assert "usage: train.py" in stderr and "--learning_rate" in stderr


def test_a_directory_in_use_exits_with_4(run_script, make_run):
    model_dir = make_run()
    with utils.RunDirectory(model_dir):
        stderr = reported_by(run_script("train.py", "--model_dir", model_dir), 4)
    assert f"error: {model_dir}: in use by process {os.getpid()}" in stderr
    assert not (model_dir / "run.json").exists()


def loaded_modules(run_script, *words):
    """Return the names of the modules that a command imports, and its exit code."""
    done = run_script("-X", "importtime", *map(str, words))
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}, done.returncode


@needs("vision")
def test_help_and_refusals_come_without_loading_torch(run_script, write_params, tmp_path):
    model_dir = write_params('{"learning_rat": 1}')
    for words, exit_code in (
        (["train.py", "--help"], 0),
        (["evaluate.py", "--help"], 0),
        (["train.py", "--describe_params"], 0),
        (["train.py", "--model_dir", model_dir], 2),
        (["evaluate.py", "--model_dir", tmp_path], 2),
    ):
        modules, returncode = loaded_modules(run_script, *words)
        assert returncode == exit_code, words
        assert "pydantic" in modules and "torch" not in modules and "torchvision" not in modules, words


# --- with torch


def test_a_diverging_run_exits_with_3_and_leaves_no_checkpoint(run_script, make_run):
    model_dir = make_run(optimizer="sgd")
    stderr = reported_by(run_script("train.py", "--model_dir", model_dir, "learning_rate=1e30"), 3)
    assert "error: diverged: a loss of " in stderr and "learning_rate" in stderr
    assert "error: diverged" in (model_dir / "train.log").read_text(encoding="utf-8")
    record = utils.read_json(model_dir / "run.json")
    assert record["status"] == "diverged" and "a loss of" in record["reason"]
    assert not list(model_dir.glob("*.pth.tar"))


def test_a_run_that_diverges_in_the_last_step_of_an_epoch_saves_nothing_of_it(make_run):
    model_dir = make_run(optimizer="sgd", batch_size=40, num_epochs=1)  # one step: only val sees what it did
    message = refusal(train.main, "--model_dir", model_dir, "learning_rate=1e30", exit_code=3)
    assert "diverged" in message
    assert utils.read_json(model_dir / "run.json")["status"] == "diverged"
    assert not list(model_dir.glob("*.pth.tar"))


def test_a_later_divergence_keeps_the_checkpoints_from_before(make_run):
    model_dir = make_run(optimizer="sgd", schedule="step", schedule_epochs=1, schedule_factor=0.5, num_epochs=2)
    train.main(["--model_dir", str(model_dir)])
    assert {path.name for path in model_dir.glob("*.pth.tar")} >= {"last.pth.tar", "best.pth.tar"}
    state = utils.read_checkpoint(model_dir / "last.pth.tar")
    state["state_dict"]["conv1.weight"] += float("inf")  # as a step that was too long leaves them
    utils.save_checkpoint(state, False, model_dir)
    before = {path: path.read_bytes() for path in model_dir.glob("*.pth.tar")}
    assert "in epoch 3" in refusal(train.main, "--model_dir", model_dir, "num_epochs=4", exit_code=3)
    assert {path: path.read_bytes() for path in model_dir.glob("*.pth.tar")} == before
    assert len(utils.RunDirectory(model_dir).history()) == 2


def test_a_device_that_is_not_there_is_reported(make_run):
    for name in ("cuda:7", "cdua"):
        assert f"--device {name}: " in refusal(train.main, "--model_dir", make_run(name), "--device", name)
    message = refusal(train.main, "--model_dir", make_run(), "--device", "cuda", "--disable-cuda")
    assert "--disable-cuda and --device cuda contradict" in message


def test_a_missing_data_directory_is_reported(make_run, tmp_path):
    model_dir = make_run()
    message = refusal(train.main, "--model_dir", model_dir, "--data_dir", tmp_path / "nope")
    assert f"{tmp_path}/nope: there is no such data directory; --data_dir" in message
    record = utils.read_json(model_dir / "run.json")
    assert (record["status"], record["reason"]) == ("failed", message)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_reported(make_run, tmp_path, split):
    model_dir = make_run()
    np.savez(
        tmp_path / f"data/{split}.npz", images=np.zeros((0, 8, 8), dtype=np.uint8), labels=np.zeros(0, dtype=np.int64)
    )
    message = refusal(train.main, "--model_dir", model_dir)
    assert str(tmp_path / "data") in message and split in message


def test_a_class_that_train_lacks_is_reported(make_run, tmp_path):
    model_dir = make_run()
    np.savez(tmp_path / "data/val.npz", images=np.zeros((4, 8, 8), dtype=np.uint8), labels=np.array([0, 1, 2, 9]))
    assert "class '9' is not among the classes of train when this run began (0, 1, 2)" in refusal(
        train.main, "--model_dir", model_dir
    )


@pytest.mark.parametrize("damage", ["random bytes", "truncated", "empty"])
def test_an_unreadable_image_is_named(make_run, tmp_path, damage):
    photos = tmp_path / "photos"
    write_photos(photos, [f"{split}/{name}/{i}.jpg" for split in ("train", "val") for name in "ab" for i in range(3)])
    bad = photos / "train/b/1.jpg"
    content = {"random bytes": random.Random(230).randbytes(500), "truncated": bad.read_bytes()[:-200], "empty": b""}[
        damage
    ]
    bad.write_bytes(content)
    message = refusal(train.main, "--model_dir", make_run(), "--data_dir", photos)
    assert message.startswith(f"{bad}: ")


def test_a_label_without_a_number_is_named(make_run, tmp_path):
    photos = tmp_path / "photos"
    write_photos(photos, ["train_signs/0_a.jpg", "train_signs/one_b.jpg", "train_signs/1_c.jpg", "val_signs/0_d.jpg"])
    message = refusal(train.main, "--model_dir", make_run(), "--data_dir", photos)
    assert "one_b.jpg" in message and "number" in message


def test_a_monitor_that_is_no_metric_is_reported(make_run):
    message = refusal(train.main, "--model_dir", make_run(monitor="acuracy"))
    assert "monitor 'acuracy'" in message and "accuracy" in message and "loss" in message


def test_a_missing_checkpoint_is_reported(make_run):
    model_dir = make_run()
    message = refusal(train.main, "--model_dir", model_dir, "--restore_file", "bset")
    assert str(model_dir / "bset.pth.tar") in message and "train first" in message
    assert str(model_dir / "best.pth.tar") in refusal(evaluate.main, "--model_dir", model_dir)
    assert not (model_dir / "run.json").exists()


def test_a_checkpoint_is_found_by_the_name_of_its_file(make_run, monkeypatch, tmp_path):
    model_dir = make_run(num_epochs=1)
    train.main(["--model_dir", str(model_dir)])
    monkeypatch.chdir(tmp_path)  # where there is no best.pth.tar
    evaluate.main(["--model_dir", str(model_dir), "--restore_file", "best.pth.tar"])
    assert "there are: best, last" in refusal(evaluate.main, "--model_dir", model_dir, "--restore_file", "bset.pth.tar")
    message = refusal(evaluate.main, "--model_dir", model_dir, "--restore_file", "elsewhere/run/best")
    assert "train first" not in message and "a path that ends in .pth.tar" in message


def test_a_checkpoint_of_another_net_is_reported(make_run):
    narrow = make_run("narrow", num_epochs=1)
    train.main(["--model_dir", str(narrow)])
    checkpoint = narrow / "best.pth.tar"

    wide = make_run("wide", num_channels=6)
    message = refusal(train.main, "--model_dir", wide, "--restore_file", checkpoint)
    assert f"{checkpoint}: a checkpoint of another net" in message
    assert "size mismatch for conv1.weight: copying a param with shape torch.Size([4, 1, 3, 3])" in message
    assert "in current model is torch.Size([6, 1, 3, 3])" in message

    state = utils.read_checkpoint(checkpoint)
    cs230 = {key: state[key] for key in ("epoch", "state_dict", "optim_dict")}
    utils.save_checkpoint(cs230, True, wide)
    assert "conv1.weight: copying a param with shape torch.Size([4, 1, 3, 3])" in refusal(
        evaluate.main, "--model_dir", wide
    )


def test_a_damaged_checkpoint_is_reported_and_left_alone(make_run):
    model_dir = make_run(num_epochs=1)
    train.main(["--model_dir", str(model_dir)])
    path = model_dir / "last.pth.tar"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"{path}: damaged" in refusal(train.main, "--model_dir", model_dir, "num_epochs=2")
    assert f"{path}: damaged" in refusal(evaluate.main, "--model_dir", model_dir, "--restore_file", "last")
    assert path.read_bytes() == content


def test_changed_hyperparameters_in_a_directory_with_history_are_listed(make_run):
    model_dir = make_run(num_epochs=1)
    train.main(["--model_dir", str(model_dir)])
    words = ["learning_rate=0.5", "optimizer=sgd", "num_epochs=2", "save_summary_steps=7"]
    message = refusal(train.main, "--model_dir", model_dir, *words)
    assert "learning_rate: 0.01 -> 0.5" in message and "optimizer: 'adam' -> 'sgd'" in message
    assert "num_epochs:" not in message and "save_summary_steps" not in message
    assert "--restart" in message
    assert utils.read_json(model_dir / "run.json")["status"] == "finished"


@needs("ner")
def test_overrides_of_what_a_checkpoint_was_trained_with_are_checked(make_run):
    model_dir = make_run(num_epochs=1)
    train.main(["--model_dir", str(model_dir)])
    with pytest.raises(utils.InputError, match="unknown key 'batch_sise'; did you mean 'batch_size'"):
        evaluate.main(["--model_dir", str(model_dir), "batch_sise=3"])
    with pytest.raises(utils.InputError, match="task: it is a checkpoint of 'vision', found 'ner'"):
        evaluate.main(["--model_dir", str(model_dir), "task=ner"])
    evaluate.main(["--model_dir", str(model_dir), "task=vision"])
