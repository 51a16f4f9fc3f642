"""Files that are whole and yet not ours: every key of a checkpoint, run.json and history.jsonl with wrong contents."""

import os
import re
import shutil

import pytest
import torch

import evaluate
import predict
import search_hyperparams
import synthesize_results
import utils
from fiveline.record.checkpoint import read_checkpoint, write_checkpoint
from fiveline.study.trial_process import open_output
from fiveline.study.trials import read_record
from tests.support.runs import finish, stopped, write_tiny_run

DELETED = object()
WRONG = {
    "none": None, "text": "x", "negative": -1, "huge": 10**30, "nan": float("nan"), "list": [1, "a"],
    "dict": {"a": 1}, "tensor": torch.zeros(3), "deleted": DELETED,
}  # fmt: skip
RIGHT = {  # values of the right type
    ("best", "none"), ("best", "negative"), ("best", "huge"), ("seconds", "huge"), ("best_loss", "huge"),
    ("best_loss", "none"), ("best_loss", "negative"),
    ("generators", "none"), ("generators", "dict"), ("sums", "dict"),
    ("scaler", "dict"), ("average", "dict"), ("facts", "dict"),
}  # fmt: skip
READ_BY_EVALUATE = {"state_dict", "params", "facts"}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    return finish(write_tiny_run(tmp_path_factory.mktemp("trained")), "num_epochs=1")


@pytest.fixture
def trained(once, tmp_path):
    return shutil.copytree(once, tmp_path / "run")


def test_every_key_of_a_checkpoint_and_what_its_optimizer_kept_are_checked(trained):
    state = read_checkpoint(trained / "last.pth.tar")
    (trained / "last.previous.pth.tar").unlink(missing_ok=True)
    simple = ["none", "text", "negative", "huge", "nan", "list", "dict", "tensor"]
    for number, key in enumerate(state):  # each is deleted, and gets a quarter of the wrong values
        kinds = ["deleted", *simple[number % 4 :: 4]]
        for kind in (kind for kind in kinds if (key, kind) not in RIGHT):
            changed = {name: value for name, value in {**state, key: WRONG[kind]}.items() if value is not DELETED}
            write_checkpoint(changed, trained / "last.pth.tar")
            messages = [stopped(trained, "num_epochs=2", exit_code=2)]
            if key in READ_BY_EVALUATE:
                messages.append(stopped(trained, "--restore_file", "last", exit_code=2, main=evaluate.main))
            for message in messages:
                is_named = key in message or "another net" in message
                assert "last.pth.tar: " in message and is_named, (key, kind, message)
    moments = state["optim_dict"]["state"]
    wrong = [{**moments, 0: {**moments[0], "exp_avg": value}} for value in (torch.zeros(7), None, "x")]
    for changed in (*wrong, {**moments, 99: moments[0]}):
        optim_dict = {**state["optim_dict"], "state": changed}
        write_checkpoint({**state, "optim_dict": optim_dict}, trained / "last.pth.tar")
        message = stopped(trained, "num_epochs=2", exit_code=2)
        assert "last.pth.tar: optim_dict does not fit this code (" in message


ROWS = [
    '{"epoch": 1, "val": []}', '{"epoch": 1, "val": {"accuracy": "0.5"}}', '{"epoch": "1"}', '{"epoch": 1e400}',
    '{"epoch": 1, "seconds": "x"}', "[]", '{"val": {"accuracy": 0.5}}', '{"epoch": true}', '{"epoch": -1}',
    '{"epoch": 1, "train": 5}', f'{{"epoch": {10**30}}}', '{"epoch": 1, "val": {"accuracy": NaN}}',
]  # fmt: skip


def test_malformed_entries_of_a_record_and_rows_of_a_history_are_named_or_passed_over(trained, capsys):
    record = utils.read_json(trained / "run.json")
    for key in ("status", "params", "epochs", "best_epoch", "best", "lower_is_better", "data", "machine", "versions"):
        utils.save_dict_to_json({**record, key: [1, "a"]}, trained / "run.json")
        assert re.search(rf"run\.json: .*{key}", stopped(trained, "num_epochs=2", exit_code=2))
        assert read_record(trained) == {}
    utils.save_dict_to_json(record, trained / "run.json")
    for row in ROWS:
        (trained / "history.jsonl").write_text(row + "\n")
        assert "history.jsonl, " in stopped(trained, "num_epochs=2", exit_code=2), row
        synthesize_results.main(["--parent_dir", str(trained.parent)])
    (trained.parent / "params.json").write_text((trained / "params.json").read_text())
    search_hyperparams.main(["--parent_dir", str(trained.parent), "--space", "seed=230,2", "--status"])
    assert "1 failed" in capsys.readouterr().out


def test_pipes_and_devices_in_place_of_files_are_refused_and_not_waited_for(trained, tmp_path, capfd):
    (trained / "last.previous.pth.tar").unlink(missing_ok=True)
    for name in ("history.jsonl", "last.pth.tar", "run.json", "params.json"):
        for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
            kept = (trained / name).rename(tmp_path / name)
            make(trained / name)
            assert name in stopped(trained, "num_epochs=2", exit_code=2)
            kept.rename(trained / name)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder/pipe.png")
    assert "a pipe" in stopped(trained, "--input", tmp_path / "folder/pipe.png", exit_code=2, main=predict.main)
    with pytest.raises(utils.Stop):
        predict.main(["--model_dir", str(trained), "--input", str(tmp_path / "folder")])
    assert "regular file" in capfd.readouterr().out
    for make, kind in ((os.mkfifo, "a pipe"), (lambda path: path.symlink_to("victim"), "symbolic link")):
        make(tmp_path / kind)
        with pytest.raises(utils.Stop, match=kind):
            open_output(tmp_path / kind)
