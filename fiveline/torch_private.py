"""Everything that uses private parts of torch. Each function states its reason, and the fallback if they change.

Reviewed with torch 2.14; review it again with 2.17.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import Optimizer


def put_off_dynamo() -> None:
    """Let torch._dynamo be imported when something is compiled, not by the first optimizer.

    Reason: the import takes about a second of every start. Optimizers import it to mark functions that a compiler
    should leave out; here the marks are set without it.
    Fallback: where torch keeps these functions under other names, the optimizer imports torch._dynamo as usual.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        function = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if function is not None:
            setattr(function, "__dynamo_disable", function)  # noqa: B010  where torch keeps the function to call
    for optimizer in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop):
        step = getattr(vars(optimizer).get("step"), "__wrapped__", None)  # AdamW's is that of Adam
        if step is not None:
            optimizer.step = torch.no_grad()(step)  # type: ignore[method-assign]


def is_compiled(net: nn.Module) -> bool:
    """Return whether `net.compile()` was called.

    Reason: torch has no public way to tell, and run.json records it.
    Fallback: False.
    """
    return getattr(net, "_compiled_call_impl", None) is not None


@contextlib.contextmanager
def any_length(model: nn.Module) -> Iterator[None]:
    """Let torch.export leave the length of sequences open, for a net with an LSTM or GRU in it.

    Reason: torch.export unrolls an RNN step by step, so the length of the example becomes a constant. torch has
    replacements that avoid this, but no public name for them. Its own ONNX exporter uses them only while it captures
    the net: for a net with two directions it still writes constant shapes. Only shapes are taken from the replacements:
    the program calls the LSTM or GRU itself.
    Fallback: where torch lacks the replacements, `export.py` refuses such a net; other nets are not affected.
    """
    if not any(isinstance(module, nn.LSTM | nn.GRU) for module in model.modules()):
        yield
        return
    from torch.export import _patches

    with contextlib.ExitStack() as stack:
        for operation, replacement in (
            (torch.ops.aten.lstm.input, _patches.register_lstm_while_loop_decomposition),
            (torch.ops.aten.gru.input, _patches.register_gru_while_loop_decomposition),
        ):
            stack.callback(operation._dispatch_cache.clear)  # runs last: torch remembers what an operation called
            stack.enter_context(replacement())
            operation._dispatch_cache.clear()
        yield
