"""Mistakes that people make, as they type them: reported in a few plain lines with the culprit, never a traceback."""

import pytest
import torch

import evaluate
import utils
from tests.support.runs import finish, stopped
from tests.support.tasks import needs


@needs("vision")
@pytest.mark.parametrize(
    ("words", "exit_code", "messages"),
    [
        (["evaluate.py", "--help"], 0, []),
        (["train.py", "--describe_params"], 0, []),
        (["evaluate.py", "--model_dir", "nope"], 2, ["error: nope/best.pth.tar: there is no such checkpoint"]),
        (
            ["train.py", "seed=x", "--model_dir"],
            2,
            ["'learning_rat'; did you mean 'learning_rate'?", "batch_size", "duplicate key 'num_epochs'", "seed"],
        ),
    ],
)
def test_help_and_all_mistakes_are_printed_without_loading_torch(run_script, tmp_path, words, exit_code, messages):
    (tmp_path / "params.json").write_text('{"learning_rat": 1, "batch_size": "32", "num_epochs": 1, "num_epochs": 2}')
    done = run_script("-X", "importtime", *words, *([tmp_path] if words[-1] == "--model_dir" else []))
    lines = done.stderr.splitlines()
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "pydantic" in modules and "torch" not in modules and "torchvision" not in modules
    printed = [line for line in lines if not line.startswith("import time:")]
    assert done.returncode == exit_code and (not printed or printed[0].startswith("error: "))
    assert all(message in "\n".join(printed) for message in messages) and len(printed) <= 5


@pytest.mark.parametrize(
    ("params", "words", "messages"),
    [
        ({"monitor": "acuracy"}, [], ["monitor 'acuracy'", "accuracy", "loss"]),
        ({"task": "visoin"}, [], ["params.json: unknown task 'visoin'; did you mean 'vision'?"]),
        ({}, ["--device", "cdua"], ["--device cdua: "]),
        ({}, ["--restore_file", "bset"], ["run/bset.pth.tar", "train first"]),
        ({}, ["--data_dir", "nope"], ["nope: there is no such data directory; --data_dir"]),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(make_run, params, words, messages):
    folder = make_run()
    (folder / "params.json").write_text(utils.to_json({**utils.read_json(folder / "params.json"), **params}))
    message = stopped(folder, *words, exit_code=2)
    assert all(text in message for text in messages)
    starts = words[:1] != ["--restore_file"] and "task" not in params
    assert (folder / "run.json").exists() == starts
    if starts:
        record = utils.read_json(folder / "run.json")
        assert (record["status"], record["reason"]) == ("failed", message)


def test_a_directory_without_params_is_refused(tmp_path):
    assert "no params.json and no params.yaml in it" in stopped(tmp_path, exit_code=2)


ANOMALY = "Backward0' returned nan values"


@pytest.mark.filterwarnings("ignore:Error detected in")  # torch's, with the line of the forward pass
@pytest.mark.parametrize(("batch_size", "reason"), [(8, "learning_rate"), (40, "learning_rate"), (8, ANOMALY)])
def test_a_diverging_run_exits_with_3_and_leaves_no_checkpoint(make_run, batch_size, reason):
    """With one step an epoch, only val shows what it did."""
    folder = make_run(optimizer="sgd", batch_size=batch_size, num_epochs=1, detect_anomaly=reason == ANOMALY)
    message, record = stopped(folder, "learning_rate=1e30", exit_code=3), utils.read_json(folder / "run.json")
    assert message.startswith("diverged: ") and reason in message and not torch.is_anomaly_enabled()
    assert record["status"] == "diverged" and record["reason"] in message and not list(folder.glob("*.pth.tar"))


@needs("ner")
def test_a_checkpoint_is_found_by_its_file_and_scored_with_what_it_was_trained_with(make_run, monkeypatch, tmp_path):
    folder = finish(make_run(num_epochs=1))
    monkeypatch.chdir(tmp_path)  # where there is no best.pth.tar
    evaluate.main(["--model_dir", str(folder), "--restore_file", "best.pth.tar", "task=vision"])
    for words, message in (
        (["--restore_file", "bset.pth.tar"], "there are: best, last"),
        (["--restore_file", "elsewhere/run/best"], "a path that ends in .pth.tar"),
        (["batch_sise=3"], "unknown key 'batch_sise'; did you mean 'batch_size'"),
        (["task=ner"], "task: the checkpoint has task 'vision', found 'ner'"),
    ):
        assert message in stopped(folder, *words, exit_code=2, main=evaluate.main)
