"""A linear layer whose forward and backward are written out: how to teach autograd an operation of one's own.

`linear_layer: custom` in the params puts it in the place of nn.Linear. It computes the same; the point is to see how.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class LinearFunction(torch.autograd.Function):
    """y = x W^T + b, with its derivatives.

    With dy the gradient of the loss with respect to y:  dx = dy W,  dW = dy^T x,  db = the sum of dy over the rows.
    The backward is made of differentiable operations, so that second derivatives come by themselves.
    """

    generate_vmap_rule = True  # torch.func.vmap, for the gradient of each example alone, works too

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the outputs, (..., num_outputs).

        Args:
            x: (..., num_inputs)
            weight: (num_outputs, num_inputs)
            bias: (num_outputs,), or None
        """
        rows = x.reshape(-1, x.shape[-1])  # (num_rows, num_inputs)
        outputs = rows.mm(weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
        return outputs.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        """Keep what the backward needs. `save_for_backward`, unlike an attribute, notices changes in place."""
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, weight and bias, each only if somebody asks for it.

        Args:
            ctx: what `setup_context` kept
            grad_outputs: one, (..., num_outputs)
        """
        x, weight = ctx.saved_tensors
        # under autocast, outputs and perhaps x are of a smaller type than the weights
        grad_output, x = grad_outputs[0].to(weight.dtype), x.to(weight.dtype)
        grad_x = grad_weight = grad_bias = None
        grad_rows = grad_output.reshape(-1, weight.shape[0])  # (num_rows, num_outputs)
        if ctx.needs_input_grad[0]:
            grad_x = grad_rows.mm(weight).reshape(x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = grad_rows.t().mm(x.reshape(-1, x.shape[-1]))  # (num_outputs, num_inputs)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_rows.sum(dim=0)
        return grad_x, grad_weight, grad_bias


class Linear(nn.Module):
    """What nn.Linear is, on top of `LinearFunction`: the same weights from the same seed, under the same names.

    Args:
        in_features: size of the inputs' last dimension
        out_features: size of the outputs' last dimension
        bias: whether to add one
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias uniformly from +- 1 / sqrt(in_features)."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # comes to these bounds; nn.Linear spells it so
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs, (..., out_features).

        Args:
            x: (..., in_features)
        """
        outputs: Tensor = LinearFunction.apply(x, self.weight, self.bias)
        return outputs

    def extra_repr(self) -> str:
        """Return what print(model) shows between the brackets."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
