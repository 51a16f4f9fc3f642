"""Nets for rows: the linear layer by hand, the loss, the metrics, predictions, hyperparameters, and whole runs."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import nn

import evaluate
import utils
from fiveline.metrics import MetricSums
from model.tabular import net, serve
from model.tabular.net import Linear, LinearFunction
from model.tabular.params import Params
from model.tabular.readers import read_table
from tests.support.data import read_csv, refusal
from tests.support.runs import finish, write_params
from tests.support.tasks import PROJECT


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (2, 5, 6)], ids=str)
def test_linear_is_what_nn_linear_is_and_its_derivatives_are_right(shape, bias):
    layers = []
    for layer in (Linear, nn.Linear):
        torch.manual_seed(0)
        layers.append(layer(6, 3, bias=bias))
    ours, theirs = layers
    assert ours.state_dict().keys() == theirs.state_dict().keys() and repr(ours) == repr(theirs)
    x = torch.randn(shape)
    torch.testing.assert_close(ours(x), theirs(x))
    for layer in layers:
        layer(x).square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one.grad, other.grad)
    ours, x = ours.double(), x.double().requires_grad_()
    inputs = (x, ours.weight, ours.bias)
    assert torch.autograd.gradcheck(LinearFunction.apply, inputs)
    assert torch.autograd.gradgradcheck(LinearFunction.apply, inputs)


def test_linear_and_the_loss_of_a_number_train_under_autocast():
    first, second = Linear(3, 4), Linear(4, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = second(first(torch.randn(5, 3)).relu()).squeeze(1)
    assert outputs.dtype == torch.bfloat16
    net.loss_fn(outputs, torch.arange(5.0)).backward()
    assert first.weight.grad.dtype == torch.float32 and first.weight.grad.abs().sum() > 0


def sums(outputs, labels, batch_size, params):
    total = MetricSums(net.metrics(params))
    for one, other in zip(outputs.split(batch_size), labels.split(batch_size), strict=True):
        total.add(one, other, net.loss_fn(one, other))
    return total.result()


@pytest.mark.parametrize("batch_size", [1, 7])
def test_class_metrics_equal_scikit_learns(batch_size):
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(100, 4, generator=generator), torch.randint(3, (100,), generator=generator)
    params = Params().with_facts({"classes": list("abcd")})
    values, predicted = sums(outputs, labels, batch_size, params), outputs.argmax(1)
    scores = sklearn.metrics.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    assert values["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert [values[f"macro_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(scores[:3])
    log_loss = sklearn.metrics.log_loss(labels, outputs.double().softmax(1), labels=range(4))
    rows = serve.predictions(outputs, labels, params)
    assert values["loss"] == pytest.approx(log_loss) == np.mean([row["loss"] for row in rows])
    for name, numbers in (("prediction", predicted), ("label", labels)):
        assert [row[name] for row in rows] == ["abcd"[number] for number in numbers]
    assert rows[5]["confidence"] == pytest.approx(outputs[5].softmax(0).max().item())
    assert serve.predictions(outputs, None, params)[0].keys() == {"prediction", "confidence"}


@pytest.mark.parametrize(("batch_size", "start"), [(1, 0), (7, 1_700_000_000)])  # the second is large and narrow
def test_metrics_and_predictions_of_a_number_are_in_its_unit_and_equal_scikit_learns(batch_size, start):
    generator = np.random.default_rng(0)
    mean, std = start + 150.0, 80.0  # of train; this split has others
    targets = start + generator.normal(170, 60, size=100)
    predicted = targets + generator.normal(0, 30, size=100)
    params = Params(target_type="number").with_facts({"target_mean": mean, "target_std": std})
    outputs, labels = (torch.from_numpy((values - mean) / std).float() for values in (predicted, targets))
    rmse = sklearn.metrics.root_mean_squared_error(targets, predicted)
    expected = {
        "mae": sklearn.metrics.mean_absolute_error(targets, predicted), "rmse": rmse, "loss": rmse**2 / std**2,
        "r2": 1 - ((targets - predicted) ** 2).sum() / ((targets - mean) ** 2).sum(),
    }  # fmt: skip
    assert sums(outputs, labels, batch_size, params) == pytest.approx(expected, rel=1e-5)
    rows = serve.predictions(outputs, labels, params)
    shown = {key: [row[key] for row in rows] for key in ("prediction", "label", "loss")}
    np.testing.assert_allclose(shown["prediction"], predicted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(shown["label"], targets, rtol=0, atol=1e-4)
    np.testing.assert_allclose(shown["loss"], ((targets - predicted) / std) ** 2, rtol=1e-4, atol=1e-6)
    assert serve.predictions(torch.zeros(1), None, params) == [{"prediction": mean}]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"net": "linear", "hidden_size": 64}, "hidden_size: net 'linear' does not look at it"),
        ({"dropout_rate": 0.5}, "dropout_rate: net 'two_layer' does not look at it; net=mlp"),
        ({"features": ["a", "digit"]}, "features: 'digit' is the target"),
        ({"features": ["a"], "categorical": ["b"]}, "categorical: 'b' is not in features"),
        ({"id_column": "digit"}, "id_column: 'digit' is the target"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leaves nothing to train on"),
    ],
)
def test_params_that_do_not_fit_together_are_reported(values, expected):
    assert expected in refusal(Params.from_values, {"task": "tabular", **values}, "params.json")


def test_a_number_is_learnt_and_scored_in_its_unit_and_monitored_by_rmse(tmp_path):
    values = {"target": "progression", "target_type": "number", "categorical": ["sex"], "num_epochs": 8}
    data_dir = PROJECT / "data/diabetes"
    run = write_params(tmp_path / "run", task="tabular", data_dir=str(data_dir), learning_rate=0.01, **values)
    history = [row["val"]["rmse"] for row in utils.read_lines(finish(run) / "history.jsonl")]
    assert utils.read_json(run / "metrics_val_best_weights.json")["rmse"] == min(history)
    evaluate.main(["--model_dir", str(run)])
    values, rows = utils.read_json(run / "metrics_test_best.json"), read_csv(run / "predictions_test_best.csv")
    labels, predicted = ([float(row[name]) for row in rows] for name in ("label", "prediction"))
    assert values["r2"] > 0.3 and len(rows) == 66 and not (run / "per_class_test_best.csv").exists()
    assert values["rmse"] == pytest.approx(sklearn.metrics.root_mean_squared_error(labels, predicted), rel=1e-5)
    targets = read_table(data_dir / "data.csv").column("progression")
    assert labels == [float(targets[int(row["id"]) - 1]) for row in rows]
    assert Params(target_type="number", monitor="r2").monitor == "r2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "least"),
    [("digits_linear", "accuracy", 0.95), ("digits", "accuracy", 0.97), ("diabetes", "r2", 0.45)],
)
def test_the_tracked_experiments_reach_what_they_promise(tmp_path, monkeypatch, name, metric, least):
    monkeypatch.chdir(PROJECT)
    values = utils.read_json(PROJECT / f"experiments/tabular_{name}/params.json")
    run = write_params(tmp_path / "run", **values)
    evaluate.main(["--model_dir", str(finish(run))])
    assert utils.read_json(run / "metrics_test_best.json")[metric] >= least
