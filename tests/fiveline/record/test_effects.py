"""Settings without effect: what is warned of is what no course of a run can make true."""

import itertools
import json

import pytest
import torch

import search_hyperparams
import train
import utils
from fiveline.jobs.one import OneProcess
from fiveline.state import State
from fiveline.tasks import fetch_params, fetch_params_class
from tests.support.pages import PROJECT
from tests.support.tasks import REMOVED, need, needs, task_of

STEPS = 3  # in an epoch


def make(task="vision", **values):
    need(task)
    return fetch_params_class(task).from_values(values, "a test")


def rates(params, is_best):
    """The learning rates of all steps that are taken when epochs turn out to be a new best or not."""
    model, taken = torch.nn.Linear(1, 1), []
    state = State(model, torch.optim.SGD(model.parameters()), params, STEPS, 1, {}, OneProcess())
    for epoch in range(params.num_epochs):
        for state.step in range(STEPS):
            taken.append(state.set_learning_rate())
        state.end_epoch(epoch + 1 if is_best[epoch] else 0, loss=1.0)
        if state.is_finished():
            break
    return taken


def courses(num_epochs):
    """Every way in which a run can go; its first epoch is a new best."""
    return ((True, *rest) for rest in itertools.product((True, False), repeat=num_epochs - 1))


@pytest.mark.parametrize("schedule", ["step", "plateau"])
@pytest.mark.parametrize("patience", [None, 1, 2, 3])
def test_a_schedule_is_warned_of_if_in_no_course_the_rate_drops(schedule, patience):
    for num_epochs, schedule_epochs in itertools.product(range(1, 6), range(1, 6)):
        params = make(
            schedule=schedule, num_epochs=num_epochs, schedule_epochs=schedule_epochs, early_stopping_epochs=patience
        )
        can_drop = any(min(rates(params, course)) < 1e-3 for course in courses(num_epochs))
        warned = any("never drops" in line for line in params.warnings())
        assert warned != can_drop, (num_epochs, schedule_epochs)


def test_a_patience_is_warned_of_if_in_no_course_it_ends_a_run():
    for num_epochs, patience in itertools.product(range(1, 6), range(1, 6)):
        params = make(num_epochs=num_epochs, early_stopping_epochs=patience)
        can_stop = any(len(rates(params, course)) < num_epochs * STEPS for course in courses(num_epochs))
        assert any("early_stopping" in line for line in params.warnings()) != can_stop, (num_epochs, patience)


@pytest.mark.parametrize(
    ("num_epochs", "advice"), [(1, "leave it out"), (2, "leave it out"), (3, "take 1 or less"), (9, "take 7 or less")]
)
def test_the_advice_on_a_patience_can_be_followed(num_epochs, advice):
    params = utils.Params.from_values({"num_epochs": num_epochs, "early_stopping_epochs": 9}, "test")
    (line,) = [line for line in params.warnings() if line.startswith("early_stopping_epochs")]
    assert line.endswith(advice)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_a_warm_up_is_warned_of_if_the_rate_never_gets_to_its_height(schedule):
    for num_epochs, warmup in itertools.product(range(1, 4), (0.0, 0.5, 1.0, 2.0, 2.9, 3.0, 4.0)):
        params = make(schedule=schedule, num_epochs=num_epochs, warmup_epochs=warmup)
        taken = rates(params, [True] * num_epochs)
        is_rising = warmup > 0 and all(before < after for before, after in itertools.pairwise(taken))
        assert any("warmup_epochs" in line for line in params.warnings()) == (is_rising and warmup >= num_epochs)


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("vision", {"schedule_factor": 0.5}, "schedule_factor=0.5: schedule=constant ignores it"),
        ("vision", {"schedule_epochs": 3, "schedule": "cosine"}, "schedule_epochs=3: schedule=cosine ignores it"),
        ("tabular", {"momentum": 0.5}, "momentum=0.5: optimizer=adam ignores it"),
        (
            "ner",
            {"batch_size": 8, "microbatch_size": 8},
            "microbatch_size=8: has no effect unless below batch_size",
        ),
        ("vision", {"net": "resnet18", "num_channels": 8}, "num_channels=8: net=resnet18 ignores it"),
        ("vision", {"net": "resnet18", "pretrained": True}, "normalize=none: pretrained weights were trained with"),
        ("vision", {"image_size": 16, "shift": 16}, "shift=16: moves images of image_size=16 out of sight"),
        ("ner", {"max_word_len": 5}, "max_word_len=5: char_channels=0 ignores it"),
    ],
)
def test_a_setting_that_another_switches_off_is_warned_of(task, values, expected):
    (line,) = make(task, **values).warnings()
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("vision", {"schedule": "step", "schedule_epochs": 3, "schedule_factor": 0.5}),
        ("tabular", {"momentum": 0.5, "optimizer": "sgd"}),
        ("ner", {"batch_size": 8, "microbatch_size": 7}),
        ("vision", {"net": "resnet18", "pretrained": True, "normalize": "imagenet"}),
        ("ner", {"max_word_len": 5, "char_channels": 3}),
    ],
)
def test_settings_that_work_together_are_not_warned_of(task, values):
    assert make(task, **values).warnings() == []


@needs("vision")
def test_flags_of_a_cluster_are_refused_without_one():
    for flag in ("--cpus_per_trial", "--gpus_per_trial"):
        with pytest.raises(utils.InputError, match="without --ray_address, they have no effect"):
            search_hyperparams.main(["--parent_dir", str(PROJECT / "experiments/learning_rate"), flag, "2", "--status"])


def test_no_shipped_run_is_warned_of():
    for path in sorted(PROJECT.glob("experiments/*/params.json")):
        assert task_of(path.parent) in REMOVED or fetch_params(path.parent).warnings() == [], path


def test_training_says_it_in_the_log(make_run):
    model_dir = make_run(schedule="step", fsdp=True)
    train.main(["--model_dir", str(model_dir)])
    log = (model_dir / "train.log").read_text()
    assert "WARNING: schedule 'step': with schedule_epochs=10" in log and "fsdp has no effect in one process" in log


def test_a_run_that_stops_before_its_schedule_drops_says_so(make_run):
    model_dir = make_run(schedule="step", schedule_epochs=8, num_epochs=9, early_stopping_epochs=1, learning_rate=1e-30)
    train.main(["--model_dir", str(model_dir)])
    log = (model_dir / "train.log").read_text()
    num_epochs = len((model_dir / "history.jsonl").read_text().splitlines())
    assert ("never dropped: schedule_epochs is 8" in log) == (num_epochs <= 8)
    assert json.loads((model_dir / "run.json").read_text())["status"] == "finished" and num_epochs <= 8
