"""The texts that `python -m fiveline.new` writes: pyproject.toml, the README, and the files of a new task."""

from string import Template

PYPROJECT = """[project]
name = "{package}"
version = "0.1.0"
requires-python = ">=3.10"
dependencies = {needed}

[dependency-groups]
dev = {development}

[tool.uv]
package = false

{tools}"""
README = """# {name}

Started from Fiveline {version}. Tasks: {tasks}.

```
python3 -m venv .venv && .venv/bin/pip install -q -r requirements-dev.txt
.venv/bin/python train.py
.venv/bin/python -m pytest -q
```

{scripts}

The scripts and `model/` are yours to edit; `model/__init__.py` says what a task defines. `fiveline/` is the engine: do
not edit it, so that a newer version can replace it. In a clone of that version: `python -m fiveline.new DIR --update`.
Pages named `docs/...` are in such a clone.
"""
PARAMS = '''"""The hyperparameters of the task `$NAME`."""

from pydantic import Field

import utils


class Params(utils.Params):
    """The hyperparameters of the task `$NAME`, beside those that all tasks have."""

    task: str = Field("$NAME", description="this folder's name")
    data_dir: str | None = Field("data/$NAME", description="the dataset", json_schema_extra=utils.MACHINE)
    monitor: str = Field("accuracy", description="the val metric that decides which checkpoint is best")
    hidden_size: int = Field(32, ge=1, description="width of the hidden layer")
'''
DATA_LOADER = '''"""The examples of the task `$NAME`."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from model.$NAME.params import Params


def fetch_dataset(split: str, data_dir: Path, params: Params) -> Dataset:
    """Return an input and its label for each example of `train`, `val` or `test`."""
    arrays = np.load(data_dir / f"{split}.npz")
    return TensorDataset(torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["labels"]))
'''
NET = '''"""The net, the loss and the metric of the task `$NAME`."""

import torch
from torch import Tensor, nn

from model.$NAME.params import Params

NUM_CLASSES = 3


class Net(nn.Module):
    """A few layers in a row."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.layers = nn.Sequential($LAYERS
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits; their last dimension is the class."""
        return self.layers(inputs)


def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy, scalar."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def accuracy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the correct predictions, and all of them."""
    return (outputs.argmax(-1) == labels).sum(), torch.ones_like(labels).sum()


metrics = {"accuracy": accuracy}
'''
BUILDER = '''"""Write made-up examples for the task `$NAME`. Make `make_examples` read your own data instead."""

from pathlib import Path

import numpy as np


def make_examples(number: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs, $INPUTS, and labels, $LABELS."""$EXAMPLES


if __name__ == "__main__":  # write train.npz, val.npz and test.npz beside this file
    generator = np.random.default_rng(230)
    for split, number in {"train": 600, "val": 150, "test": 150}.items():
        inputs, labels = make_examples(number, generator)
        np.savez(Path(__file__).parent / f"{split}.npz", inputs=inputs, labels=labels)
'''
FILES = {
    "model/$NAME/params.py": PARAMS,
    "model/$NAME/net.py": NET,
    "model/$NAME/data_loader.py": DATA_LOADER,
    "data/$NAME/build_dataset.py": BUILDER,
    "experiments/base_model/params.json": '{"task": "$NAME", "learning_rate": 0.01, "num_epochs": 10}\n',
}
CLASSES = """
    labels = generator.integers(0, 3, number)
    inputs = generator.normal(0, 1, $INPUTS).astype(np.float32)
    inputs[np.arange(number), $PLACE] += 3  # the place of the large numbers decides the class
    return inputs, labels"""
TAGS = """
    inputs = generator.integers(0, 20, $INPUTS)
    return inputs, inputs % 3  # the token decides its class"""
CONVOLUTION = """
            nn.Conv2d(1, params.hidden_size, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * params.hidden_size, NUM_CLASSES),"""
LINEAR = """
            nn.Linear($SIZE, params.hidden_size),
            nn.ReLU(),
            nn.Linear(params.hidden_size, NUM_CLASSES),"""
EMBEDDING = "\n            nn.Embedding(20, params.hidden_size)," + LINEAR.replace("$SIZE", "params.hidden_size")
LIKE = {  # shapes of inputs and labels, which numbers of an input are large, its size, the layers, the examples
    "vision": ("(number, 1, 16, 16)", "(number,)", "0, 5 * labels", "", CONVOLUTION, CLASSES),
    "tabular": ("(number, 8)", "(number,)", "labels", "8", LINEAR, CLASSES),
    "ner": ("(number, 12)", "(number, 12)", "", "", EMBEDDING, TAGS),
}


def skeleton(name: str, like: str) -> dict[str, bytes]:
    """Return the files of a new task, path -> content, with inputs like a task of LIKE."""
    words = dict(zip(("INPUTS", "LABELS", "PLACE", "SIZE", "LAYERS", "EXAMPLES"), LIKE[like], strict=True), NAME=name)

    def fill(text: str) -> str:  # twice, because the layers and the examples also have words to replace
        return Template(Template(text).substitute(words)).substitute(words)

    return {fill(path): fill(text).encode() for path, text in FILES.items()}
