"""The position of a run and what follows from it: the learning rate, what is best, when the run has diverged."""

import math
import warnings

import pytest
import torch

import utils
from fiveline.jobs.one import OneProcess
from fiveline.options.optimizer import fetch_optimizer
from fiveline.state import State, learning_rate


def make_state(steps_per_epoch=7, **values):
    params = utils.Params.from_values(values, "test")
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    metrics = {"accuracy": lambda outputs, labels: ((outputs.argmax(1) == labels).sum(), len(labels))}
    return State(model, fetch_optimizer(model, params), params, steps_per_epoch, 1, metrics, OneProcess())


def add_batch(state, loss, labels=(0, 1)):
    state.sums.add(torch.zeros(len(labels), 2), torch.tensor(labels), torch.tensor(loss))
    state.step += 1


STEPS, EPOCHS = 7, 6
SCHEDULERS = torch.optim.lr_scheduler
SCHEDULES = [
    ({"schedule": "constant"}, lambda o: SCHEDULERS.ConstantLR(o, factor=1.0)),
    ({"schedule": "cosine"}, lambda o: SCHEDULERS.CosineAnnealingLR(o, STEPS * EPOCHS)),
    (
        {"schedule": "step", "schedule_epochs": 2, "schedule_factor": 0.3},
        lambda o: SCHEDULERS.StepLR(o, step_size=2 * STEPS, gamma=0.3),
    ),
    (
        {"schedule": "one_cycle"},
        lambda o: SCHEDULERS.OneCycleLR(o, 0.1, total_steps=STEPS * EPOCHS, cycle_momentum=False),
    ),
    (
        {"schedule": "one_cycle", "warmup_epochs": 3},
        lambda o: SCHEDULERS.OneCycleLR(o, 0.1, total_steps=STEPS * EPOCHS, pct_start=0.5, cycle_momentum=False),
    ),
]


def test_a_run_that_continues_after_its_last_step_keeps_the_rate_of_that_step():
    """Its last checkpoint is then the same as that of a run that was not stopped."""
    values = {"schedule": "one_cycle", "num_epochs": 1, "learning_rate_factors": {"bias": 0.5}}
    state, later = make_state(**values), make_state(**values)
    for _ in range(7):
        state.set_learning_rate()
        state.optimizer.zero_grad()
        state.model(torch.ones(2, 4)).sum().backward()
        state.optimizer.step()
        add_batch(state, 1.0)
    later.load_state_dict(state.state_dict())
    later.set_learning_rate()
    rates = [[group["lr"] for group in each.optimizer.param_groups] for each in (state, later)]
    assert rates[0] == rates[1] and rates[0][0] == 2 * rates[0][1] < 1e-6


@pytest.mark.parametrize(
    ("values", "theirs"), SCHEDULES, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_an_epochs_steps_have_the_rates_of_torchs_schedule(values, theirs):
    state = make_state(learning_rate=0.1, num_epochs=EPOCHS, **values)
    other = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    ours, expected = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = theirs(other)
        for state.epoch in range(EPOCHS):
            state.step = 0
            for _ in state.start_epoch(torch.utils.data.DataLoader(range(STEPS))):
                ours.append(state.optimizer.param_groups[0]["lr"])
                expected.append(other.param_groups[0]["lr"])
                other.step()
                scheduler.step()
                state.step += 1
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12) and len(ours) == STEPS * EPOCHS


def test_warmup_rises_in_a_straight_line_to_the_rate():
    params = utils.Params.from_values({"learning_rate": 0.1, "num_epochs": EPOCHS, "warmup_epochs": 1}, "test")
    rates = [learning_rate(params, step, STEPS) for step in range(STEPS + 2)]
    assert rates == pytest.approx([0.1 * (i + 1) / (STEPS + 1) for i in range(STEPS)] + [0.1, 0.1])


def test_plateau_drops_as_torchs_does():
    values = [0.1, 0.2, 0.2, 0.15, 0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.5]
    state = make_state(learning_rate=0.1, schedule="plateau", schedule_epochs=2, schedule_factor=0.5)
    other = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    # torch's patience counts the epochs that are forgiven: its 1 is our 2
    theirs = SCHEDULERS.ReduceLROnPlateau(other, mode="max", factor=0.5, patience=1, threshold=0.0)
    for value in values:
        state.end_epoch(value, loss=1.0)
        theirs.step(value)
        assert state.set_learning_rate() == pytest.approx(other.param_groups[0]["lr"])
    assert state.num_drops == 3


def test_a_loss_that_is_not_finite_stops_the_run_where_it_is_looked_at():
    for loss in (math.inf, math.nan):
        state = make_state(learning_rate=0.25)
        state.epoch, state.step = 1, 4
        add_batch(state, 1.0)
        add_batch(state, loss)
        add_batch(state, 1.0)  # a later finite loss does not hide it
        message = f"a loss of {loss} in epoch 2, step 7 or before, at learning rate 0.25"
        with pytest.raises(utils.DivergedError, match=message):
            state.check_loss(state.sums.mean_loss())
        with pytest.raises(utils.DivergedError, match=message):
            state.check_weights()


def test_a_batch_without_scored_labels_does_not_count_in_the_mean():
    state = make_state()
    add_batch(state, 1.0)
    add_batch(state, math.nan, labels=(-100, -100))
    assert state.sums.mean_loss() == 1.0
    with torch.no_grad():
        state.model.weight[0, 0] = math.nan  # what its gradient does
    with pytest.raises(utils.DivergedError, match="a weight that is not finite.* its loss is also NaN"):
        state.check_weights()


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_warmup_in_steps_is_the_same_as_in_epochs(schedule):
    in_steps, in_epochs = (
        utils.Params.from_values({"schedule": schedule, "num_epochs": EPOCHS, **values}, "test")
        for values in ({"warmup_steps": 14}, {"warmup_epochs": 2})
    )
    for step in range(STEPS * EPOCHS):
        assert learning_rate(in_steps, step, STEPS) == learning_rate(in_epochs, step, STEPS)
