"""Rows from CSV files: derivatives by hand, columns, splits, metrics, every mistake in the data, and whole runs."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

import evaluate
import train
import utils
from fiveline.loader import fetch_dataloader
from fiveline.metrics import MetricSums
from model.tabular import net, serve
from model.tabular.columns import MAX_CATEGORIES
from model.tabular.data_loader import fetch_dataset, fetch_facts
from model.tabular.net import Linear, LinearFunction
from model.tabular.params import Params
from model.tabular.readers import read_split, read_table

PROJECT = Path(__file__).resolve().parents[3]
SMALL = "size,color,label\n1,red,a\n2,blue,b\n3,red,a\n4,green,b\n"


def write(folder, **texts):
    """Write CSV files, train="..." into train.csv; where only train is given, val and test are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    if set(texts) == {"train"}:
        texts = dict.fromkeys(("train", "val", "test"), texts["train"])
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return folder


def load(folder, split="train", **values):
    """Return the dataset of a split and the hyperparameters with their facts."""
    params = Params(**{"target": "label", **values})
    params = params.with_facts(fetch_facts(folder, params))
    return fetch_dataset(split, folder, params), params


def mistake(folder, split="train", **values):
    """Return the message with which loading the data fails."""
    with pytest.raises(utils.InputError) as error:
        load(folder, split, **values)
    return str(error.value)


# ---- the linear layer by hand


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)], ids=str)
def test_linear_function_first_and_second_derivatives_are_right(shape, with_bias):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True) if with_bias else None
    assert torch.autograd.gradcheck(LinearFunction.apply, (x, weight, bias))
    assert torch.autograd.gradgradcheck(LinearFunction.apply, (x, weight, bias))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 5, 6)], ids=str)
def test_linear_is_what_nn_linear_is(shape, bias):
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


def test_linear_function_computes_only_the_gradients_asked_for():
    x, weight = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3)
    LinearFunction.apply(x, weight, None).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(2, 3))
    assert weight.grad is None


def test_linear_trains_under_autocast():
    first, second = Linear(3, 4), Linear(4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = second(first(torch.randn(5, 3)).relu())
    assert outputs.dtype == torch.bfloat16
    outputs.float().sum().backward()
    assert first.weight.grad.dtype == torch.float32 and first.weight.grad.abs().sum() > 0


# ---- nets and the loss


@pytest.mark.parametrize("target_type", ["classes", "number"])
@pytest.mark.parametrize(
    "values",
    [{"net": "linear"}, {"net": "two_layer"}, {"net": "mlp", "batch_norm": True, "dropout_rate": 0.5}],
    ids=str,
)
def test_nets_begin_near_the_theoretical_loss_and_alike_with_either_linear_layer(values, target_type):
    facts = {"feature_names": list("abcdef"), "classes": list("xyz"), "target_std": 2.0, "target_mean": 5.0}
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator)
    y = (
        torch.randint(3, (500,), generator=generator)
        if target_type == "classes"
        else x[:, 0] * 0 + torch.randn(500, generator=generator)
    )
    outputs = []
    for linear_layer in ("torch", "custom"):
        torch.manual_seed(1)
        model = net.Net(Params(target_type=target_type, linear_layer=linear_layer, **values).with_facts(facts))
        torch.manual_seed(2)  # dropout's
        outputs.append(model(x))
    assert outputs[0].shape == ((500, 3) if target_type == "classes" else (500,))
    torch.testing.assert_close(outputs[0], outputs[1])
    expected = math.log(3) if target_type == "classes" else 1.0
    assert net.loss_fn(outputs[0], y).item() == pytest.approx(expected, abs=0.35)


def test_two_layer_has_the_seeds_names():
    params = Params(hidden_size=7).with_facts({"feature_names": ["a", "b"], "classes": ["x", "y"]})
    assert {name: tuple(weight.shape) for name, weight in net.Net(params).named_parameters()} == {
        "linear1.weight": (7, 2), "linear1.bias": (7,), "linear2.weight": (2, 7), "linear2.bias": (2,)
    }  # fmt: skip


