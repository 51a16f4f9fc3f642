"""What whoever runs a program has to know of it, as one JSON object: how to call it, with what, and what comes out."""

from __future__ import annotations

import importlib
from typing import Any

import torch

import utils
from fiveline.serving.interface import Interface

USAGE = {
    "pt2": ["import torch", "program = torch.export.load({file!r}).module()", "outputs = program({call})"],
    "torchscript": ["import torch", "program = torch.jit.load({file!r})", "outputs = program({call})"],
    "onnx": [
        "import onnxruntime",
        "session = onnxruntime.InferenceSession({file!r})",
        "outputs = session.run(None, {pairs})  # of NumPy arrays",
    ],
    "safetensors": ["from safetensors.torch import load_file", "state_dict = load_file({file!r})  # weights alone"],
}


def _describe_inputs(params: utils.Params) -> dict[str, Any]:
    """Return what the task says of its inputs; where it says nothing, what the data has decided."""
    module = importlib.import_module(f"model.{params.task}.data_loader")
    if not hasattr(module, "describe_inputs"):
        return {"facts": params.facts}
    described: dict[str, Any] = module.describe_inputs(params)
    return described


def axis_names(params: utils.Params) -> dict[str, list[str]]:
    """Return what the task calls the axes of its inputs, as far as it does."""
    names: dict[str, list[str]] = _describe_inputs(params).get("axes", {})
    return names


def gather_facts(
    format_name: str, file_name: str, sides: tuple[Interface, Interface], params: utils.Params
) -> dict[str, Any]:
    """Return all that there is to say of a program but how well it agrees with its net.

    Args:
        format_name: as in export.py's --format
        file_name: of the program
        sides: the interfaces of inputs and outputs
        params: with facts
    """
    described = {key: value for key, value in _describe_inputs(params).items() if key != "axes"}
    meaning = {"meaning": described.pop("outputs")} if "outputs" in described else {}
    return {
        "format": format_name,
        "usage": _usage(format_name, file_name, sides[0]),
        "inputs": _tensors(sides[0]),
        "preprocessing": {"where": "before the program: nothing of it is inside", **described},
        "outputs": [{**entry, **meaning} for entry in _tensors(sides[1])],
        "hyperparameters": params.model_dump(mode="json"),
        "made_by_torch": str(torch.__version__),
    }


def _usage(format_name: str, file_name: str, inputs: Interface) -> list[str]:
    """Return lines of Python that run a program."""
    names = list(inputs.shapes)
    pairs = "{" + ", ".join(f"{name!r}: {name}" for name in names) + "}"
    call = {"dict": pairs, "tensor": names[0], "tuple": f"({', '.join(names)},)"}[inputs.kind]
    return [line.format(file=file_name, call=call, pairs=pairs) for line in USAGE[format_name]]


def _tensors(side: Interface) -> list[dict[str, Any]]:
    """Return name, type and shape of each; an axis with a name may be of any size."""
    return [{"name": name, "dtype": side.dtypes[name], "shape": shape} for name, shape in side.shapes.items()]
