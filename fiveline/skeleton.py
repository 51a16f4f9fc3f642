"""The files of a new task, for `python -m fiveline.new DIR --task my_task --like vision`.

Each text is a whole file. NAME stands for the name of the task. The four files have about 40 lines of code.
"""

PARAMS = '''"""The hyperparameters of the task `NAME`."""

from pydantic import Field

import utils


class Params(utils.Params):
    """The hyperparameters of the task `NAME`, with those that all tasks have."""

    task: str = Field("NAME", description="this folder's name")
    data_dir: str | None = Field("data/NAME", description="the dataset", json_schema_extra=utils.MACHINE)
    monitor: str = Field("accuracy", description="the val metric that decides which checkpoint is best")
    hidden_size: int = Field(32, ge=1, description="width of the hidden layer")
'''

DATA_LOADER = '''"""The examples of the task `NAME`."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from model.NAME.params import Params


def fetch_dataset(split: str, data_dir: Path, params: Params) -> Dataset:
    """Return an input and its label for each example of `train`, `val` or `test`."""
    arrays = np.load(data_dir / f"{split}.npz")
    return TensorDataset(torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["labels"]))
'''

BUILDER = '''"""Write made-up examples for the task `NAME`. Replace `make_examples` by code that reads your own data."""

from pathlib import Path

import numpy as np

NUM_EXAMPLES = {"train": 600, "val": 150, "test": 150}


def make_examples(number: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs, SHAPE, and labels, LABELS_SHAPE."""
EXAMPLES


def main() -> None:
    """Write train.npz, val.npz and test.npz beside this file."""
    generator = np.random.default_rng(230)
    for split, number in NUM_EXAMPLES.items():
        inputs, labels = make_examples(number, generator)
        np.savez(Path(__file__).parent / f"{split}.npz", inputs=inputs, labels=labels)


if __name__ == "__main__":
    main()
'''

NET = '''"""The net, the loss and the metric of the task `NAME`."""

import torch
from torch import Tensor, nn

from model.NAME.params import Params

NUM_CLASSES = 3


class Net(nn.Module):
    """DOCSTRING"""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.layers = nn.Sequential(
LAYERS
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, LOGITS_SHAPE, of inputs, SHAPE."""
        return self.layers(inputs)


def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy, scalar."""
    return nn.functional.cross_entropy(LOSS_ARGUMENTS)


def accuracy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the correct predictions, and all of them."""
    return (outputs.argmax(-1) == labels).sum(), torch.ones_like(labels).sum()


metrics = {"accuracy": accuracy}
'''

IMAGES = {
    "SHAPE": "(number, 1, 16, 16)",
    "LABELS_SHAPE": "(number,)",
    "LOGITS_SHAPE": "(number, 3)",
    "DOCSTRING": "One convolution, pooling and a linear layer.",
    "LOSS_ARGUMENTS": "outputs, labels",
    "LAYERS": """            nn.Conv2d(1, params.hidden_size, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * params.hidden_size, NUM_CLASSES),""",
    "EXAMPLES": """    labels = generator.integers(0, 3, number)
    inputs = generator.normal(0, 1, (number, 1, 16, 16))
    inputs[np.arange(number), 0, 5 * labels] += 2  # which row is bright decides the class
    return inputs.astype(np.float32), labels""",
}
ROWS = {
    "SHAPE": "(number, 8)",
    "LABELS_SHAPE": "(number,)",
    "LOGITS_SHAPE": "(number, 3)",
    "DOCSTRING": "Two linear layers.",
    "LOSS_ARGUMENTS": "outputs, labels",
    "LAYERS": """            nn.Linear(8, params.hidden_size),
            nn.ReLU(),
            nn.Linear(params.hidden_size, NUM_CLASSES),""",
    "EXAMPLES": """    labels = generator.integers(0, 3, number)
    inputs = generator.normal(0, 1, (number, 8))
    inputs[np.arange(number), labels] += 3  # which of three columns is large decides the class
    return inputs.astype(np.float32), labels""",
}
TOKENS = {
    "SHAPE": "(number, 12)",
    "LABELS_SHAPE": "(number, 12)",
    "LOGITS_SHAPE": "(number, 12, 3)",
    "DOCSTRING": "An embedding and two linear layers, applied to each token.",
    "LOSS_ARGUMENTS": "outputs.flatten(0, 1), labels.flatten()",
    "LAYERS": """            nn.Embedding(20, params.hidden_size),
            nn.Linear(params.hidden_size, params.hidden_size),
            nn.ReLU(),
            nn.Linear(params.hidden_size, NUM_CLASSES),""",
    "EXAMPLES": """    inputs = generator.integers(0, 20, (number, 12))
    return inputs, inputs % 3  # the token decides its class""",
}
LIKE = {"vision": IMAGES, "tabular": ROWS, "ner": TOKENS}


def skeleton(name: str, like: str) -> dict[str, str]:
    """Return the files of a new task: path -> text. `like` is a key of LIKE: the task whose inputs are similar."""
    paths = {
        f"model/{name}/__init__.py": '"""The task `NAME`."""\n',
        f"model/{name}/params.py": PARAMS,
        f"model/{name}/net.py": NET,
        f"model/{name}/data_loader.py": DATA_LOADER,
        f"data/{name}/build_dataset.py": BUILDER,
        f"data/{name}/README.md": "Made-up examples, written by `python data/NAME/build_dataset.py`.\n",
        "experiments/base_model/params.json": '{\n    "task": "NAME",\n    "learning_rate": 0.01,\n    "num_epochs": 10\n}\n',
    }
    words = {**LIKE[like], "NAME": name}
    for place, word in sorted(words.items(), key=lambda item: -len(item[0])):  # LABELS_SHAPE before SHAPE
        paths = {path: text.replace(place, word) for path, text in paths.items()}
    return paths
