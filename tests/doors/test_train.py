"""One run: the same bits again, resuming, restoring, what is kept as best."""

import copy
import itertools
import logging
import shutil
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch

import evaluate
import train
import utils
from fiveline.record.directory import delete_or_restore, set_aside
from tests.support.runs import assert_same_bits, assert_same_end, finish, read_state, run_train, stopped, write_run


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the finished run of three epochs."""
    return shutil.copytree(whole, tmp_path / "folder")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_train(tmp_path_factory.mktemp("train") / "whole")


def test_a_seed_decides_the_bits_whatever_the_number_of_workers(whole, tmp_path):
    again = run_train(tmp_path / "again")
    for name in ("last", "best"):
        assert (whole / f"{name}.pth.tar").read_bytes() == (again / f"{name}.pth.tar").read_bytes()
    workers = run_train(tmp_path / "workers", num_workers=2, cache="none")
    assert_same_end(whole, workers)
    other = run_train(tmp_path / "other", seed=231, num_epochs=1)
    assert not torch.equal(read_state(whole)["state_dict"]["fc2.weight"], read_state(other)["state_dict"]["fc2.weight"])


def test_more_epochs_continue_a_finished_run(whole, tmp_path, capsys):
    parts = run_train(tmp_path / "parts", num_epochs=2)
    train.main(["--model_dir", str(parts)])
    assert "is finished: 2 epochs" in capsys.readouterr().out
    with (parts / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"epoch": 3, "tra')  # as when it was killed while it wrote
    train.main(["--model_dir", str(parts), "num_epochs=3", "num_workers=1", "save_summary_steps=5"])
    assert_same_end(whole, parts)


def test_changed_hyperparameters_are_refused_and_nothing_is_lost(folder):
    before = contents(folder)
    with pytest.raises(utils.InputError, match=r"learning_rate: 0\.01 -> 0\.02; weight_decay: 0\.0 -> 0\.1.*--restart"):
        train.main(["--model_dir", str(folder), "learning_rate=0.02", "weight_decay=0.1", "num_epochs=4"])
    assert contents(folder) == before


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


def test_a_restart_begins_again_but_one_that_comes_to_nothing_leaves_the_run_as_it_was(folder):
    (folder / "my_model.pth.tar").write_text("mine")
    evaluate.main(["--model_dir", str(folder)])
    before = contents(folder)
    for words in (["--data_dir", "none"], ["learning_rate=1e30"]):
        with pytest.raises(utils.Stop):
            train.main(["--model_dir", str(folder), "--restart", *words])
        logging.getLogger().handlers.clear()
        assert contents(folder) == before and not [path for path in folder.iterdir() if path.is_dir()]
    train.main(["--model_dir", str(folder), "--restart", "num_epochs=1"])
    assert read_state(folder)["epoch"] == len(utils.read_lines(folder / "history.jsonl")) == 1
    assert (folder / "my_model.pth.tar").read_text() == "mine"
    assert not list(folder.glob("*_test_best*"))  # of the weights that were replaced
    assert not [path for path in folder.iterdir() if path.is_dir()]  # what was put aside


def test_a_restart_that_is_killed_loses_nothing_at_any_moment(folder, monkeypatch):
    before, moves = contents(folder), 0
    for original in (Path.replace, Path.rename):

        def until_killed(path, target, original=original):
            nonlocal moves
            moves += 1
            if moves == stop_at:
                raise SystemError("killed")
            return original(path, target)

        monkeypatch.setattr(Path, original.__name__, until_killed)
    for stop_at in itertools.count(1):
        moves = 0
        try:
            set_aside(folder)
            delete_or_restore(folder)  # as the next command does, which may be killed, too
        except SystemError:
            with utils.RunDirectory(folder):
                pass
        assert contents(folder) == before, stop_at
        if moves < stop_at:
            break
    assert stop_at > 2 * 6


def test_restore_file_starts_from_the_weights_alone(whole, tmp_path):
    barely = {"learning_rate": 1e-9, "momentum": 0.0, "optimizer": "sgd", "num_epochs": 1}
    folder = write_run(tmp_path / "target", **barely)
    shutil.copy(whole / "best.pth.tar", folder / "start.pth.tar")
    train.main(["--model_dir", str(folder), "--restore_file", "start"])
    weights = read_state(whole, "best")["state_dict"]["conv1.weight"]
    torch.testing.assert_close(read_state(folder)["state_dict"]["conv1.weight"], weights)
    assert read_state(folder)["epoch"] == 1
    train.main(["--model_dir", str(folder), "--restore_file", "start", "num_epochs=2"])  # the same command continues
    assert read_state(folder)["epoch"] == 2
    assert "--restore_file: start -> None" in stopped(folder, exit_code=2)
    train.main(["--model_dir", str(folder), "--restore_file", "best", "--restart"])  # reads best before it removes it
    torch.testing.assert_close(read_state(folder)["state_dict"]["conv1.weight"], weights)


def test_a_checkpoint_of_cs230_is_not_continued_but_restored(folder):
    for name in ("last", "best"):  # three keys, nothing else
        state = read_state(folder, name)
        torch.save({key: state[key] for key in ("epoch", "state_dict", "optim_dict")}, folder / f"{name}.pth.tar")
    (folder / "run.json").unlink()
    (folder / "history.jsonl").unlink()
    with pytest.raises(utils.InputError, match="made by other code.*--restore_file last.*--restart"):
        finish(folder)
    assert utils.read_json(finish(folder, "--restore_file", "best", "--restart") / "run.json")["status"] == "finished"


VAL = [(0.5, 0.3), (0.9, 0.6), (0.9, 0.4), (0.9, 0.5), (0.9, 0.4), (0.9, 0.2), (0.8, 0.1), (0.9, 0.3), (0.7, 0.05)]


def scripted(monkeypatch, values):
    """Let each val evaluation return the next pair; MemoryError where there is none."""
    results = [{"accuracy": accuracy, "loss": loss} for accuracy, loss in values]
    monkeypatch.setattr(train, "evaluate", mock.Mock(side_effect=[*results, MemoryError]))


def test_best_and_patience_go_by_value_then_by_loss_also_when_the_run_was_killed(tmp_path, monkeypatch, caplog, capsys):
    settings = {"num_epochs": 50, "early_stopping_epochs": 3, "batch_size": 630, "optimizer": "rmsprop"}
    settings |= {"schedule": "plateau", "schedule_epochs": 1, "learning_rate": 0.02}
    scripted(monkeypatch, VAL)
    with caplog.at_level(logging.INFO):
        whole = run_train(tmp_path / "whole", **settings)
    lines = ("Epoch 1/50", "- Train metrics: accuracy: 0.", "- Eval metrics : accuracy: 0.5")  # as CS230 writes them
    assert all(text in caplog.text for text in lines)
    # epochs 1, 2, 3 and 6: each restarts the patience
    assert caplog.text.count("Found new best accuracy") == caplog.text.count("Found a lower loss at the best acc") == 2
    best = read_state(whole, "best")
    assert (best["epoch"], best["best"], best["best_loss"]) == (6, 0.9, 0.2)
    assert utils.read_json(whole / "metrics_val_best_weights.json") == {"accuracy": 0.9, "loss": 0.2}

    for name in ("FIRST_SECONDS", "SAVING_COSTS_ONE_IN"):
        monkeypatch.setattr(f"fiveline.saving.{name}", 0)  # each epoch is saved
    scripted(monkeypatch, VAL[:6])
    with pytest.raises(MemoryError):
        run_train(tmp_path / "parts", **settings)
    scripted(monkeypatch, VAL[6:])
    parts = run_train(tmp_path / "parts", **settings)
    capsys.readouterr()
    for words in ([], ["num_epochs=60"]):  # more epochs are not for it
        finish(parts, *words)
        printed = capsys.readouterr().out
        assert "It stopped early (early_stopping_epochs 3)" in printed and "num_epochs=" not in printed
    for name in ("last", "best"):
        assert_same_bits(read_state(whole, name), read_state(parts, name))
    assert read_state(parts)["epoch"] == len(VAL)


def steps_of(model, loss_fn, inputs, labels, microbatch_size, is_scaled=False):
    """Return outputs, loss and new weights of a step of the whole batch, and of one in pieces."""
    results = []
    for size in (None, microbatch_size):
        trained, scaler = copy.deepcopy(model), torch.amp.GradScaler("cpu", enabled=is_scaled)
        objects = (trained, torch.optim.SGD(trained.parameters(), lr=1.0), loss_fn, inputs, labels)
        step = train.train_step(*objects) if size is None else train.train_step_in_pieces(*objects, size, scaler)
        results.append((*step, list(trained.parameters())))
    return results


@pytest.mark.parametrize(("microbatch_size", "is_scaled"), [(1, True), (3, False), (11, True)])
def test_a_step_in_pieces_is_the_step_of_the_whole_batch(microbatch_size, is_scaled):
    class Model(torch.nn.Linear):
        def forward(self, batch):
            return {"logits": super().forward(batch["x"]).tanh()}

    def loss_fn(outputs, labels):
        return torch.nn.functional.cross_entropy(outputs["logits"], labels)

    labels = torch.tensor([0, 1, 2, 3, -100, 1, 2, 0, -100, 3, 1])  # not all are scored
    batch = {"x": torch.randn(11, 6)}, labels
    torch.testing.assert_close(*steps_of(Model(6, 4), loss_fn, *batch, microbatch_size, is_scaled))


def test_a_step_in_pieces_counts_the_numbers_that_are_known():
    def loss_fn(outputs, labels):
        return (outputs - labels)[labels != -100].square().mean()

    inputs, labels = torch.randn(2, 6, 4)
    labels[0], labels[4, 1:] = -100.0, -100.0
    whole, pieces = steps_of(torch.nn.Linear(4, 4), loss_fn, inputs, labels, 2)
    torch.testing.assert_close(whole[1:], pieces[1:])
    labels[:] = -100.0  # the mean over nothing, which stops the run
    assert all(step[1].isnan() for step in steps_of(torch.nn.Linear(4, 4), loss_fn, inputs, labels, 2))


def test_batch_norm_cannot_train_on_a_single_example():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        net(torch.randn(1, 3))
    assert "raise batch_size or microbatch_size" in str(utils.explain(caught.value))


def test_weights_that_are_not_finite_are_never_saved(folder, monkeypatch):
    """An infinite gradient leaves the loss of its own step finite: a save right after it must look at the weights."""
    before = (folder / "last.pth.tar").read_bytes()
    take_step = train.train_step

    def spoil_a_weight(model, *rest):
        outputs, loss = take_step(model, *rest)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = float("inf")
        signal.raise_signal(signal.SIGTERM)  # asks for a checkpoint at once
        return outputs, loss

    monkeypatch.setattr(train, "train_step", spoil_a_weight)
    with pytest.raises(utils.DivergedError, match="a weight that is not finite in epoch 4, step 1 "):
        train.main(["--model_dir", str(folder), "num_epochs=4"])
    assert (folder / "last.pth.tar").read_bytes() == before
