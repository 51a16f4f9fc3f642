"""A trained run in Python: `fiveline.load("experiments/x")`, for notebooks and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

import utils
from fiveline.device import fetch_device, tensors_of, to_cpu, to_device
from fiveline.loader import fetch_dataloader
from fiveline.options.forward import prepare
from fiveline.serving.trained import fetch_predictions, fetch_trained
from fiveline.serving.unlabelled import check_input, fetch_unlabelled
from fiveline.tasks import fetch_serve

if TYPE_CHECKING:
    from torch import nn


class Run:
    """A trained net with what is needed to use it.

    Attributes:
        model: the net, an nn.Module in eval mode, on its device
        params: the hyperparameters; `params.facts` holds what the data decided
        classes: the names of the classes; an empty list if the task has none
        path: the checkpoint
    """

    def __init__(self, model_dir: str | Path, restore_file: str = "best", device: str | None = None) -> None:
        self.path = utils.checkpoint_path(Path(model_dir), restore_file)
        self.params, self.task, model = fetch_trained(Path(model_dir), self.path, [])
        self.model: nn.Module = prepare(model, self.params, fetch_device(device)).eval()
        self.classes: list[str] = self.params.facts.get("classes", [])

    def predict(self, inputs: Any) -> list[dict[str, Any]]:
        """Return a row for each input: its prediction, and its confidence if the task has classes.

        Args:
            inputs: a path or a list of paths, as for predict.py --input (each row then has an `id`, and an `error` if
                the input is broken); or a batch as the net takes it, a tensor or a tuple or dict of tensors

        Raises:
            InputError: a path does not exist, or the task has no serve.py
        """
        serve = fetch_serve(self.params.task)
        is_path = isinstance(inputs, str | Path)
        if not is_path and not (isinstance(inputs, list) and all(isinstance(each, str | Path) for each in inputs)):
            return self._rows(serve, inputs, None)
        paths = [Path(each) for each in ([inputs] if is_path else inputs)]
        for path in paths:
            check_input(path)
        found = []
        for rows, batch, labels in fetch_unlabelled(paths, serve, self.params):
            answers = iter([] if batch is None else self._rows(serve, batch, labels))
            found += [row if "error" in row else {**row, **next(answers)} for row in rows]
        return found

    def _rows(self, serve: Any, inputs: Any, labels: Any) -> list[dict[str, Any]]:
        import torch

        with torch.inference_mode():
            outputs = to_cpu(self.model(to_device(inputs, next(self.model.parameters()).device)))
        rows = fetch_predictions(serve, outputs, labels, self.params, len(tensors_of(outputs)[0]))
        return [{key: row[key] for key in row if key not in ("label", "loss")} for row in rows]

    def __str__(self) -> str:
        rows = [[name, kind, shape, f"{number:,}"] for name, kind, shape, number in self.layers()]
        total = sum(weight.numel() for weight in self.model.parameters())
        megabytes = sum(weight.nbytes for weight in self.model.parameters()) / 1e6
        head = f"{self.path}, task {self.params.task}, on {next(self.model.parameters()).device}"
        table = tabulate(rows, headers=["layer", "kind", "output", "weights"], disable_numparse=True)
        return f"{head}\n{table}\n{total:,} weights, {megabytes:.1f} MB"

    def layers(self) -> list[tuple[str, str, str, int]]:
        """Return (name, kind, shape of the output, number of weights) of each layer, in the order of their calls.

        The shapes are those of one example of val; they are empty if the data is not there.
        """
        import torch

        shapes: dict[str, str] = {}
        leaves = [(name, each) for name, each in self.model.named_modules() if name and not list(each.children())]
        hooks = [
            each.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: shape_of(output)}))
            for name, each in leaves
        ]
        try:
            with torch.inference_mode():
                batches = fetch_dataloader("val", Path(self.params.data_dir or ""), self.params)
                inputs, _ = batches.dataset.__getitems__([0])
                self.model(to_device(inputs, next(self.model.parameters()).device))
        except utils.InputError:  # the data is not there: no shapes
            pass
        finally:
            for hook in hooks:
                hook.remove()
        order = [*shapes, *(name for name, _ in leaves if name not in shapes)]
        modules = dict(leaves)
        return [
            (
                name,
                type(modules[name]).__name__,
                shapes.get(name, ""),
                sum(w.numel() for w in modules[name].parameters()),
            )
            for name in order
        ]


def shape_of(output: Any) -> str:
    """Return the shapes of the tensors in a layer's output."""
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(output))
