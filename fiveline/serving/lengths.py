"""Sentences of any length in exported programs.

torch.export finds the shapes of what an LSTM or GRU returns by going through the example sentence, step by step; and so
takes its length for a constant, although the program calls the very same LSTM, which takes any. Here the shapes are
said, and nothing is gone through. Whether the program is right shows when it is run on sentences of other lengths,
which is what `verify.py` does, whatever a release of torch may make of the tables that are changed here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def _lstm(inputs: Tensor, hidden: list[Tensor], params: Any, has_biases: bool, *sizes: Any) -> tuple[Tensor, ...]:
    return _outputs(inputs, hidden[0], *sizes), torch.empty_like(hidden[0]), torch.empty_like(hidden[1])


def _gru(inputs: Tensor, hidden: Tensor, params: Any, has_biases: bool, *sizes: Any) -> tuple[Tensor, ...]:
    return _outputs(inputs, hidden, *sizes), torch.empty_like(hidden)


def _outputs(
    inputs: Tensor, hidden: Tensor, num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool
) -> Tensor:
    """Return a tensor of the outputs' shape, (batch_size, max_len, width) or with the first two the other way round."""
    return inputs.new_empty((*inputs.shape[:2], hidden.shape[2] * (2 if bidirectional else 1)))


@contextlib.contextmanager
def any_length(model: nn.Module) -> Iterator[None]:
    """Let torch.export, and the exporter to ONNX, leave the lengths of sequences open; for nets with an RNN in them."""
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    from torch._C import DispatchKey  # here, because these names are torch's own: other nets do without them
    from torch._decomp import global_decomposition_table

    places: list[tuple[Any, Any, Any]] = []
    operations = [(torch.ops.aten.lstm.input, _lstm), (torch.ops.aten.gru.input, _gru)]
    for operation, shapes in operations:
        places += [
            (operation.py_kernels, DispatchKey.CompositeImplicitAutograd, shapes),
            (operation.py_kernels, DispatchKey.Autograd, shapes),
            (global_decomposition_table["post_autograd"], operation, shapes),  # looked at on the way to ONNX
        ]
    before = [table.get(key) for table, key, _ in places]
    try:
        for table, key, shapes in places:
            table[key] = shapes
        _forget(operations)
        yield
    finally:
        for (table, key, _), function in zip(places, before, strict=True):
            if function is None:
                table.pop(key, None)
            else:
                table[key] = function
        _forget(operations)


def _forget(operations: list[tuple[Any, Any]]) -> None:
    for operation, _ in operations:
        operation._dispatch_cache.clear()
