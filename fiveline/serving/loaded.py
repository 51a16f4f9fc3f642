"""A trained run in Python: `fiveline.load("experiments/x")`, for notebooks and for programs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import utils
from fiveline.device import fetch_device, tensors_of, to_device
from fiveline.loader import fetch_dataloader
from fiveline.options.forward import prepare
from fiveline.serving.generating import continue_prompts
from fiveline.serving.output import fetch_margin, with_intervals
from fiveline.serving.trained import fetch_trained, predict
from fiveline.serving.unlabelled import check_input, fetch_unlabelled
from fiveline.tasks import fetch_serve


class Run:
    """A trained net, and everything that its use needs.

    Attributes:
        path: the checkpoint
        params: its hyperparameters; `params.facts` holds the values that depend on the data
        task: the task's loss_fn and metrics
        model: the net, in eval mode, on its device
        classes: the names of the classes; an empty list if the task has none
    """

    def __init__(self, model_dir: Path, restore_file: str, device: str | None) -> None:
        self.path = utils.checkpoint_path(model_dir, restore_file)
        self.params, self.task, model = fetch_trained(model_dir, self.path, [])
        self.model = prepare(model, self.params, fetch_device(device)).eval()
        self.classes: list[str] = self.params.facts.get("classes", [])
        self._margin = fetch_margin(self.path, model_dir)

    def predict(self, inputs: Any) -> list[dict[str, Any]]:
        """Return a row for each input, as predict.py does: its prediction, and for classes its confidence.

        Args:
            inputs: a path or a list of paths, as for predict.py --input (a row then has an `id`, and an `error` if the
                input is broken); or a batch as the net takes it: a tensor, or a tuple or dict of tensors

        Raises:
            InputError: a path does not exist, or the task has no function that reads new inputs
        """
        serve: Any = fetch_serve(self.params.task)
        inputs = [inputs] if isinstance(inputs, str | Path) else inputs
        if isinstance(inputs, list) and all(isinstance(each, str | Path) for each in inputs):
            paths = [Path(path) for path in inputs]
            for path in paths:
                check_input(path)
            if hasattr(serve, "fetch_generator") and (generator := serve.fetch_generator(self.model, self.params)):
                return list(continue_prompts(generator, paths, shown=False) or [])
            batches: Any = fetch_unlabelled(paths, serve, self.params)
        else:
            batches = [([{} for _ in tensors_of(inputs)[0]], inputs, None)]
        return list(with_intervals(predict(self.model, serve, batches, self.params), self._margin))

    def __str__(self) -> str:
        """Return a table of the layers, with the shapes of their outputs for one example of val."""
        outputs: dict[nn.Module, list[Any]] = {}  # in the order of the calls
        hook = register_module_forward_hook(lambda module, _, output: outputs.update({module: tensors_of(output)}))
        weights = list(self.model.parameters())
        with hook, contextlib.suppress(utils.InputError, OSError):  # the data is not on this machine: no shapes
            dataset: Any = fetch_dataloader("val", Path(self.params.data_dir or ""), self.params).dataset
            with torch.inference_mode():
                self.model(to_device(dataset.__getitems__([0])[0], weights[0].device))
        names = {module: name or "(the net)" for name, module in self.model.named_modules()}
        rows, num_bytes = [], 0
        for module in dict.fromkeys([*outputs, *names]):
            number = sum(each.numel() for each in module.parameters(recurse=False))
            if number or not [*module.children()]:
                shapes = " ".join(str(tuple(tensor.shape)) for tensor in outputs.get(module, []))
                num_bytes += sum(tensor.nbytes for tensor in outputs.get(module, []))
                rows.append([names[module], type(module).__name__, shapes, f"{number:,}"])
        table = tabulate(rows, headers=["layer", "kind", "output", "weights"], disable_numparse=True)
        number, megabytes = sum(each.numel() for each in weights), sum(each.nbytes for each in weights) / 1e6
        return (
            f"{self.path}, task {self.params.task}, on {weights[0].device}\n{table}\n"
            f"{number:,} weights, {megabytes:.2f} MB; outputs of the layers for one example: {num_bytes / 1e6:.2f} MB"
        )
