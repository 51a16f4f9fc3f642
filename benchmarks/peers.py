"""Compare train.py with other trainers: the same net and dataset, from the shell to the last checkpoint.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.peers
    python -m benchmarks.peers --model_dir experiments/signs --data_dir data/64x64_SIGNS --peers plain lightning

Each trainer is a whole process, as its users would write it. It trains the experiment's net with Adam, at a constant
learning rate, on the task's own dataset, evaluates on val after each epoch and saves checkpoints. Everything else is
the trainer's default. "plain" is a plain PyTorch loop, like that of CS230's scripts. Trainers that are not installed
are left out. Works in temporary folders.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import utils
from benchmarks.timing import PROJECT, new_parser, print_ratios, run_python, take_turns
from fiveline.loader import Split
from fiveline.tasks import fetch_collate_fn, fetch_dataset, fetch_facts, fetch_params, fetch_task


class Problem:
    """What every trainer gets: the experiment's net, loss, optimizer and data, and a folder for checkpoints."""

    def __init__(self, params: utils.Params, folder: Path) -> None:
        torch.manual_seed(params.seed)
        data_dir = Path(params.data_dir or "")
        params = fetch_facts(data_dir, params)
        self.params, self.folder, task = params, folder, fetch_task(params)
        self.model: nn.Module = task.Net(params)
        self.loss_fn: Callable[[Any, Tensor], Tensor] = task.train_loss_fn
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=params.learning_rate)
        self.train, self.val = (self._loader(split, data_dir) for split in ("train", "val"))

    def _loader(self, split: str, data_dir: Path) -> DataLoader[Any]:
        dataset = Split(fetch_dataset(split, data_dir, self.params), fetch_collate_fn(self.params.task), 0)
        if split == "train":
            dataset.set_epoch(1)  # from now on it augments
        return DataLoader(dataset, self.params.batch_size, shuffle=split == "train", collate_fn=lambda batch: batch)


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right answers in a batch."""
    return (outputs.argmax(dim=1) == labels).float().mean()


@torch.no_grad()
def score(model: nn.Module, loader: DataLoader[Any]) -> float:
    """Return the mean accuracy over the batches."""
    model.eval()
    return torch.stack([accuracy(model(inputs), labels) for inputs, labels in loader]).mean().item()


def plain(problem: Problem) -> None:
    """Train with a plain PyTorch loop, which reads the loss at each step."""
    model, optimizer = problem.model, problem.optimizer
    for _ in range(problem.params.num_epochs):
        model.train()
        total = 0.0
        for inputs, labels in problem.train:
            loss = problem.loss_fn(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        score(model, problem.val)
        state = {"state_dict": model.state_dict(), "optim_dict": optimizer.state_dict()}
        torch.save(state, problem.folder / "last.pth.tar")


def accelerate(problem: Problem) -> None:
    """Train with Hugging Face's accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, train, val = accelerator.prepare(problem.model, problem.optimizer, problem.train, problem.val)
    for _ in range(problem.params.num_epochs):
        model.train()
        for inputs, labels in train:
            optimizer.zero_grad()
            accelerator.backward(problem.loss_fn(model(inputs), labels))
            optimizer.step()
        score(model, val)
        accelerator.save_state(problem.folder)


def lightning(problem: Problem) -> None:
    """Train with Lightning's Trainer."""
    import lightning as lightning_package

    class Module(lightning_package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = problem.model

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            loss = problem.loss_fn(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
            self.log("val_accuracy", accuracy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return problem.optimizer

    trainer = lightning_package.Trainer(
        max_epochs=problem.params.num_epochs, accelerator="cpu", default_root_dir=problem.folder, log_every_n_steps=10
    )
    trainer.fit(Module(), problem.train, problem.val)


def transformers(problem: Problem) -> None:
    """Train with transformers' Trainer, which makes its own optimizer and loaders."""
    from transformers import Trainer, TrainingArguments

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = problem.model.to(memory_format=torch.contiguous_format)  # its checkpoints hold no other

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            outputs = self.net(inputs)
            return {"loss": problem.loss_fn(outputs, labels), "logits": outputs}

    params = problem.params
    settings = TrainingArguments(
        str(problem.folder), num_train_epochs=params.num_epochs, per_device_train_batch_size=params.batch_size,
        per_device_eval_batch_size=params.batch_size, learning_rate=params.learning_rate, eval_strategy="epoch",
        save_strategy="epoch", use_cpu=True, report_to=[], remove_unused_columns=False,
    )  # fmt: skip
    Trainer(
        Wrapped(), settings, data_collator=lambda batch: {"inputs": batch[0], "labels": batch[1]},
        train_dataset=problem.train.dataset, eval_dataset=problem.val.dataset,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(axis=1) == p.label_ids).mean())},
    ).train()  # fmt: skip


PEERS: dict[str, Callable[[Problem], None]] = {
    "plain": plain, "lightning": lightning, "transformers": transformers, "accelerate": accelerate
}  # fmt: skip
MISSING = [name for name in PEERS if name != "plain" and importlib.util.find_spec(name) is None]


def run_with(values: Mapping[str, Any], *words: str) -> None:
    """Run a script in a temporary folder that holds a params.json with these values."""
    with tempfile.TemporaryDirectory() as folder:
        utils.save_dict_to_json(values, Path(folder, "params.json"))
        run_python(*words, "--model_dir", folder)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, or one of the trainers that it times."""
    parser = new_parser(__doc__, rounds=5)
    parser.add_argument("--model_dir", type=Path, default="experiments/base_model", help="of a task with classes")
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--num_epochs", type=int, default=3, help="epochs that each trainer runs")
    installed = [name for name in PEERS if name not in MISSING]
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=installed, help="trainers to compare with")
    parser.add_argument("--run", choices=PEERS, help="run one trainer, in --model_dir, and time nothing")
    args = parser.parse_args(argv)
    params = fetch_params(PROJECT / args.model_dir, utils.with_data_dir([], args.data_dir))
    if args.run:
        logging.disable(logging.INFO)
        PEERS[args.run](Problem(params, args.model_dir))
        return
    # without what only train.py does: the others use Adam and no schedule
    settings = {"optimizer": "adam", "weight_decay": 0.0, "schedule": "constant", "num_epochs": args.num_epochs}
    values = {**params.explicit_values(), **settings, "data_dir": str(Path(params.data_dir or "").resolve())}
    commands = {name: ["-m", "benchmarks.peers", "--run", name] for name in args.peers} | {"ours": ["train.py"]}
    actions = {name: lambda words=words: run_with(values, *words) for name, words in commands.items()}
    print_ratios(f"{args.num_epochs} epochs", take_turns(actions, args.rounds))


if __name__ == "__main__":
    main()
