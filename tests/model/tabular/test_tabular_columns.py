"""Columns that differ between train and later data, spellings of a category, targets, ids, and old checkpoints."""

import csv
import json
import math
import unicodedata

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

import evaluate
import export
import predict
import train
import utils
from model.tabular import net, serve
from model.tabular.columns import category_of, is_disguised, mean_and_std
from model.tabular.data_loader import RowDataset, fetch_dataset, fetch_facts
from model.tabular.params import Params
from model.tabular.readers import read_table
from model.tabular.serve import describe_inputs


def write(folder, header, **splits):
    """Write rows as CSV files: train=[...] into train.csv; val and test are train where they are not given."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        rows = splits.get(split, splits["train"])
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header.split(","), *rows])
    return folder


def fetch(folder, **values):
    """Return hyperparameters with their facts."""
    params = Params(**{"target": "y", **values})
    return params.with_facts(fetch_facts(folder, params))


def inputs(folder, split, params):
    return fetch_dataset(split, folder, params).tensors[0].numpy()


def refusal(call, *args, **values):
    with pytest.raises(utils.InputError) as error:
        call(*args, **values)
    return str(error.value)


def rows_of(cell, number=60, later=None):
    """Return rows of x, a cell, and a class that x decides."""
    return [[i % 7, later or (cell(i) if callable(cell) else cell), "yn"[i % 7 > 3]] for i in range(number)]


# ---- what train cannot judge has no say later


@pytest.mark.parametrize(
    ("in_train", "later"),
    [
        ("", "1500"), ("", "text"), ("5", "1500"), ("5", ""), ("5", "text"), ("red", "blue"), ("red", ""),
        (lambda i: ["0.3", repr(0.1 + 0.2)][i % 2], "900"),
        (lambda i: ["0.1", "0.10000000000001"][i % 2], "900"),
    ],
)  # fmt: skip
def test_a_column_that_does_not_vary_in_train_is_the_same_for_every_row(tmp_path, caplog, in_train, later):
    caplog.set_level("INFO")
    write(tmp_path, "x,b,y", train=rows_of(in_train), test=rows_of(in_train, later=later))
    params = fetch(tmp_path)
    features = np.concatenate([inputs(tmp_path, split, params)[:, 1:] for split in ("train", "test")])
    assert (features == features[0]).all() and np.abs(features).max() <= 1
    assert "1 column(s) do not vary in train and are ignored: 'b'" in caplog.text


def test_later_values_neither_explode_nor_reach_weights_that_nothing_trained(tmp_path, caplog):
    generator = np.random.default_rng(0)
    rows = [[f"{value:.3g}", "ab"[i % 2], "", "yn"[i % 3 > 0]] for i, value in enumerate(generator.normal(size=60))]
    for row in rows[:5]:
        row[2] = "1"
    write(tmp_path, "n,c,m,y", train=rows, test=[["1e29", "new", "1e29", "y"], ["", "new", "", "y"]])
    params = fetch(tmp_path)
    numbers = np.array([float(row[0]) for row in rows])
    highest = max(numbers.max(), numbers.mean() + 5 * numbers.std())
    limited = (highest - numbers.mean()) / numbers.std()
    shares = [0.5, 0.5, 0]
    expected = [[limited, *shares, 0, 0], [0, *shares, 0, 1]]
    np.testing.assert_allclose(inputs(tmp_path, "test", params), expected, rtol=1e-6)
    for line in (
        "WARNING: column 'n': 1 of 2 rows of test (50.0%) are far outside train's range and are limited to it;",
        "WARNING: column 'n': 1 of 2 rows of test (50.0%) hold no value, unlike train",
        "WARNING: column 'c': 2 of 2 rows of test (100.0%) hold a category that train does not have, or too rarely",
    ):
        assert line in caplog.text


def test_data_without_a_column_that_varies_is_refused(tmp_path):
    write(tmp_path, "b,c,y", train=[["5", "red", "yn"[i % 2]] for i in range(10)])
    assert "no column to predict from varies in its 10 train rows ('b', 'c')" in refusal(fetch, tmp_path)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e-30, 1.0, 1e29])
def test_numbers_of_any_size_are_standardised(size):
    mean, std = mean_and_std(np.array([1.0, 2.0, 3.0]) * size)
    assert mean == pytest.approx(2 * size, rel=1e-9) and std == pytest.approx(math.sqrt(2 / 3) * size, rel=1e-9)


def test_a_large_and_narrow_column_is_standardised_and_can_be_learnt_from(tmp_path, caplog):
    caplog.set_level("INFO")
    times = np.random.default_rng(0).integers(1_700_000_000, 1_700_000_101, size=200)
    rows = [[int(time), "5", int(time > 1_700_000_050)] for time in times]
    folder = write(tmp_path / "data", "t,k,y", train=rows)
    params = fetch(folder)
    expected = StandardScaler().fit_transform(times[:, None].astype(float))[:, 0]
    np.testing.assert_allclose(inputs(folder, "train", params)[:, 0], expected, atol=1e-6)
    assert "1 column(s) do not vary in train and are ignored: 'k'" in caplog.text
    steps = describe_inputs(params)["steps"]
    assert any("(number - mean) / std in float64" in step for step in steps) and "float32, and only then" in steps[-1]
    stated = np.stack([follow(describe_inputs(params), {"t": str(time), "k": "5"}) for time in times])
    np.testing.assert_array_equal(inputs(folder, "train", params), stated)
    run = make_run(tmp_path / "run", data_dir=str(folder), num_epochs=8)
    train.main(["--model_dir", str(run)])
    assert utils.read_json(run / "metrics_val_best_weights.json")["accuracy"] > 0.95


@pytest.mark.parametrize("start", [0, 1_700_000_000])
def test_errors_of_a_large_and_narrow_target_are_in_its_unit(tmp_path, start):
    generator = np.random.default_rng(0)
    values = start + generator.integers(0, 100, size=50).astype(float)
    write(tmp_path, "a,y", train=[[i % 7, value] for i, value in enumerate(values.tolist())])
    params = fetch(tmp_path, target_type="number")
    labels = fetch_dataset("train", tmp_path, params).tensors[1]
    outputs = torch.from_numpy(generator.normal(size=50)).float()
    predicted, known = (
        [row[key] for row in serve.predictions(outputs, labels, params)] for key in ("prediction", "label")
    )
    np.testing.assert_allclose(known, values, rtol=0, atol=1e-4)
    metrics = {name: [part.double() for part in metric(outputs, labels)]
               for name, metric in net.metrics(params).items()}  # fmt: skip
    errors = np.array(predicted) - values
    assert metrics["mae"][0] / metrics["mae"][1] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert (metrics["rmse"][0] / metrics["rmse"][1]).sqrt() == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)


def test_a_run_scores_as_if_a_column_that_is_empty_in_train_were_not_there(tmp_path):
    generator = np.random.default_rng(0)
    values = {split: generator.normal(size=number) for split, number in (("train", 200), ("val", 60), ("test", 60))}
    confidences = {}
    for later in ("", "1500"):
        rows = {split: [[f"{x:.3f}", later * (split == "test"), "yn"[int(x > 0)]] for x in each]
                for split, each in values.items()}  # fmt: skip
        folder = write(tmp_path / f"data{later}", "x,bonus,y", **rows)
        run = make_run(tmp_path / f"run{later}", data_dir=str(folder), num_epochs=3)
        train.main(["--model_dir", str(run)])
        evaluate.main(["--model_dir", str(run)])
        confidences[later] = [row["confidence"] for row in read_csv(run / "predictions_test_best.csv")]
        assert utils.read_json(run / "metrics_test_best.json")["accuracy"] > 0.9
    assert confidences[""] == confidences["1500"]


# ---- one category, many spellings


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("1", "1."), ("1", "1e0"), ("100", "1E2"), ("0", "-0.0"), ("0.5", ".5"), ("2", "+2.00"),
     ("12345678901234567890", "12345678901234567890.0"), (unicodedata.normalize("NFC", "Zoë"),
                                                          unicodedata.normalize("NFD", "Zoë"))],
)  # fmt: skip
def test_equal_cells_are_one_category(tmp_path, caplog, one, other):
    assert category_of(one) == category_of(other)
    write(tmp_path, "c,y", train=[[one, "y"], ["9", "n"], ["x", "n"]], test=[[f" {other} ", "y"], ["9.0", "n"]])
    params = fetch(tmp_path, categorical=["c"])
    np.testing.assert_array_equal(inputs(tmp_path, "test", params), inputs(tmp_path, "train", params)[:2])
    assert "category that train" not in caplog.text


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "01"), ("02134", "2134"), ("12345678901234567890", "12345678901234567891"), ("1", "1_0"), ("1", "١"),
     ("Red", "red"), ("1e400", "inf"), ("2024_01", "202401"), ("1", "1,0")],
)  # fmt: skip
def test_different_cells_are_different_categories(one, other):
    assert category_of(one) != category_of(other)


def test_classes_and_missing_values_are_compared_as_categories_are(tmp_path):
    rows = [["3", "1"], ["4", "2"], ["-999", "2.0"], ["-999.0", "02"]]
    write(tmp_path, "a,y", train=rows, test=[["-999.00", "1.0"], ["3.0", "2e0"]])
    params = fetch(tmp_path, missing=["-999"])
    assert params.classes == ["1", "02", "2"] and params.facts["class_counts"] == [1, 1, 2]
    assert fetch_dataset("test", tmp_path, params).tensors[1].tolist() == [0, 2]
    assert inputs(tmp_path, "test", params)[0].tolist() == [0, 1]
    write(tmp_path, "a,y", train=[["1", "-999.0"], ["2", "5"]])
    message = refusal(fetch, tmp_path, missing=["-999"], target_type="number")
    assert "row 1 (line 2), column 'y': found '-999.0', expected a target" in message


def test_names_of_columns_may_be_in_either_unicode_form(tmp_path):
    forms = [unicodedata.normalize(form, "größe") for form in ("NFC", "NFD")]
    write(tmp_path, f"{forms[1]},y", train=[["1", "a"], ["2", "b"]], test=[["2", "a"]])
    (tmp_path / "test.csv").write_text(f"y,more,{forms[0]}\na,,2\n", encoding="utf-8")
    params = fetch(tmp_path, features=[forms[1]])
    np.testing.assert_array_equal(inputs(tmp_path, "test", params), inputs(tmp_path, "train", params)[1:])
    params = fetch(write(tmp_path, f"a,{forms[1]}", train=[["1", "a"], ["2", "b"]]), target=forms[1])
    assert params.facts["feature_names"] == ["a"]  # not the target


# ---- numbers in another spelling


@pytest.mark.parametrize(
    "cell",
    ["1,5", "1.234,56", "1,234.5", "1 234", "1\u00a0234,5", "1'234", "12%", "12 %", "€5", "5 €", "$1,234.50", "5 EUR",
     "USD 5", "(5)", "−5", "١٢", "1e400", "inf", "12,34,567", "1,5e3"],
)  # fmt: skip
def test_a_column_of_disguised_numbers_is_refused(tmp_path, cell):
    assert is_disguised(cell)
    write(tmp_path, "a,b,y", train=[["unknown", "1", "b"], ["1,6", "2", "b"], [cell, "3", "a"]])
    message = refusal(fetch, tmp_path)
    assert "row 2 (line 3), column 'a': found '1,6', which is not read as a number (2 of the column's 3" in message
    assert "write numbers as 1234.5" in message and "`categorical`" in message
    assert len(fetch(tmp_path, categorical=["a"]).facts["columns"][0]["categories"]) == 3
    write(tmp_path, "a,y", train=[["1", cell], ["2", "7"]])
    assert f"column 'y': found {cell!r}, expected a number" in refusal(fetch, tmp_path, target_type="number")


@pytest.mark.parametrize(
    "cell", ["red", "2024-01-31", "31.01.2024", "12:30", "A1", "1.2.3", "10-20", "3rd", "0x10", ""]
)
def test_words_are_not_disguised_numbers(cell):
    assert not is_disguised(cell)


@pytest.mark.parametrize(
    "cell",
    ["A{}", "AB{}", "rs{}", "type {}", "{}-19", "555-12{}", "(555) 12{}", "1.2.{}", "v1.{}.0", "SW{} 1AA", "D-10{}",
     "#{}", "INV_{}", "0x{}", "ab 0{}", "2024Q{}x1", "street {}", "+1-555-{}", "Q{}", "{}-34-56", "50-00-{}"],
)  # fmt: skip
def test_names_with_numbers_in_them_are_categories_however_many(tmp_path, caplog, cell):
    different = [cell.format(i) for i in range(10, 40)]
    write(tmp_path, "a,y", train=[[different[i % 30], "yn"[i % 2]] for i in range(120)])
    assert len(fetch(tmp_path).facts["columns"][0]["categories"]) == 30
    assert "WARNING" not in caplog.text


def test_ordinals_seats_and_zip_codes_are_no_measures(tmp_path):
    ordinals = [f"{i}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(i % 10 if i not in (11, 12, 13) else 0, 'th') }"
                for i in range(1, 60)]  # fmt: skip
    seats = [f"{row}{seat}" for row in range(1, 31) for seat in "ABCDEF"]
    hours = [f"{hour}{half}" for hour in range(1, 13) for half in ("am", "pm")]
    for cells in (ordinals, seats, hours):
        write(tmp_path, "a,y", train=[[cells[i % len(cells)], "yn"[i % 2]] for i in range(720)])
        assert len(fetch(tmp_path).facts["columns"][0]["categories"]) == len(cells)
    zips = ["02134", *map(str, range(10_001, 10_060))]
    write(tmp_path, "a,y", train=[[cell, "yn"[i % 2]] for i, cell in enumerate(zips)])
    assert fetch(tmp_path).facts["columns"][0]["low"] <= 2134
    assert len(fetch(tmp_path, categorical=["a"]).facts["columns"][0]["categories"]) == len(zips)


# ---- columns that look like something else


def test_nearly_unique_columns_are_named(tmp_path, caplog):
    rows = [[f"customer{i}", i * 37 % 50, "yn"[i > 30]] for i in range(60)]
    write(tmp_path, "name,size,y", train=rows)
    fetch(tmp_path)
    assert "WARNING: column 'name' is nearly unique: 60 categories in 60 train rows" in caplog.text
    assert "'size'" not in caplog.text
    caplog.clear()
    fetch(tmp_path, features=["size"])
    assert not caplog.text


def test_numbers_as_classes_are_named(tmp_path, caplog):
    write(tmp_path, "a,y", train=[[i % 13, i % 25] for i in range(60)])
    fetch(tmp_path)
    assert "column 'y': 25 different numbers in 60 train rows, such as '24', are taken for classes" in caplog.text
    write(tmp_path, "a,y", train=[[i % 13, f"{i},5"] for i in range(60)])
    message = refusal(fetch, tmp_path)
    assert "60 different numbers in 60 train rows, such as '9,5', are hardly classes" in message
    assert "write numbers as 1234.5" in message


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e400", "1e30", "0x10", "1_000"])
def test_targets_are_finite_numbers(tmp_path, cell):
    write(tmp_path, "a,y", train=[["1", "5"], ["2", cell], ["3", "7"]])
    expected = f"row 2 (line 3), column 'y': found {cell!r}, expected a number"
    assert expected in refusal(fetch, tmp_path, target_type="number")


@pytest.mark.parametrize("unit", [1e-30, 1e-19, 1e20])
def test_a_target_whose_squared_errors_no_float32_can_hold_is_refused(tmp_path, unit):
    write(tmp_path, "a,y", train=[["1", repr(unit)], ["2", repr(2 * unit)]])
    assert "take another unit for it" in refusal(fetch, tmp_path, target_type="number")


def test_a_class_called_na_is_refused_by_the_settings_name_and_can_be_used(tmp_path):
    write(tmp_path, "a,y", train=[["1", "EU"], ["2", "NA"], ["", "EU"], ["2", "NA"]])
    message = refusal(fetch, tmp_path)
    assert "row 2 (line 3), column 'y': found 'NA', expected a target: `missing` counts this as no value" in message
    assert "if this is a class, take it out of `missing` in params.json" in message
    missing = [text for text in Params().missing if text != "NA"]
    assert fetch(tmp_path, missing=missing).classes == ["EU", "NA"]


def test_repeated_ids_are_found_when_the_file_is_read(tmp_path):
    write(tmp_path, "id,a,y", train=[["r1", "1", "a"], ["r2", "2", "b"], ["r1", "3", "b"]])
    params = fetch(tmp_path, id_column="id")
    message = refusal(fetch_dataset, "train", tmp_path, params)
    assert "train.csv, row 3 (line 4), column 'id': id 'r1' is also the id of line 2" in message


# ---- the stated steps, and older checkpoints


def follow(described, row):
    """Return the inputs that the steps of an exported program state, for a row of cells by column."""

    def equal(cell, other):
        one, two = (unicodedata.normalize("NFC", text.strip()) for text in (cell, other))
        plain = [text.isascii() and not text.lstrip("+-").startswith(tuple(f"0{digit}" for digit in range(10)))
                 for text in (one, two)]  # fmt: skip
        try:
            return one == two or (all(plain) and float(one) == float(two))
        except ValueError:
            return False

    features = []
    for column in described["columns"]:
        cell = row[column["name"]].strip()
        is_missing = any(equal(cell, text) for text in described["missing"])
        if "categories" in column:
            matches = [equal(cell, category) for category in column["categories"]]
            known = any(matches) and not is_missing
            features += [*map(float, matches), 0.0] if known else column["unseen"]
            continue
        if is_missing or column["low"] == column["high"]:
            features.append(0.0)
        else:
            features.append((min(max(float(cell), column["low"]), column["high"]) - column["mean"]) / column["std"])
        features += [float(is_missing)] * column["has_missing"]
    return np.array(features, dtype=np.float32)


STEP_VALUES = {"missing": ["", "NA", "?", "-999"], "categorical": ["c"]}
LATER = [
    ["1e9", "blue", "-999.0", "6", "9", "y"], [" NA", unicodedata.normalize("NFD", "Zoë"), "1.50", "", "1.0", "y"],
    ["3.", "1.0", "-1e9", "x", "", "n"], ["+3", "01", "", "5", "0", "n"], [".5", "", "2", "?", "-1", "n"],
]  # fmt: skip


def write_for_steps(folder):
    cells = [["red", "1.5"], ["Zoë", "-999"], ["1", "2"]]
    rows = [[str(i % 7), *cells[i % 3], "5", str(int(i == 7)), "yn"[i % 7 > 3]] for i in range(60)]
    return write(folder, "a,c,m,k,r,y", train=rows, test=LATER)


def follow_for_all(described):
    return np.stack([follow(described, dict(zip("acmkr", row, strict=False))) for row in LATER])


def test_following_the_stated_steps_gives_the_inputs_of_the_net(tmp_path):
    params = fetch(write_for_steps(tmp_path), **STEP_VALUES)
    described = json.loads(json.dumps(describe_inputs(params)))
    np.testing.assert_array_equal(inputs(tmp_path, "test", params), follow_for_all(described))


@pytest.mark.slow
def test_an_exported_program_on_the_stated_steps_predicts_what_predict_does(tmp_path):
    run = make_run(tmp_path / "run", data_dir=str(write_for_steps(tmp_path / "data")), **STEP_VALUES)
    train.main(["--model_dir", str(run)])
    export.main(["--model_dir", str(run), "--format", "pt2", "--output", str(tmp_path / "net.pt2")])
    described = utils.read_json(tmp_path / "net.pt2.json")["preprocessing"]
    probabilities = (
        torch.export.load(tmp_path / "net.pt2").module()(torch.from_numpy(follow_for_all(described))).softmax(1)
    )
    (tmp_path / "new.csv").write_text("r,k,m,c,a\n" + "".join(",".join(row[4::-1]) + "\n" for row in LATER), "utf-8")
    predict.main(["--model_dir", str(run), "--input", str(tmp_path / "new.csv"), "--output", str(tmp_path / "p.csv")])
    rows = read_csv(tmp_path / "p.csv")
    assert [row["prediction"] for row in rows] == [described["classes"][i] for i in probabilities.argmax(1).tolist()]
    confidences = [float(row["confidence"]) for row in rows]
    np.testing.assert_allclose(confidences, probabilities.max(1).values.detach(), atol=1e-3)


def test_facts_of_older_checkpoints_mean_what_they_meant(tmp_path):
    columns = [
        {"name": "a", "mean": 2.0, "std": 0.5, "has_missing": True},
        {"name": "k", "mean": 5.0, "std": 1.0, "has_missing": False},
        {"name": "c", "categories": ["1", "1.0", "red"]},
    ]
    names = ["a", "a: missing", "k", "c=1", "c=1.0", "c=red", "c: other"]
    facts = {"columns": columns, "feature_names": names, "classes": ["1", "1.0"], "class_counts": [1, 1]}
    rows = [["1000", "7", "1.0", "1.0"], ["", "5", "2", "1"], ["2", "5", "1e0", "1"]]
    write(tmp_path, "a,k,c,y", train=rows)
    dataset = RowDataset(read_table(tmp_path / "test.csv"), Params(target="y").with_facts(facts))
    assert dataset.tensors[0].tolist() == [[1996, 0, 2, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1]]
    assert dataset.tensors[1].tolist() == [1, 0, 0]
    steps = describe_inputs(Params(target="y").with_facts(facts))
    assert steps["columns"] == columns


def test_a_rare_column_of_an_older_checkpoint_gets_the_mean_outside_of_trains_range(tmp_path):
    column = {"name": "a", "mean": 0.5, "std": 0.5, "low": 0.0, "high": 1.0, "rare": True, "has_missing": False}
    params = Params(target="y").with_facts({"columns": [column], "feature_names": ["a"], "classes": ["n", "y"]})
    write(tmp_path, "a,y", train=[["1", "y"], ["1500", "y"], ["0", "n"], ["-0.1", "n"]])
    assert inputs(tmp_path, "train", params).tolist() == [[1], [0], [-1], [0]]


# ---- other columns later


def make_run(folder, **values):
    folder.mkdir()
    params = {"task": "tabular", "target": "y", "num_epochs": 1, "learning_rate": 0.1, "batch_size": 8, **values}
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    return folder


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_other_data_may_have_other_columns_in_another_order_but_all_that_train_has(tmp_path, capsys):
    rows = [[str(i), "rgb"[i % 3], "yn"[i % 2]] for i in range(24)]
    write(tmp_path / "data", "a,c,y", train=rows)
    run = make_run(tmp_path / "run", data_dir=str(tmp_path / "data"))
    train.main(["--model_dir", str(run)])
    scores = []
    write(tmp_path / "other", "more,y,c,a", train=[["!", *reversed(row)] for row in rows])
    for folder in ("data", "other"):
        evaluate.main(["--model_dir", str(run), "--data_dir", str(tmp_path / folder)])
        scores.append([row["confidence"] for row in read_csv(run / "predictions_test_best.csv")])
    assert scores[0] == scores[1]
    write(tmp_path / "less", "a,y", train=[[row[0], row[2]] for row in rows])
    command = ["--model_dir", str(run), "--data_dir", str(tmp_path / "less")]
    assert "test.csv: there is no column 'c', the feature; It has a, y" in refusal(evaluate.main, command)
    new = tmp_path / "new.csv"
    new.write_text("c,a\nr,1\nviolet,2\n,3\n", encoding="utf-8")
    capsys.readouterr()
    predict.main(["--model_dir", str(run), "--input", str(new), "--output", str(tmp_path / "p.csv")])
    assert "column 'c': 1 of 3 rows" in capsys.readouterr().err and len(read_csv(tmp_path / "p.csv")) == 3