def test_loss_of_a_quantity_trains_on_outputs_of_a_smaller_type():
    outputs = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    net.loss_fn(outputs, torch.tensor([1.0, 2.0, 3.0])).backward()
    assert outputs.grad.dtype == torch.bfloat16


# ---- metrics


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_class_metrics_equal_scikit_learns(batch_size):
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(100, 4, generator=generator), torch.randint(3, (100,), generator=generator)
    params = Params().with_facts({"classes": list("abcd")})
    values = sums(outputs, labels, batch_size, params)
    called = outputs.argmax(1)
    scores = sklearn.metrics.precision_recall_fscore_support(labels, called, average="macro", zero_division=0)
    assert values["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, called))
    assert [values[f"macro_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(scores[:3])
    assert values["loss"] == pytest.approx(
        sklearn.metrics.log_loss(labels, outputs.double().softmax(1), labels=[0, 1, 2, 3])
    )


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_quantity_metrics_are_in_the_targets_unit_and_equal_scikit_learns(batch_size):
    generator = np.random.default_rng(0)
    mean, std = 150.0, 80.0  # of train; this split has others
    targets = generator.normal(170, 60, size=100)
    predicted = targets + generator.normal(0, 30, size=100)
    params = Params(target_type="number").with_facts({"target_mean": mean, "target_std": std})
    values = sums(standardised(predicted, mean, std), standardised(targets, mean, std), batch_size, params)
    assert values["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(targets, predicted), rel=1e-5)
    assert values["rmse"] == pytest.approx(sklearn.metrics.root_mean_squared_error(targets, predicted), rel=1e-5)
    r2 = 1 - ((targets - predicted) ** 2).sum() / ((targets - mean) ** 2).sum()
    assert values["r2"] == pytest.approx(r2, rel=1e-5)
    assert values["loss"] == pytest.approx(values["rmse"] ** 2 / std**2, rel=1e-5)


def standardised(values, mean, std):
    return torch.from_numpy((values - mean) / std).float()


def sums(outputs, labels, batch_size, params):
    total = MetricSums(net.metrics(params))
    for one, other in zip(outputs.split(batch_size), labels.split(batch_size), strict=True):
        total.add(one, other, net.loss_fn(one, other))
    return total.result()


def test_r2_equals_scikit_learns_where_the_split_has_the_mean_of_train():
    targets = np.array([1.0, 2.0, 6.0, 7.0])
    predicted = np.array([1.5, 2.5, 5.0, 8.0])
    params = Params(target_type="number").with_facts({"target_mean": 4.0, "target_std": 3.0})
    values = sums(standardised(predicted, 4, 3), standardised(targets, 4, 3), 4, params)
    assert values["r2"] == pytest.approx(sklearn.metrics.r2_score(targets, predicted))


def test_predictions_of_classes_name_them():
    params = Params().with_facts({"classes": ["no", "yes"]})
    outputs = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    rows = serve.predictions(outputs, torch.tensor([0, 0]), params)
    assert [row["prediction"] for row in rows] == ["no", "yes"] and [row["label"] for row in rows] == ["no", "no"]
    assert rows[1]["confidence"] == pytest.approx(1 / (1 + math.exp(-3)))
    assert np.mean([row["loss"] for row in rows]) == pytest.approx(net.loss_fn(outputs, torch.tensor([0, 0])).item())
    assert set(serve.predictions(outputs, None, params)[0]) == {"prediction", "confidence"}


def test_predictions_of_a_quantity_are_in_its_unit():
    params = Params(target_type="number").with_facts({"target_mean": 150.0, "target_std": 77.0})
    targets = standardised(np.array([151.0, 25.0]), 150, 77)
    rows = serve.predictions(torch.zeros(2), targets, params)
    assert [row["prediction"] for row in rows] == [150, 150] and [row["label"] for row in rows] == [151, 25]
    assert rows[1]["loss"] == pytest.approx((125 / 77) ** 2)
    assert serve.predictions(torch.zeros(1), None, params) == [{"prediction": 150.0}]


# ---- columns


def test_numbers_are_standardised_by_train_alone(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {"train": generator.normal(5, 3, (30, 2)), "val": generator.normal(9, 1, (10, 2))}
    for name, array in arrays.items():
        array[:, 1] = 0.1  # constant
        rows = "".join(f"{a!r},{b!r},{'xy'[i % 2]}\n" for i, (a, b) in enumerate(array.tolist()))
        write(tmp_path, **{name: "a,b,label\n" + rows})
    scaler = StandardScaler().fit(arrays["train"])
    for split, array in arrays.items():
        dataset, params = load(tmp_path, split)
        np.testing.assert_allclose(dataset.tensors[0], scaler.transform(array), rtol=1e-5, atol=1e-6)
    assert json.loads(json.dumps(params.facts)) == params.facts  # plain values, as the checkpoint needs


def test_missing_numbers_become_the_mean_and_an_indicator(tmp_path):
    write(tmp_path, train="a,b,label\n1,5,x\n?,6,y\n3,7,x\n", val="a,b,label\n2,NA,x\n,6,y\n")
    train_set, params = load(tmp_path)
    val_set, _ = load(tmp_path, "val")
    assert params.facts["feature_names"] == ["a", "a: missing", "b"]
    third = math.sqrt(1.5)
    torch.testing.assert_close(train_set.tensors[0], torch.tensor([[-1, 0, -third], [0, 1, 0], [1, 0, third]]).float())
    torch.testing.assert_close(val_set.tensors[0], torch.tensor([[0, 0, 0], [0, 1, 0]]).float())


def test_categories_have_a_slot_each_and_one_for_the_rest(tmp_path):
    write(tmp_path, train="c,label\nred,x\nblue,y\nred,x\n,y\n", val="c,label\ngreen,x\n red ,y\n?,x\n")
    train_set, params = load(tmp_path)
    val_set, _ = load(tmp_path, "val")
    assert params.facts["feature_names"] == ["c=blue", "c=red", "c: other"]
    assert train_set.tensors[0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert val_set.tensors[0].tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 1]]
    _, params = load(tmp_path, min_category_count=2)
    assert params.facts["feature_names"] == ["c=red", "c: other"]


def test_categorical_may_list_columns_of_numbers(tmp_path):
    write(tmp_path, train="sex,label\n10,x\n2,y\n10,x\n")
    assert load(tmp_path, categorical=["sex"])[1].facts["feature_names"] == ["sex=2", "sex=10", "sex: other"]
    assert load(tmp_path, categorical=[])[1].facts["feature_names"] == ["sex"]


def test_a_column_without_any_value_does_no_harm(tmp_path):
    write(tmp_path, train="a,b,label\n,1,x\n,2,y\n")
    dataset, _ = load(tmp_path)
    assert dataset.tensors[0][:, 0].tolist() == [0, 0] and dataset.tensors[0].shape == (2, 2)


def test_features_can_be_chosen_and_ids_taken_from_a_column(tmp_path):
    write(tmp_path, train="id,a,b,label\nr1,1,5,x\nr2,2,6,y\n")
    dataset, params = load(tmp_path, id_column="id")
    assert params.facts["feature_names"] == ["a", "b"] and dataset.ids == ["r1", "r2"]
    dataset, params = load(tmp_path, features=["b"])
    assert params.facts["feature_names"] == ["b"] and dataset.ids == ["1", "2"]


def test_classes_are_sorted_numbers_by_size(tmp_path):
    write(
        tmp_path, train="a,label\n" + "".join(f"{i},{label}\n" for i, label in enumerate(["10", "9", "x", "-1", "9"]))
    )
    dataset, params = load(tmp_path)
    assert params.classes == ["-1", "9", "10", "x"] and params.facts["class_counts"] == [1, 2, 1, 1]
    assert dataset.tensors[1].tolist() == [2, 1, 3, 0, 1] and dataset.tensors[1].dtype == torch.int64


def test_a_batch_is_fetched_whole(tmp_path):
    write(tmp_path, train=SMALL)
    dataset, params = load(tmp_path)
    features, labels = dataset.__getitems__([2, 0])
    assert features.shape == (2, 5) and features.dtype == torch.float32
    assert torch.equal(features[0], dataset[2][0]) and labels.tolist() == [dataset[2][1], dataset[0][1]]
    batches = list(fetch_dataloader("val", tmp_path, params))
    assert torch.equal(torch.cat([batch[0] for batch in batches]), dataset.tensors[0])


def test_files_may_have_a_byte_order_mark_windows_lines_quotes_and_empty_lines(tmp_path):
    text = '\ufeffa; b ;"label"\r\n1;"2; 3";x\r\n\r\n 2 ;"line\nbreak";y\r\n'
    write(tmp_path)
    (tmp_path / "train.csv").write_bytes(text.encode("utf-8"))
    table = read_table(tmp_path / "train.csv", ";")
    assert table.header == ["a", "b", "label"]
    assert table.rows == [(1, 2, ["1", "2; 3", "x"]), (2, 5, ["2", "line\nbreak", "y"])]


# ---- splits


def test_one_file_is_split_by_seed_and_class(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = "".join(f"{i},{'rare' if i % 10 == 0 else 'often'}\n" for i in range(100))
    write(tmp_path, data="a,label\n" + rows)
    params = Params(target="label", val_fraction=0.2, test_fraction=0.1)
    tables = {split: read_split(split, tmp_path, params) for split in ("train", "val", "test")}
    assert {split: len(table) for split, table in tables.items()} == {"train": 70, "val": 20, "test": 10}
    assert {split: table.column("label").count("rare") for split, table in tables.items()} == {
        "train": 7, "val": 2, "test": 1
    }  # fmt: skip
    assert sorted(row.number for table in tables.values() for row in table.rows) == list(range(1, 101))
    assert "split by split_seed 230: val is 20 of its 100 rows" in caplog.text
    assert read_split("val", tmp_path, params).rows == tables["val"].rows
    other = Params(target="label", val_fraction=0.2, test_fraction=0.1, split_seed=1)
    assert read_split("val", tmp_path, other).rows != tables["val"].rows


def test_val_is_cut_from_train_where_there_is_none(tmp_path):
    write(tmp_path, train=SMALL + "5,red,a\n6,red,b\n", test=SMALL)
    params = Params(target="label")
    rows = [[row.number for row in read_split(split, tmp_path, params).rows] for split in ("train", "val", "test")]
    assert sorted(rows[0] + rows[1]) == [1, 2, 3, 4, 5, 6] and len(rows[1]) == 2 and rows[2] == [1, 2, 3, 4]


def test_digits_rows_are_the_digits_images():
    images = np.load(PROJECT / "data/digits/test.npz")
    table = read_table(PROJECT / "data/digits_rows/test.csv")
    assert [int(digit) for digit in table.column("digit")] == images["labels"].tolist()
    pixels = np.array([table.column(name) for name in table.header if name != "digit"], dtype=int).T
    assert (pixels == images["images"].reshape(-1, 64) // 15).all()


# ---- mistakes


def test_text_in_a_column_of_numbers_is_reported_with_row_and_column(tmp_path):
    write(tmp_path, train=SMALL.replace("\n3,", "\nthree,"))
    message = mistake(tmp_path)
    assert "train.csv, row 3 (line 4), column 'size': found 'three', expected a number" in message
    assert "`categorical`" in message
    write(tmp_path, train=SMALL, val=SMALL.replace("\n2,", "\ntwo,"), test=SMALL)
    assert "val.csv, row 2 (line 3), column 'size': found 'two'" in mistake(tmp_path, "val")


@pytest.mark.parametrize("cell", ["inf", "1e999", "1_000", "0x10", "1.2.3"])
def test_what_is_no_plain_number_is_none(tmp_path, cell):
    write(tmp_path, train=SMALL.replace("\n3,", f"\n{cell},"))
    assert f"row 3 (line 4), column 'size': found {cell!r}" in mistake(tmp_path)


@pytest.mark.parametrize(
    ("train_text", "expected"),
    [
        ("", "train.csv: empty"),
        ("size,color,label\n", "train.csv: holds a header and nothing below"),
        (SMALL + "5,red\n", "row 5 (line 6): found 2 cells, expected 3"),
        (SMALL.replace("color", "size"), "train.csv: 1 name(s) twice in the header, size"),
        (SMALL.replace("size", ""), "column 1 has no name"),
        (SMALL.replace(",", ";"), "with delimiter=';' there are more"),
        (SMALL.replace("label", "labels"), "no column 'label', the target; did you mean 'labels'? It has size, color"),
        (SMALL.replace("red,a", "red,"), "row 1 (line 2), column 'label': found '', expected a target"),
        (SMALL.replace(",b\n", ",a\n"), "column 'label': one class, 'a', in all of its 4 train rows"),
        ("label\na\nb\n", "only the target in it"),
        (SMALL + '5,"red,a\n', "not CSV"),
    ],
)
def test_mistakes_in_train_are_reported(tmp_path, train_text, expected):
    write(tmp_path, train=train_text)
    assert expected in mistake(tmp_path)


@pytest.mark.parametrize(
    ("val_text", "expected"),
    [
        ("size,label\n1,a\n", "val.csv: there is no column 'color', the feature"),
        (SMALL + "5,red,c\n", "row 5 (line 6), column 'label': class 'c' is not among the classes that train had when"),
        (SMALL + "5,red,c\n", "when the run began: a, b; correct it"),
        (SMALL.replace("label", "other"), "val.csv: there is no column 'label', the target"),
    ],
)
def test_mistakes_in_val_are_reported(tmp_path, val_text, expected):
    write(tmp_path, train=SMALL, val=val_text)
    assert expected in mistake(tmp_path, "val")


def test_missing_folders_files_and_columns_are_reported(tmp_path):
    assert "there is no such data directory; --data_dir says" in mistake(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    assert "there is no train.csv in it; it holds notes.txt, expected train.csv" in mistake(tmp_path)
    write(tmp_path, train=SMALL, val=SMALL)
    assert "there is no test.csv" in mistake(tmp_path, "test")
    assert "no column 'colour', the feature; did you mean 'color'?" in mistake(tmp_path, features=["colour"])
    assert "no column 'colour', the one listed in `categorical`" in mistake(tmp_path, categorical=["colour"])
    assert "no column 'key', the id_column" in mistake(tmp_path, id_column="key")
    (tmp_path / "train.csv").write_bytes(b"a,label\n\xff,x\n")
    assert "train.csv, line 2: not UTF-8 text" in mistake(tmp_path)


def test_a_quantity_and_classes_are_not_taken_for_one_another(tmp_path):
    numbers = "a,label\n" + "".join(f"{i},{i * 1.5}\n" for i in range(60))
    write(tmp_path, train=numbers)
    assert "60 different numbers in 60 train rows, such as '88.5', are hardly classes" in mistake(tmp_path)
    write(tmp_path, train=SMALL)
    message = mistake(tmp_path, target_type="number")
    assert "row 1 (line 2), column 'label': found 'a', expected a number" in message and "'classes'" in message
    write(tmp_path, train="a,label\n1,7\n2,7\n")
    assert "found 7 and a standard deviation of 0 in 2 train rows" in mistake(tmp_path, target_type="number")


def test_a_column_of_names_is_not_taken_for_categories(tmp_path):
    rows = "".join(f"name{i},{'xy'[i % 2]}\n" for i in range(MAX_CATEGORIES + 1))
    write(tmp_path, train="name,label\n" + rows)
    assert f"column 'name': {MAX_CATEGORIES + 1} categories" in mistake(tmp_path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"net": "linear", "hidden_size": 64}, "hidden_size: net 'linear' does not look at it"),
        ({"dropout_rate": 0.5}, "dropout_rate: net 'two_layer' does not look at it; net=mlp"),
        ({"features": ["a", "digit"]}, "features: 'digit' is the target"),
        ({"features": ["a", "a"]}, "features: 'a' is in the list twice"),
        ({"features": ["a"], "categorical": ["b"]}, "categorical: 'b' is not in features"),
        ({"features": []}, "features: "),
        ({"id_column": "digit"}, "id_column: 'digit' is the target"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leaves nothing to train on"),
        ({"net": "mlp", "hidden_sizes": [8, 0]}, "hidden_sizes.1: "),
    ],
)
def test_params_that_do_not_fit_together_are_reported(values, expected):
    with pytest.raises(utils.InputError) as error:
        Params.from_values({"task": "tabular", **values}, "params.json")
    assert expected in str(error.value)


def test_a_quantity_is_monitored_by_rmse_unless_the_file_says_otherwise():
    assert Params().monitor == "accuracy" and Params(target_type="number").monitor == "rmse"
    assert Params(target_type="number", monitor="r2").monitor == "r2"


# ---- whole runs


def make_run(folder, **values):
    folder.mkdir()
    params = {"task": "tabular", "num_epochs": 3, "learning_rate": 0.01, **values}
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    return folder


def read_predictions(run):
    with (run / "predictions_test_best.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("linear_layer", ["torch", "custom"])
def test_digits_are_learnt_and_scored(tmp_path, monkeypatch, linear_layer):
    monkeypatch.chdir(PROJECT)
    run = make_run(tmp_path / "run", linear_layer=linear_layer)
    train.main(["--model_dir", str(run)])
    evaluate.main(["--model_dir", str(run)])
    values, rows = utils.read_json(run / "metrics_test_best.json"), read_predictions(run)
    assert values["accuracy"] > 0.9 and len(rows) == 270
    assert values["accuracy"] == pytest.approx(np.mean([row["label"] == row["prediction"] for row in rows]))
    assert len((run / "per_class_test_best.csv").read_text(encoding="utf-8").splitlines()) == 11


def test_a_quantity_is_learnt_and_scored_in_its_unit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(PROJECT)
    values = {"data_dir": "data/diabetes", "target": "progression", "target_type": "number", "categorical": ["sex"]}
    run = make_run(tmp_path / "run", num_epochs=8, **values)
    train.main(["--model_dir", str(run)])
    history = [row["val"]["rmse"] for row in utils.read_lines(run / "history.jsonl")]
    assert utils.read_json(run / "metrics_val_best_weights.json")["rmse"] == min(history)
    train.main(["--model_dir", str(run)])
    assert f"is finished: 8 epochs, best rmse {min(history):.4f}" in capsys.readouterr().out
    evaluate.main(["--model_dir", str(run)])
    values, rows = utils.read_json(run / "metrics_test_best.json"), read_predictions(run)
    labels, predicted = ([float(row[name]) for row in rows] for name in ("label", "prediction"))
    assert values["r2"] > 0.3 and len(rows) == 66 and not (run / "per_class_test_best.csv").exists()
    assert values["rmse"] == pytest.approx(sklearn.metrics.root_mean_squared_error(labels, predicted), rel=1e-5)
    targets = read_table(PROJECT / "data/diabetes/data.csv").column("progression")
    assert labels == [float(targets[int(row["id"]) - 1]) for row in rows]


def test_a_mistake_in_the_data_ends_with_exit_code_2(tmp_path):
    write(tmp_path / "data", train=SMALL.replace("\n3,", "\nthree,"))
    run = make_run(tmp_path / "run", data_dir=str(tmp_path / "data"), target="label")
    with pytest.raises(utils.InputError, match="row 3") as error:
        train.main(["--model_dir", str(run)])
    assert error.value.exit_code == 2 and utils.read_json(run / "run.json")["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "least"), [("tabular_digits_linear", "accuracy", 0.95), ("tabular_digits", "accuracy", 0.97),
                                  ("tabular_diabetes", "r2", 0.45)]
)  # fmt: skip
def test_the_tracked_experiments_reach_what_they_promise(tmp_path, monkeypatch, name, metric, least):
    monkeypatch.chdir(PROJECT)
    values = []
    for seed in (230, 231, 232):
        run = make_run(tmp_path / str(seed))
        (run / "params.json").write_bytes((PROJECT / "experiments" / name / "params.json").read_bytes())
        train.main(["--model_dir", str(run), f"seed={seed}"])
        evaluate.main(["--model_dir", str(run)])
        values.append(utils.read_json(run / "metrics_test_best.json")[metric])
    assert np.mean(values) >= least
