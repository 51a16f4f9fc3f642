"""Optimizers and schedules: the same numbers as torch's own."""

import math
import warnings

import pytest
import torch

import utils
from fiveline.options.divergence import DivergenceWatch
from fiveline.options.optimizer import Schedule, fetch_optimizer


def make_params(**values):
    return utils.Params.from_values(values, "test")


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def take_steps(model, optimizer, num_steps=5, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        inputs = torch.randn(6, 4, generator=generator)
        optimizer.zero_grad()
        (scale * model(inputs).square().mean()).backward()
        optimizer.step()
    return [weight.detach().clone() for weight in model.parameters()]


OPTIMIZERS = [
    ({"optimizer": "adam"}, lambda w: torch.optim.Adam(w, lr=0.01)),
    ({"optimizer": "adam", "weight_decay": 0.1}, lambda w: torch.optim.Adam(w, lr=0.01, weight_decay=0.1)),
    ({"optimizer": "adamw", "weight_decay": 0.1}, lambda w: torch.optim.AdamW(w, lr=0.01, weight_decay=0.1)),
    ({"optimizer": "sgd", "momentum": 0.0}, lambda w: torch.optim.SGD(w, lr=0.01)),
    ({"optimizer": "sgd", "nesterov": True}, lambda w: torch.optim.SGD(w, lr=0.01, momentum=0.9, nesterov=True)),
    ({"optimizer": "rmsprop"}, lambda w: torch.optim.RMSprop(w, lr=0.01, momentum=0.9)),
]


@pytest.mark.parametrize(
    ("values", "theirs"), OPTIMIZERS, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_optimizer_takes_the_steps_of_torchs(values, theirs):
    ours_model, their_model = make_model(), make_model()
    ours = take_steps(ours_model, fetch_optimizer(ours_model, make_params(learning_rate=0.01, **values)))
    expected = take_steps(their_model, theirs(their_model.parameters()))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_clipping_bounds_the_gradient_of_all_weights_together():
    model = make_model()
    optimizer = fetch_optimizer(model, make_params())
    DivergenceWatch(optimizer, list(model.parameters()), max_norm=0.5)
    take_steps(model, optimizer, num_steps=1, scale=1000.0)
    norm = torch.linalg.vector_norm(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    assert norm == pytest.approx(0.5, rel=1e-4)


def test_watching_without_clipping_changes_nothing():
    models = make_model(), make_model()
    watched = fetch_optimizer(models[0], make_params())
    DivergenceWatch(watched, list(models[0].parameters()), max_norm=None)
    ours, theirs = take_steps(models[0], watched), take_steps(models[1], fetch_optimizer(models[1], make_params()))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_gradient_that_is_not_finite_stops_before_the_weights_have_seen_it():
    model = make_model()
    optimizer = fetch_optimizer(model, make_params(learning_rate=0.25))
    watch = DivergenceWatch(optimizer, list(model.parameters()), max_norm=1.0)
    before = take_steps(model, optimizer, num_steps=2)
    watch.set_position(epoch=3, step=12)
    with pytest.raises(utils.DivergedError, match="norm nan in epoch 3, step 13, at learning rate 0.25"):
        take_steps(model, optimizer, num_steps=1, scale=float("nan"))
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_frozen_weights_are_left_out():
    model = make_model()
    model[0].requires_grad_(False)
    optimizer = fetch_optimizer(model, make_params())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    model.requires_grad_(False)
    with pytest.raises(utils.InputError, match="no weights to train"):
        fetch_optimizer(model, make_params())


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


def learning_rates(optimizer, schedule, num_steps):
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("values", "theirs"), SCHEDULES, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_schedule_gives_the_rates_of_torchs(values, theirs):
    model = make_model()
    params = make_params(learning_rate=0.1, num_epochs=EPOCHS, **values)
    optimizer = fetch_optimizer(model, params)
    ours = learning_rates(optimizer, Schedule(optimizer, params, STEPS), STEPS * EPOCHS)
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = learning_rates(other, theirs(other), STEPS * EPOCHS)
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_warmup_rises_in_a_straight_line_to_the_rate():
    params = make_params(learning_rate=0.1, num_epochs=EPOCHS, warmup_epochs=1)
    optimizer = fetch_optimizer(make_model(), params)
    rates = learning_rates(optimizer, Schedule(optimizer, params, STEPS), STEPS + 2)
    assert rates == pytest.approx([0.1 * (i + 1) / (STEPS + 1) for i in range(STEPS)] + [0.1, 0.1])


def test_plateau_drops_as_torchs_does():
    values = [0.1, 0.2, 0.2, 0.15, 0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.5]
    params = make_params(learning_rate=0.1, schedule="plateau", schedule_epochs=2, schedule_factor=0.5)
    optimizer = fetch_optimizer(make_model(), params)
    schedule = Schedule(optimizer, params, STEPS)
    other = torch.optim.SGD(make_model().parameters(), lr=0.1)
    # torch's patience counts the epochs that are forgiven: its 1 is our 2
    theirs = SCHEDULERS.ReduceLROnPlateau(other, mode="max", factor=0.5, patience=1, threshold=0.0)
    best = 0.0
    for value in values:
        schedule.end_epoch(value > best)
        best = max(best, value)
        theirs.step(value)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])
    assert schedule.num_drops == 3


def test_schedule_continues_from_its_state():
    params = make_params(learning_rate=0.1, num_epochs=EPOCHS, schedule="cosine", warmup_epochs=0.5)
    optimizer = fetch_optimizer(make_model(), params)
    schedule = Schedule(optimizer, params, STEPS)
    whole = learning_rates(optimizer, schedule, 20)
    again = fetch_optimizer(make_model(), params)
    continued = Schedule(again, params, STEPS)
    first = learning_rates(again, continued, 9)
    later = fetch_optimizer(make_model(), params)
    restored = Schedule(later, params, STEPS)
    restored.load_state_dict(continued.state_dict())
    assert first + learning_rates(later, restored, 11) == whole


def test_a_loss_that_is_not_finite_stops_at_its_step():
    model = make_model()
    watch = DivergenceWatch(fetch_optimizer(model, make_params()), list(model.parameters()), max_norm=None)
    watch.set_position(epoch=2, step=4)
    watch.look(torch.tensor(1.0))
    with pytest.raises(utils.DivergedError, match="a loss of inf in epoch 2, step 6"):
        watch.look(torch.tensor(math.inf))
    for labels, told in (
        (torch.tensor([-100, -100]), r"loss of nan \(the mean .* all -100\) in"),
        (torch.tensor([1, -100]), "nan in"),
    ):
        with pytest.raises(utils.DivergedError, match=told):
            watch.look(torch.tensor(math.nan), labels)
