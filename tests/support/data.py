"""Data as a task reads it: facts, datasets, the messages that refuse it; and the tables and scripts around it."""

import csv
import importlib.util

import pytest

import utils
from fiveline import tasks
from tests.support.tasks import PROJECT


def load(folder, params, split="train"):
    """Return the dataset of a split, and the hyperparameters with the facts that train decides."""
    params = tasks.fetch_facts(folder, params)
    return tasks.fetch_dataset(split, folder, params), params


def refusal(call, *args, **values):
    """Return the message of the InputError that a call ends with."""
    with pytest.raises(utils.InputError) as error:
        call(*args, **values)
    return str(error.value)


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def load_script(name):
    """Import a script of data/, such as data/kaggle_ner/build_dataset.py."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_").removesuffix(".py"), PROJECT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
