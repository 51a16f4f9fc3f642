"""Settings without effect: what is warned of is what no course of a run can make true."""

import pytest

import search_hyperparams
import train
import utils
from fiveline.tasks import fetch_params, fetch_params_class
from tests.support.pages import PROJECT
from tests.support.tasks import REMOVED, need, needs, task_of


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("vision", {"schedule": "step"}, "schedule 'step': with schedule_epochs=10 the learning rate never drops"),
        ("vision", {"schedule_factor": 0.5}, "schedule_factor=0.5: schedule=constant ignores it"),
        ("vision", {"schedule_epochs": 3, "schedule": "cosine"}, "schedule_epochs=3: schedule=cosine ignores it"),
        ("tabular", {"momentum": 0.5}, "momentum=0.5: optimizer=adam ignores it"),
        ("vision", {"net": "resnet18", "num_channels": 8}, "num_channels=8: net=resnet18 ignores it"),
        ("vision", {"net": "resnet18", "pretrained": True}, "normalize=none: pretrained weights were trained with"),
        ("vision", {"image_size": 16, "shift": 16}, "shift=16: moves images of image_size=16 out of sight"),
        ("ner", {"max_word_len": 5}, "max_word_len=5: char_channels=0 ignores it"),
        ("vision", {"schedule": "step", "schedule_epochs": 9, "schedule_factor": 0.5}, None),
        ("tabular", {"momentum": 0.5, "optimizer": "sgd"}, None),
        ("vision", {"net": "resnet18", "pretrained": True, "normalize": "imagenet"}, None),
        ("ner", {"max_word_len": 5, "char_channels": 3}, None),
    ],
)
def test_a_setting_that_another_switches_off_is_warned_of(task, values, expected):
    need(task)
    lines = fetch_params_class(task).from_values(values, "a test").warnings()
    assert len(lines) == (expected is not None)
    assert all(line.startswith(expected) for line in lines)


@needs("vision")
def test_flags_of_a_cluster_are_refused_without_one():
    for flag in ("--cpus_per_trial", "--gpus_per_trial"):
        with pytest.raises(utils.InputError, match="without --ray_address, they have no effect"):
            search_hyperparams.main(["--parent_dir", str(PROJECT / "experiments/learning_rate"), flag, "2", "--status"])


def test_no_shipped_run_is_warned_of():
    for path in sorted(PROJECT.glob("experiments/*/params.json")):
        assert task_of(path.parent) in REMOVED or fetch_params(path.parent).warnings() == [], path


def test_training_says_it_in_the_log(make_run):
    model_dir = make_run(
        schedule="step", fsdp=True, schedule_epochs=9, num_epochs=9, early_stopping_epochs=1, learning_rate=1e-30
    )
    train.main(["--model_dir", str(model_dir)])
    log = (model_dir / "train.log").read_text()
    assert "WARNING: schedule 'step': with schedule_epochs=9" in log and "fsdp has no effect in one process" in log
    assert "Stopped early: no new best accuracy for 1 epochs" in log
    assert utils.read_json(model_dir / "run.json")["status"] == "finished"
