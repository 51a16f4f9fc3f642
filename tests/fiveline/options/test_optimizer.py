"""Optimizers: the same numbers as torch's own."""

import pytest
import torch

import utils
from fiveline.options.optimizer import clip_gradients, fetch_optimizer


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
    clip_gradients(optimizer, max_norm=0.5)
    take_steps(model, optimizer, num_steps=1, scale=1000.0)
    norm = torch.linalg.vector_norm(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    assert norm == pytest.approx(0.5, rel=1e-4)


def test_frozen_weights_are_left_out():
    model = make_model()
    model[0].requires_grad_(False)
    optimizer = fetch_optimizer(model, make_params())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    model.requires_grad_(False)
    with pytest.raises(utils.InputError, match="no weights to train"):
        fetch_optimizer(model, make_params())
