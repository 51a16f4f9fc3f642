"""Every folder of model/ keeps the contract: a new task is tested the moment its folder exists."""

import functools
import importlib
import json
import math
from pathlib import Path

import pytest
import torch

import evaluate
import train
import utils
from fiveline.device import map_tensors, seed_everything, tensors_of
from fiveline.loader import fetch_dataloader
from fiveline.options.optimizer import fetch_optimizer
from fiveline.tasks import fetch_facts, fetch_params_class, fetch_serve, fetch_task, list_tasks
from tests.support.tasks import PROJECT

SMALL = {"batch_size": 8, "num_epochs": 1, "learning_rate": 0.005}
WITHOUT_CHANCE = {"dropout_rate": 0.0, "word_dropout_rate": 0.0}  # for whoever has them
OWN_RATES = {"text": 1e-3}  # a transformer needs a lower learning rate than SMALL's


@pytest.fixture(scope="module", params=list_tasks())
def task(request):
    return request.param


@pytest.fixture(scope="module")
def params(task):
    params_class = fetch_params_class(task)
    values = {**SMALL, **{name: value for name, value in WITHOUT_CHANCE.items() if name in params_class.model_fields}}
    params = params_class.from_values(values, task)
    params = params.model_copy(update={"data_dir": str(PROJECT / params.data_dir)})
    return fetch_facts(Path(params.data_dir), params)


@pytest.fixture(scope="module")
def net(params):
    return fetch_task(params)


@pytest.fixture
def model(net, params):
    seed_everything(params.seed)
    return net.Net(params)


@pytest.fixture(scope="module")
def dataset(params):
    """The val split, as the task makes it."""
    return fetch_dataloader("val", Path(params.data_dir), params).dataset


def outputs_of(model, inputs):
    model.eval()
    with torch.inference_mode():
        return model(inputs)


def test_params_of_a_task_know_their_own_task_and_data(task):
    params = fetch_params_class(task)()
    assert params.task == task
    assert (PROJECT / params.data_dir).is_dir(), "the default data_dir ships with the project"


@pytest.mark.parametrize(("file", "hint"), [("build_dataset.py", "python {}"), ("README.md", "see {}")])
def test_data_that_is_not_there_is_reported_with_how_to_get_it(task, params, tmp_path, file, hint):
    (tmp_path / file).write_text("# how to get it\n")
    has_facts = hasattr(importlib.import_module(f"model.{task}.data_loader"), "fetch_facts")
    for fetch in [functools.partial(fetch_dataloader, "train"), *([fetch_facts] if has_facts else [])]:
        with pytest.raises(utils.InputError) as caught:
            fetch(tmp_path, params)
        assert str(caught.value).endswith(f". If files are missing: {hint.format(tmp_path / file)}")


def test_the_initial_loss_is_near_its_theoretical_value(model, net, dataset):
    inputs, labels = dataset.__getitems__([*range(min(64, len(dataset)))])
    outputs = outputs_of(model, inputs)
    loss = net.loss_fn(outputs, labels)
    assert loss.shape == () and loss.isfinite()
    # outputs of 0 know nothing: each class is equally likely, a standardised number is at its mean
    expected = net.loss_fn(map_tensors(torch.zeros_like, outputs), labels).item()
    assert loss.item() == pytest.approx(expected, rel=0.35)
    if torch.is_tensor(outputs) and outputs.shape[:-1] == labels.shape:  # the classes come last
        assert expected == pytest.approx(math.log(outputs.shape[-1]), rel=1e-5)


def test_the_training_loss_can_be_driven_down_on_one_batch(model, net, task, params):
    own = params.model_copy(update={"learning_rate": OWN_RATES.get(task, params.learning_rate)})
    optimizer = fetch_optimizer(model, own)
    batch = next(iter(fetch_dataloader("train", Path(params.data_dir), params, training=True)))
    losses = [train.train_step(model.train(), optimizer, net.train_loss_fn, *batch)[1].item() for _ in range(100)]
    assert min(losses[-10:]) < 0.2 * losses[0], f"from {losses[0]:.3f} to {losses[-1]:.3f}"


def test_in_eval_mode_an_output_depends_on_its_own_example_only(model, dataset):
    inputs, labels = dataset.__getitems__([*range(9)])
    together = outputs_of(model, inputs)
    assert all(len(tensor) == 9 for tensor in tensors_of([inputs, together, labels]))
    for index in range(9):
        alone = outputs_of(model, dataset.__getitems__([index])[0])
        for one, every in zip(tensors_of(alone), tensors_of(together), strict=True):
            region = tuple(slice(0, size) for size in one[0].shape)  # in a batch, it may be padded to a greater length
            torch.testing.assert_close(one[0], every[index][region], rtol=1e-4, atol=1e-5)


def test_metrics_do_not_depend_on_the_batch_size(model, net, params):
    found = []
    for batch_size in (7, 64):
        sized = params.model_copy(update={"batch_size": batch_size}).with_facts(params.facts)
        dataloader = fetch_dataloader("val", Path(params.data_dir), sized)
        found.append(evaluate.evaluate(model, net.loss_fn, dataloader, net.metrics))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert set(found[0]) == {*net.metrics, "loss"}
    assert net.sign(params.monitor) in (-1, 1)  # the default monitor is one of them


def test_predictions_have_a_row_for_each_example(model, task, params, dataset):
    serve = fetch_serve(task)
    if serve is None:
        pytest.skip(f"{task} has no serve.py, which is optional")
    inputs, labels = dataset.__getitems__([*range(6)])
    outputs = outputs_of(model, inputs)
    rows = serve.predictions(outputs, labels, params)
    assert len(rows) == 6 and all({"label", "prediction", "loss"} <= row.keys() for row in rows)
    unlabelled = serve.predictions(outputs, None, params)
    assert len(unlabelled) == 6 and not any("label" in row or "loss" in row for row in unlabelled)
    for with_label, without in zip(rows, unlabelled, strict=True):  # only labels tell where a sentence's padding begins
        assert str(without["prediction"]).startswith(str(with_label["prediction"]))


def test_a_run_directory_is_complete(task, params, tmp_path):
    tiny = {"image_size": 16, "num_channels": 4, "width": 16, "num_layers": 1, "tokens_per_epoch": 4096}
    values = {name: value for name, value in tiny.items() if name in type(params).model_fields}
    values |= {"task": task, "num_epochs": 1, "data_dir": params.data_dir}
    (tmp_path / "params.json").write_text(json.dumps(values))
    train.main(["--model_dir", str(tmp_path)])
    evaluate.main(["--model_dir", str(tmp_path), "--split", "val"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"history.jsonl", "last.pth.tar", "predictions_val_best.csv"}
    assert utils.read_json(tmp_path / "run.json")["status"] == "finished"
    val = utils.read_json(tmp_path / "metrics_val_best.json")
    assert val == pytest.approx(utils.read_json(tmp_path / "metrics_val_best_weights.json"), rel=1e-5)
