"""Optimizers: the same numbers as torch's own."""

import copy

import pytest
import torch

import utils
from fiveline.options.optimizer import clip_gradients, fetch_optimizer, parameter_groups
from tests.support.runs import assert_same_bits


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
    ({"optimizer": "adamw", "beta2": 0.9}, lambda w: torch.optim.AdamW(w, lr=0.01, betas=(0.9, 0.9), weight_decay=0.0)),
    ({"optimizer": "sgd", "momentum": 0.0}, lambda w: torch.optim.SGD(w, lr=0.01)),
    ({"optimizer": "sgd", "nesterov": True}, lambda w: torch.optim.SGD(w, lr=0.01, momentum=0.9, nesterov=True)),
    ({"optimizer": "rmsprop"}, lambda w: torch.optim.RMSprop(w, lr=0.01, momentum=0.9)),
    (
        {"optimizer": "adamw", "weight_decay": 0.1, "decay_all": False},
        lambda w: torch.optim.AdamW([{"params": [x], "weight_decay": 0.1 * (x.dim() > 1)} for x in w], lr=0.01),
    ),
]


@pytest.mark.parametrize(("values", "theirs"), OPTIMIZERS, ids=[str(values) for values, _ in OPTIMIZERS])
def test_optimizer_takes_the_steps_of_torchs(values, theirs):
    ours_model, their_model = make_model(), make_model()
    ours = take_steps(ours_model, fetch_optimizer(ours_model, make_params(learning_rate=0.01, **values)))
    torch.testing.assert_close(ours, take_steps(their_model, theirs(their_model.parameters())))


def test_muon_trains_the_first_matrix_and_adamw_the_other_weights():
    ours_model, their_model = make_model(), make_model()
    ours = take_steps(ours_model, fetch_optimizer(ours_model, make_params(optimizer="muon", weight_decay=0.1)))
    settings = {"lr": 1e-3, "weight_decay": 0.1}
    (matrix, *others), moments = their_model.parameters(), torch.zeros(8, 4)
    adamw = torch.optim.AdamW([{"params": others}, {"params": [matrix], "lr": 0.0}], **settings)

    @torch.no_grad()
    def step_of_muon(*_):  # as Jordan's "Muon" (2024) describes it, in float32; lr as in Liu et al. (2025)
        moments.lerp_(matrix.grad, 0.05)
        x = matrix.grad.lerp(moments, 0.95).T
        x = x / x.norm()
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
        matrix.mul_(1 - 1e-3 * 0.1).sub_(1e-3 * 0.2 * 8**0.5 * x.T)

    adamw.register_step_post_hook(step_of_muon)
    torch.testing.assert_close(ours, take_steps(their_model, adamw))


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


def test_learning_rate_factors_give_each_part_of_the_net_its_own_rate():
    model, other = make_model(), make_model()
    params = make_params(learning_rate=0.01, learning_rate_factors={"0": 0.1, "2.bias": 0.0})
    optimizer = fetch_optimizer(model, params)
    for group in optimizer.param_groups:  # as `State.set_learning_rate` does before each step
        group["lr"] = 0.01 * group["factor"]
    groups = [
        {"params": [other[2].weight]},
        {"params": other[0].parameters(), "lr": 0.001},
        {"params": [other[2].bias], "lr": 0.0},
    ]
    torch.testing.assert_close(take_steps(model, optimizer), take_steps(other, torch.optim.Adam(groups, lr=0.01)))
    assert torch.equal(model[2].bias, make_model()[2].bias)


def test_the_longest_start_of_a_name_decides_and_a_start_ends_at_a_dot():
    names = ["conv.weight", "conv.bias", "conv1.weight", "fc.weight"]
    named = [(name, torch.nn.Parameter(torch.ones(1))) for name in names]
    groups = parameter_groups(named, make_params(learning_rate_factors={"conv": 0.5, "conv.bias": 2.0}))
    found = {id(weight): group["factor"] for group in groups for weight in group["params"]}
    assert [found[id(weight)] for _, weight in named] == [0.5, 2.0, 1.0, 1.0]
    words = "learning_rate_factors: no weight's name starts with 'convv'; the net's weights start with: conv, conv1, fc"
    with pytest.raises(utils.InputError, match=words):
        parameter_groups(named, make_params(learning_rate_factors={"convv": 2.0, "conv1": 2.0}))
    with pytest.raises(utils.InputError, match="learning_rate_factors.0: input should be greater than or equal to 0"):
        make_params(learning_rate_factors={"0": -1.0})


@pytest.mark.parametrize("values", [{"optimizer": "muon"}, {"learning_rate_factors": {"0": 0.1}}], ids=str)
def test_an_optimizer_continues_from_a_checkpoint_to_the_same_bits(values):
    params, model, again = make_params(learning_rate=0.01, weight_decay=0.1, **values), make_model(), make_model()
    optimizer = fetch_optimizer(model, params)
    take_steps(model, optimizer)
    again.load_state_dict(model.state_dict())
    restored = fetch_optimizer(again, params)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [group["factor"] for group in restored.param_groups] == [group["factor"] for group in optimizer.param_groups]
    assert_same_bits(take_steps(model, optimizer), take_steps(again, restored))
