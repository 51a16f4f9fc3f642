"""Names that the contract gives a meaning to: a dataset's, a net's or a row's own use of one is refused."""

import sys
import types

import numpy as np
import pytest
import torch

import utils
from fiveline.loader import fetch_dataloader
from fiveline.serving.trained import fetch_predictions
from fiveline.tasks import Task, fetch_facts, fetch_task

MINE = utils.Params(task="mine")


class Examples(torch.utils.data.Dataset):
    """Six examples, with attributes of a user's own."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.full((2,), float(index)), index % 2


@pytest.fixture
def define(monkeypatch):
    """Return a function that puts names into model/mine/net.py or model/mine/data_loader.py."""
    return lambda module, **names: monkeypatch.setitem(
        sys.modules, f"model.mine.{module}", types.SimpleNamespace(**names)
    )


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"ids": torch.ones(6, 4)}, "'ids' is tensor([["),
        (
            {"ids": [1, 2, 3]},
            "'ids' is [1, 2, 3]; expected a list with a name (str or int) for each example (6 examples)",
        ),
        ({"ids": "abcdef"}, "'ids' is 'abcdef'"),
        ({"lengths": 5}, "'lengths' is 5; expected a list with a whole number for each example"),
        ({"lengths": [1.5] * 6}, "'lengths' is [1.5, 1.5, "),
        ({"ids": list("abcdef"), "lengths": np.arange(6)}, None),
        ({"ids": np.array(list("abcdef")), "set_epoch": print}, None),
        ({"augment": 3, "tokens": "many"}, None),  # names without a meaning in the contract
    ],
)
def test_an_attribute_keeps_the_contract_or_is_refused(define, tmp_path, attributes, words):
    define("data_loader", fetch_dataset=lambda split, data_dir, params: Examples(**attributes))
    if words is None:
        loader = fetch_dataloader("val", tmp_path, MINE)
        assert list(loader.dataset.ids if "ids" in attributes else []) == list(attributes.get("ids", []))
        assert [int(label) for _, labels in loader for label in labels] == [0, 1] * 3
        return
    with pytest.raises(utils.InputError) as error:
        fetch_dataloader("val", tmp_path, MINE)
    message = str(error.value)
    assert message.startswith("model/mine/data_loader.py: val's dataset, Examples: its attribute ")
    assert words in message and "give it another name" in message


@pytest.mark.parametrize("classes", [3, "abc", {"a": 0}, ["a", "a"], [0, 1], ("a", "b")])
def test_classes_that_are_no_list_of_names_are_refused(define, tmp_path, classes):
    define("data_loader", fetch_facts=lambda data_dir, params: {"classes": classes})
    with pytest.raises(utils.InputError, match=r"facts\['classes'\] is .*; expected different names in a list"):
        fetch_facts(tmp_path, MINE)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"metrics": {"loss": print}}, "metrics: 'loss' is reported for every task"),
        ({"metrics": lambda params: {"examples_per_second": print}}, "'examples_per_second' is reported for every"),
        ({"metrics": {"accuracy": 3}}, "metrics is {'accuracy': 3}; expected a dict of functions"),
        ({"metrics": lambda params: 3}, "metrics is 3; expected a dict of functions"),
        ({}, "model/mine/net.py: lacks metrics; model/__init__.py says what they are"),
    ],
)
def test_a_net_that_does_not_keep_the_contract_is_refused(define, names, words):
    define("net", Net=print, loss_fn=print, **names)
    with pytest.raises(utils.InputError) as error:
        fetch_task(MINE)
    assert words in str(error.value)


def test_metrics_say_themselves_whether_lower_is_better():
    task = Task(print, print, print, {"error": types.SimpleNamespace(lower_is_better=True), "score": print})
    assert task.lower_is_better == ["error"]
    assert [task.sign(name) for name in ("error", "score", "loss")] == [-1, 1, -1]
    with pytest.raises(utils.InputError, match="monitor 'accuracy': there is no such metric; choose one of loss, err"):
        task.sign("accuracy")


@pytest.mark.parametrize("name", ["id", "error"])
def test_a_row_does_not_rename_its_example(name):
    own = types.SimpleNamespace(predictions=lambda outputs, labels, params: [{"prediction": "a", name: 7}])
    with pytest.raises(utils.InputError, match=f"a row has the key '{name}', which is the name of a column already"):
        fetch_predictions(own, torch.ones(1, 2), None, utils.Params(), 1)
