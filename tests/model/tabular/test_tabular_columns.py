"""Columns as features: by train alone, whatever later data holds; spellings, targets, stated steps, old checkpoints."""

import json
import unicodedata

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from fiveline.tasks import fetch_facts
from model.tabular.columns import MAX_CATEGORIES
from model.tabular.data_loader import RowDataset, fetch_dataset
from model.tabular.params import Params
from model.tabular.readers import read_table
from model.tabular.serve import describe_inputs
from tests.support.data import load, refusal, write_csv


def write(folder, header, train, **splits):
    """Write rows of cells, or "1,red 2,blue"; val and test are train where they are not given."""
    for split in ("train", "val", "test"):
        rows = splits.get(split, train)
        rows = [row.split(",") for row in rows.split(" ")] if isinstance(rows, str) else rows
        write_csv(folder / f"{split}.csv", [header.split(","), *rows])
    return folder


def fetch(folder, **values):
    """Return hyperparameters with their facts."""
    return fetch_facts(folder, Params(**{"target": "y", **values}))


def inputs(folder, split, params):
    return fetch_dataset(split, folder, params).tensors[0].numpy()


def test_numbers_are_standardised_by_train_alone(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {"train": generator.normal(5, 3, (30, 3)), "val": generator.normal(9, 1, (10, 3))}
    for array in arrays.values():
        array[:, 1] = 0.1  # constant
        array[:, 2] = generator.integers(1_700_000_000, 1_700_000_101, size=len(array))  # large and narrow
    rows = {split: [[*map(repr, row), "xy"[i % 2]] for i, row in enumerate(array.tolist())]
            for split, array in arrays.items()}  # fmt: skip
    params = fetch(write(tmp_path, "a,b,t,y", **rows))
    scaler = StandardScaler().fit(arrays["train"])
    for split, array in arrays.items():
        np.testing.assert_allclose(inputs(tmp_path, split, params), scaler.transform(array), rtol=1e-5, atol=1e-6)
    assert json.loads(json.dumps(params.facts)) == params.facts  # plain values, as the checkpoint needs


def test_columns_are_chosen_by_the_hyperparameters(tmp_path):
    write(tmp_path, "id,sex,a,y", "r1,10,1,9 r2,2,4,10 r3,10,6,-1")
    sex = {"features": ["sex"], "categorical": ["sex"]}
    for values, names in (
        ({"id_column": "id"}, ["sex", "a"]),
        ({"features": ["a"]}, ["a"]),
        (sex, ["sex=2", "sex=10", "sex: other"]),
        ({**sex, "min_category_count": 2}, ["sex=10", "sex: other"]),
    ):
        dataset, params = load(tmp_path, Params(target="y", **values))
        assert params.facts["feature_names"] == names
        assert dataset.ids == (["r1", "r2", "r3"] if "id_column" in values else ["1", "2", "3"])
    assert params.classes == ["-1", "9", "10"] and dataset.tensors[1].tolist() == [1, 2, 0]  # numbers by size
    features, labels = dataset.__getitems__([2, 0])
    assert torch.equal(features[0], dataset[2][0]) and labels.tolist() == [dataset[2][1], dataset[0][1]]


def test_later_values_neither_explode_nor_reach_weights_that_nothing_trained(tmp_path, caplog):
    numbers = np.random.default_rng(0).normal(size=60).round(2)
    rows = [[value, "ab"[i % 2], "1" if i < 5 else "", "yn"[i % 3 > 0]] for i, value in enumerate(numbers)]
    params = fetch(write(tmp_path, "n,c,m,y", rows, test="1e29,new,1e29,y ,new,,y"))
    highest = max(numbers.max(), numbers.mean() + 5 * numbers.std())
    expected = [[(highest - numbers.mean()) / numbers.std(), 0.5, 0.5, 0, 0, 0], [0, 0.5, 0.5, 0, 0, 1]]
    np.testing.assert_allclose(inputs(tmp_path, "test", params), expected, rtol=1e-6)
    for found in ("'n': 1 of 2 rows of test (50.0%) are far outside train's range and are limited to it;",
                  "'n': 1 of 2 rows of test (50.0%) hold no value, unlike train",
                  "'c': 2 of 2 rows of test (100.0%) hold a category that train does not have"):  # fmt: skip
        assert f"WARNING: column {found}" in caplog.text


LONG = "12345678901234567890"
EQUAL = ["1 1.0", "1 1.", "100 1E2", "0 -0.0", "0.5 .5", "2 +2.00", "Zo\u00eb Zoe\u0308", f"{LONG} {LONG}.0"]
DIFFERENT = ["02134 2134", f"{LONG} {LONG[:-1]}1", "1 1_0", "1 ١", "Red red", "1e400 inf", "1 1,0"]


@pytest.mark.parametrize("pair", [*EQUAL, *DIFFERENT])
def test_equal_cells_are_one_category(tmp_path, caplog, pair):
    one, other = pair.split(" ")
    write(tmp_path, "c,y", [[one, "y"], ["9", "n"], ["x", "n"]], test=[[f" {other} ", "y"], ["9.0", "n"]])
    params = fetch(tmp_path, categorical=["c"])
    same = (inputs(tmp_path, "test", params) == inputs(tmp_path, "train", params)[:2]).all(axis=1).tolist()
    assert same == [pair in EQUAL, True] and ("category that train" in caplog.text) == (pair in DIFFERENT)


def test_classes_and_missing_values_are_compared_as_categories_are(tmp_path):
    write(tmp_path, "a,y", "3,1 4,2 -999,2.0 -999.0,02", test="-999.00,1.0 3.0,2e0")
    params = fetch(tmp_path, missing=["-999"])
    assert params.classes == ["1", "02", "2"]
    assert fetch_dataset("test", tmp_path, params).tensors[1].tolist() == [0, 2]
    assert inputs(tmp_path, "test", params)[0].tolist() == [0, 1]
    missing = [text for text in Params().missing if text != "NA"]
    assert fetch(write(tmp_path, "a,y", "1,EU 2,NA ,EU 2,NA"), missing=missing).classes == ["EU", "NA"]


@pytest.mark.parametrize(
    "cell",
    ["1,5", "1.234,56", "1,234.5", "1 234", "1\u00a0234,5", "1'234", "12%", "12 %", "€5", "5 €", "$1,234.50", "5 EUR",
     "USD 5", "(5)", "−5", "١٢", "1e400", "inf", "12,34,567", "1,5e3"],
)  # fmt: skip
def test_a_column_of_disguised_numbers_is_refused(tmp_path, cell):
    write(tmp_path, "a,b,y", [["unknown", "1", "b"], ["1,6", "2", "b"], [cell, "3", "a"]])
    message = refusal(fetch, tmp_path)
    assert "row 2 (line 3), column 'a': found '1,6', which is not a number (2 of the column's 3" in message
    assert "write numbers as 1234.5" in message and "`categorical`" in message
    assert len(fetch(tmp_path, categorical=["a"]).facts["columns"][0]["categories"]) == 3
    write(tmp_path, "a,y", [["1", cell], ["2", "7"]])
    assert f"column 'y': found {cell!r}, expected a number" in refusal(fetch, tmp_path, target_type="number")


def test_names_with_numbers_in_them_are_categories_however_many(tmp_path, caplog):
    names = ["A{}", "{}th", "{}am", "{}-19", "555-12{}", "(555) 12{}", "1.2.{}", "SW{} 1AA", "#{}", "INV_{}", "0x{}",
             "ab 0{}", "+1-555-{}", "{}-34-56", "2024-01-{}", "{}.01.2024", "12:{}"]  # fmt: skip
    rows = [[*(name.format(10 + i % 30) for name in names), "yn"[i % 2]] for i in range(120)]
    params = fetch(write(tmp_path, ",".join([*names, "y"]), rows))
    assert {len(column["categories"]) for column in params.facts["columns"]} == {30} and "WARNING" not in caplog.text


def test_columns_that_are_hardly_what_they_are_taken_for_are_named(tmp_path, caplog):
    write(tmp_path, "name,size,y", [[f"customer{i}", i * 37 % 50, "yn"[i > 30]] for i in range(60)])
    fetch(tmp_path, features=["size"])
    assert not caplog.text
    fetch(tmp_path)
    assert "WARNING: column 'name' is nearly unique: 60 categories in 60 train rows" in caplog.text
    fetch(write(tmp_path, "a,y", [[i % 13, i % 25] for i in range(60)]))
    assert "column 'y': 25 different numbers in 60 train rows, such as '24', are taken for classes" in caplog.text
    message = refusal(fetch, write(tmp_path, "a,y", [[i % 13, f"{i},5"] for i in range(60)]))
    assert "60 different numbers in 60 train rows, such as '9,5', are hardly classes" in message
    assert "write numbers as 1234.5" in message
    write(tmp_path, "name,y", [[f"name{i}", "xy"[i % 2]] for i in range(MAX_CATEGORIES + 1)])
    assert f"column 'name': {MAX_CATEGORIES + 1} categories" in refusal(fetch, tmp_path)


@pytest.mark.parametrize(
    ("rows", "values", "expected"),
    [
        ("5,red 5,blue", {}, "found 1 column(s) beside the target, of which none varies in 2 train rows"),
        ("1,7 2,7", {"target_type": "number"}, "found 7 and a standard deviation of 0 in 2 train rows"),
        ("1,1e-30 2,2e-30", {"target_type": "number"}, "take another unit for it"),  # squares in float32
        ("1,5 2,a", {"target_type": "number"}, "row 2 (line 3), column 'y': found 'a', expected a number below 1e30;"),
        ("1,-999.0 2,5", {"missing": ["-999"]}, "row 1 (line 2), column 'y': found '-999.0', expected a target"),
        ("1,EU 2,NA", {}, "found 'NA', expected a target: `missing` counts this as no value; take the row out"),
    ],
)
def test_columns_that_nothing_can_be_learnt_from_are_refused(tmp_path, rows, values, expected):
    assert expected in refusal(fetch, write(tmp_path, "a,y", rows), **values)


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
        cell, low, high = row[column["name"]].strip(), column.get("low"), column.get("high")
        is_missing = any(equal(cell, text) for text in described["missing"])
        if "categories" in column:
            matches = [equal(cell, category) for category in column["categories"]]
            features += [*matches, 0] if any(matches) and not is_missing else column["unseen"]
        else:
            known = not is_missing and low < high
            features.append((min(max(float(cell), low), high) - column["mean"]) / column["std"] if known else 0)
            features += [is_missing] * column["has_missing"]
    return np.array(features, dtype=np.float32)


def test_following_the_stated_steps_gives_the_inputs_of_the_net(tmp_path, caplog):
    """Columns of numbers and categories, with missing ones, and five columns that do not vary in train."""
    later = [row.split(",") for row in ("1e9,blue,-999.0,6,9,1500,blue,9", " NA,Zoe\u0308,1.50,,1.0,text,,",
             "3.,1.0,-1e9,x,,,red,x", "+3,01,,5,0,5,5,0.3", ".5,,2,?,-1,?,?,-1")]  # fmt: skip
    cells = [["red", "1.5"], ["Zo\u00eb", "-999"], ["1", "2"]]
    rows = [[str(1_700_000_000 * (i > 50) + i % 7), *cells[i % 3], "5", str(int(i == 7)), "", "red",
             repr(0.1 + 0.2) if i % 2 else "0.3"] for i in range(60)]  # fmt: skip
    train, test = ([[*row, "yn"[i % 2]] for i, row in enumerate(table)] for table in (rows, later))
    write(tmp_path, "a,c,m,k,r,e,w,n,y", train, test=test)
    params = fetch(tmp_path, missing=["", "NA", "?", "-999"], categorical=["c", "w"])
    described = json.loads(json.dumps(describe_inputs(params)))
    for split, table in (("train", rows), ("test", later)):
        stated = np.stack([follow(described, dict(zip("acmkrewn", row, strict=True))) for row in table])
        np.testing.assert_array_equal(inputs(tmp_path, split, params), stated)
        constant = [i for i, name in enumerate(params.facts["feature_names"]) if name[0] in "kewn"]
        assert (stated[:, constant] == stated[0, constant]).all() and np.abs(stated[:, constant]).max() <= 1
    assert any("(number - mean) / std in float64" in step for step in described["steps"])
    assert "float32, and only then" in described["steps"][-1]


def test_facts_of_older_checkpoints_mean_what_they_meant(tmp_path):
    columns = [
        {"name": "a", "mean": 2.0, "std": 0.5, "has_missing": True},
        {"name": "k", "mean": 5.0, "std": 1.0, "has_missing": False},
        {"name": "c", "categories": ["1", "1.0", "red"]},
        {"name": "r", "mean": 0.5, "std": 0.5, "low": 0.0, "high": 1.0, "rare": True, "has_missing": False},
    ]
    names = ["a", "a: missing", "k", "c=1", "c=1.0", "c=red", "c: other", "r"]
    facts = {"columns": columns, "feature_names": names, "classes": ["1", "1.0"], "class_counts": [1, 1]}
    params = Params(target="y").with_facts(facts)
    write(tmp_path, "a,k,c,r,y", "1000,7,1.0,1,1.0 ,5,2,1500,1 2,5,1e0,-0.1,1")
    dataset = RowDataset(read_table(tmp_path / "test.csv"), params)
    expected = [[1996, 0, 2, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1, 0]]
    assert dataset.tensors[0].tolist() == expected and dataset.tensors[1].tolist() == [1, 0, 0]
    assert describe_inputs(params)["columns"] == columns
