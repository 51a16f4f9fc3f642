"""Learning-rate schedules: the rates of torch's own schedulers, and a warm-up."""

import warnings

import pytest
import torch
from torch.optim import lr_scheduler

import utils
from fiveline.options.schedule import fetch_schedule

STEPS, EPOCHS = 7, 6
TOTAL = STEPS * EPOCHS


def rates_of(**values):
    params = utils.Params.from_values({"learning_rate": 0.1, "num_epochs": EPOCHS, **values}, "test")
    schedule = fetch_schedule(params, STEPS)
    return [schedule.rate(step) for step in range(TOTAL)]


@pytest.mark.parametrize(
    ("values", "theirs", "settings"),
    [
        ({"schedule": "constant"}, lr_scheduler.ConstantLR, {"factor": 1.0}),
        ({"schedule": "cosine"}, lr_scheduler.CosineAnnealingLR, {"T_max": TOTAL}),
        (
            {"schedule": "step", "schedule_epochs": 2, "schedule_factor": 0.3},
            lr_scheduler.StepLR,
            {"step_size": 2 * STEPS, "gamma": 0.3},
        ),
        ({"schedule": "one_cycle"}, lr_scheduler.OneCycleLR, {"pct_start": 0.3}),
        ({"schedule": "one_cycle", "warmup_epochs": 3}, lr_scheduler.OneCycleLR, {"pct_start": 0.5}),
    ],
    ids=str,
)
def test_each_step_has_the_rate_of_torchs_scheduler(values, theirs, settings):
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    if theirs is lr_scheduler.OneCycleLR:
        settings = {"max_lr": 0.1, "total_steps": TOTAL, "cycle_momentum": False, **settings}
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = theirs(optimizer, **settings)
        for _ in range(TOTAL):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    assert rates_of(**values) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_warmup_rises_in_a_straight_line_to_the_rate():
    expected = [0.1 * (i + 1) / (STEPS + 1) for i in range(STEPS)] + [0.1] * (TOTAL - STEPS)
    assert rates_of(warmup_epochs=1) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_warmup_in_steps_is_the_same_as_in_epochs(schedule):
    assert rates_of(schedule=schedule, warmup_steps=14) == rates_of(schedule=schedule, warmup_epochs=2)
