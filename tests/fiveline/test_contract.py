"""Names that the contract gives a meaning to: a dataset's, a net's or a row's own use of one is refused."""

import types

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import utils
from fiveline import loader as data_loader
from fiveline import nets as net
from fiveline.loader import fetch_dataloader, fetch_facts
from fiveline.nets import fetch_metrics, fetch_net, fetch_predictions

NUM_EXAMPLES = 6


class Examples(Dataset):
    """Examples with attributes of a user's own."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return NUM_EXAMPLES

    def __getitem__(self, index):
        return torch.full((2,), float(index)), index % 2


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Return a function that fetches the loader of a dataset with these attributes."""

    def fetch(**attributes):
        module = types.SimpleNamespace(fetch_dataset=lambda split, data_dir, params: Examples(**attributes))
        monkeypatch.setattr(data_loader, "_task_module", lambda params: module)
        return fetch_dataloader(["val"], tmp_path, utils.Params())["val"]

    return fetch


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"ids": torch.ones(NUM_EXAMPLES, 4)}, "'ids' is a Tensor of shape (6, 4); expected a list with a name"),
        ({"ids": torch.arange(NUM_EXAMPLES)}, "'ids' is a Tensor of shape (6,)"),
        ({"ids": [[1, 2]] * NUM_EXAMPLES}, "'ids' is a list of list"),
        ({"ids": [1, 2, 3]}, "'ids' has 3 entries for 6 examples"),
        ({"ids": "abcdef"}, "'ids' is a str"),
        ({"ids": {"a": 1}}, "'ids' is a dict"),
        ({"ids": None}, "'ids' is NoneType"),
        ({"ids": lambda: 3}, "'ids' is a function"),
        ({"lengths": 5}, "'lengths' is a int; expected a list with a whole number for each example"),
        ({"lengths": (5, 1)}, "'lengths' has 2 entries for 6 examples"),
        ({"lengths": [1.5] * NUM_EXAMPLES}, "'lengths' is a list of float"),
        ({"lengths": [[1], [1, 2], [1], [1], [1], [1]]}, "'lengths' is a list of list"),
        ({"augment": torch.nn.Identity()}, "'augment' is a Identity; expected True or False"),
        ({"augment": None}, "'augment' is NoneType"),
        ({"in_memory": {0: 1}}, "'in_memory' is a dict"),
        ({"set_epoch": 3}, "'set_epoch' is a int; expected a method"),
        ({"fetch_raw": True}, "'fetch_raw' is a bool"),
        ({"fetch_raw": print}, "'finish' is NoneType; expected a method, beside fetch_raw"),
        ({"fetch_raw": print, "finish": print, "move_to": print}, "'nbytes' is NoneType; expected a number of bytes"),
    ],
)
def test_an_attribute_that_means_something_else_is_refused(load, attributes, words):
    with pytest.raises(utils.InputError) as error:
        load(**attributes)
    message = str(error.value)
    assert message.startswith("model/vision/data_loader.py: val's dataset, Examples: its attribute ")
    assert words in message and "as model/__init__.py says" in message and "give it another name" in message


@pytest.mark.parametrize(
    "attributes",
    [
        {"ids": [f"{i}.jpg" for i in range(NUM_EXAMPLES)], "lengths": np.arange(NUM_EXAMPLES), "augment": True},
        {"ids": range(NUM_EXAMPLES), "lengths": torch.arange(NUM_EXAMPLES), "in_memory": False},
        {"ids": np.array(list("abcdef")), "set_epoch": print},
        {"finish": 3, "move_to": "there", "nbytes": "many"},  # means nothing without fetch_raw
    ],
)
def test_attributes_that_keep_the_contract_are_used(load, attributes):
    loader = load(**attributes)
    assert list(loader.dataset.ids if "ids" in attributes else []) == list(attributes.get("ids", []))
    assert [int(label) for _, labels in loader for label in labels] == [0, 1] * 3


@pytest.mark.parametrize("classes", [3, "abc", {"a": 0}, ["a", "a"], [0, 1], ("a", "b")])
def test_classes_that_are_no_list_of_names_are_refused(monkeypatch, tmp_path, classes):
    module = types.SimpleNamespace(fetch_facts=lambda data_dir, params: {"classes": classes})
    monkeypatch.setattr(data_loader, "_task_module", lambda params: module)
    with pytest.raises(utils.InputError, match=r"facts\['classes'\] is .*; expected a list of different names"):
        fetch_facts(tmp_path, utils.Params())


def test_names_of_a_net_that_are_taken_are_refused(monkeypatch):
    for name in ("loss", "examples_per_second"):
        own = types.SimpleNamespace(metrics={name: print})
        with pytest.raises(utils.InputError, match=f"metrics: '{name}' is reported of every task already"):
            fetch_metrics(own, utils.Params())
    module = types.SimpleNamespace(Net=1, loss_fn=1, predictions=1, metrics={}, lower_is_better="mae")
    monkeypatch.setattr(net.importlib, "import_module", lambda name: module)
    with pytest.raises(utils.InputError, match="lower_is_better is 'mae'; expected a set of names of metrics"):
        fetch_net("mine")


@pytest.mark.parametrize("name", ["id", "error"])
def test_a_row_does_not_rename_its_example(name):
    own = types.SimpleNamespace(predictions=lambda outputs, labels, params: [{"prediction": "a", name: 7}])
    with pytest.raises(utils.InputError, match=f"a row has the key '{name}', which is the name of a column already"):
        fetch_predictions(own, torch.ones(1, 2), None, utils.Params(), 1)
