"""The JSON beside an exported program: how to call it, how to prepare its inputs, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Mapping
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


def gather_facts(
    format_name: str,
    file_name: str,
    sides: tuple[Interface, Interface],
    params: utils.Params,
    described: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all facts about a program except how well it agrees with its net; `described` is from the task."""
    names = list(sides[0].shapes)
    pairs = "{" + ", ".join(f"{name!r}: {name}" for name in names) + "}"
    call = {"dict": pairs, "tensor": names[0], "tuple": f"({', '.join(names)},)"}[sides[0].kind]
    inputs, outputs = (
        [{"name": name, "dtype": side.dtypes[name], "shape": shape} for name, shape in side.shapes.items()]
        for side in sides
    )
    meaning = {"meaning": described["outputs"]} if "outputs" in described else {}
    steps = {key: value for key, value in described.items() if key not in ("axes", "outputs")}
    return {
        "format": format_name,
        "usage": [line.format(file=file_name, call=call, pairs=pairs) for line in USAGE[format_name]],
        "inputs": inputs,
        "preprocessing": {"where": "before the program, which does none of it", **steps},
        "outputs": [{**output, **meaning} for output in outputs],
        "hyperparameters": params.model_dump(mode="json"),
        "made_by_torch": str(torch.__version__),
    }
