"""The position of a run and what follows from it: the learning rate, what is best, when the run has diverged."""

import math

import pytest
import torch

import utils
from fiveline.jobs.one import OneProcess
from fiveline.options.optimizer import fetch_optimizer
from fiveline.options.schedule import fetch_schedule
from fiveline.state import State

STEPS = 7


def make_state(**values):
    params = utils.Params.from_values(values, "test")
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    metrics = {"accuracy": lambda outputs, labels: ((outputs.argmax(1) == labels).sum(), len(labels))}
    optimizer, schedule = fetch_optimizer(model, params), fetch_schedule(params, STEPS)
    return State(model, optimizer, params, schedule, 1, metrics, OneProcess())


def add_batch(state, loss, labels=(0, 1)):
    state.sums.add(torch.zeros(len(labels), 2), torch.tensor(labels), torch.tensor(loss))
    state.step += 1


def rates_of(state):
    return [group["lr"] for group in state.optimizer.param_groups]


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_each_step_has_its_rate_and_a_run_that_continues_after_the_last_step_keeps_the_last_rate(schedule):
    """Its last checkpoint is then the same as that of a run that was not stopped."""
    values = {"schedule": schedule, "num_epochs": 1, "learning_rate_factors": {"bias": 0.5}}
    state, later = make_state(**values), make_state(**values)
    for inputs in state.start_epoch(torch.utils.data.DataLoader(torch.ones(STEPS, 4))):
        rate = state.schedule.rate(state.step)
        assert rates_of(state) == [rate, 0.5 * rate]
        state.optimizer.zero_grad()
        state.model(inputs).sum().backward()
        state.optimizer.step()
        add_batch(state, 1.0)
    later.load_state_dict(state.state_dict())
    later.set_learning_rate()
    assert rates_of(later) == rates_of(state)
    assert (rate < 1e-6) == (schedule == "one_cycle")


def test_plateau_drops_as_torchs_does():
    values = [0.1, 0.2, 0.2, 0.15, 0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.5]
    state = make_state(learning_rate=0.1, schedule="plateau", schedule_epochs=2, schedule_factor=0.5)
    other = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    # torch's patience counts the epochs that are forgiven: its 1 is our 2
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(other, mode="max", factor=0.5, patience=1, threshold=0.0)
    for value in values:
        state.end_epoch(value, loss=1.0)
        theirs.step(value)
        assert state.set_learning_rate() == pytest.approx(other.param_groups[0]["lr"])
    assert state.num_drops == 3


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_stops_the_run_where_it_is_looked_at(loss):
    state = make_state(learning_rate=0.25)
    state.epoch, state.step = 1, 4
    for each in (1.0, loss, 1.0):  # a later finite loss does not hide it
        add_batch(state, each)
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
