"""Nets for rows of numbers, a linear layer written by hand, the loss, and the metrics.

For classes, outputs are logits. For a number, outputs and labels are in standard deviations of the train targets from
their mean, so that learning rates do not depend on the unit; metrics and predictions are in the data's own unit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.tabular.params import Params


class LinearFunction(torch.autograd.Function):
    """y = x W^T + b with its derivatives written out: an operation that autograd learns from us.

    With dy the gradient of the loss with respect to y:  dx = dy W,  dW = dy^T x,  db = the sum of dy over the rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return y, (..., num_outputs), of x, (..., num_inputs), weight, (num_outputs, num_inputs), and bias."""
        ctx.save_for_backward(x, weight)  # unlike an attribute of ctx, this notices changes in place
        rows = x.reshape(-1, x.shape[-1])  # (num_rows, num_inputs)
        outputs = rows.mm(weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
        return outputs.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, weight and bias, each only if it is needed."""
        x, weight = ctx.saved_tensors
        x = x.to(weight.dtype)  # under autocast, x and y can be of a smaller type than the weights
        grad_rows = grad_outputs[0].to(weight.dtype).reshape(-1, weight.shape[0])  # (num_rows, num_outputs)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_x = grad_rows.mm(weight).reshape(x.shape) if needs_x else None
        grad_weight = grad_rows.t().mm(x.reshape(-1, x.shape[-1])) if needs_weight else None
        grad_bias = grad_rows.sum(dim=0) if needs_bias else None
        return grad_x, grad_weight, grad_bias


class Linear(nn.Module):
    """nn.Linear written by hand, with its random start. `linear_layer: custom` in the params chooses it."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        else:
            self.register_parameter("bias", None)  # the name exists; no optimizer or checkpoint sees a weight

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features) of x, (..., in_features)."""
        return LinearFunction.apply(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the text that `print` shows between the brackets."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _parts(params: Params) -> tuple[type[nn.Module], int, int]:
    """Return the class of the linear layers, the number of features, and the number of outputs."""
    layer: type[nn.Module] = Linear if params.linear_layer == "custom" else nn.Linear
    return layer, len(params.facts["feature_names"]), len(params.classes) if params.target_type == "classes" else 1


def _one_number(outputs: Tensor) -> Tensor:
    """Return (batch_size,) of (batch_size, 1), the shape of a number's labels; leave classes as they are."""
    return outputs.squeeze(1) if outputs.shape[1] == 1 else outputs  # ONNX squeezes no other size


class LinearNet(nn.Module):
    """One linear layer: logistic regression, or linear regression."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        layer, num_features, num_outputs = _parts(params)
        self.linear = layer(num_features, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch_size, num_classes), or (batch_size,) for a number, of x, (batch_size, num_features)."""
        return _one_number(self.linear(x))


class TwoLayerNet(nn.Module):
    """A hidden layer with ReLU between two linear layers."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        layer, num_features, num_outputs = _parts(params)
        self.linear1 = layer(num_features, params.hidden_size)
        self.linear2 = layer(params.hidden_size, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch_size, num_classes), or (batch_size,) for a number, of x, (batch_size, num_features)."""
        hidden = F.relu(self.linear1(x))  # (batch_size, hidden_size)
        return _one_number(self.linear2(hidden))


class MultiLayerNet(nn.Module):
    """Any number of hidden layers: linear, batch norm where chosen, ReLU, dropout."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        layer, num_features, num_outputs = _parts(params)
        sizes = [num_features, *params.hidden_sizes]
        self.hidden = nn.ModuleList(layer(size, next_size) for size, next_size in zip(sizes, sizes[1:], strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) if params.batch_norm else nn.Identity() for size in sizes[1:])
        self.last = layer(sizes[-1], num_outputs)
        self.dropout_rate = params.dropout_rate

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch_size, num_classes), or (batch_size,) for a number, of x, (batch_size, num_features)."""
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            x = F.dropout(F.relu(norm(linear(x))), self.dropout_rate, self.training)  # (batch_size, a hidden size)
        return _one_number(self.last(x))


def Net(params: Params) -> nn.Module:
    """Return the net that params.net names, with random weights drawn from the global generator."""
    net: Any = {"linear": LinearNet, "two_layer": TwoLayerNet, "mlp": MultiLayerNet}[params.net](params)
    net.named_by = {next(iter(net.state_dict())): "feature_names"}
    return net


def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of classes, or the mean squared error of a standardised number."""
    if labels.is_floating_point():
        return F.mse_loss(outputs.to(labels.dtype), labels)  # under autocast, outputs are of a smaller type
    return F.cross_entropy(outputs, labels)


@functools.lru_cache(maxsize=1)  # four metrics ask for the counts of the same batch
def count_classes(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count the correct predictions of each class, its predictions, and its labels; each (num_classes,), float32."""
    predicted, ones = outputs.argmax(dim=1), torch.ones(len(labels), device=labels.device)
    zeros = ones.new_zeros(outputs.shape[1])
    correct = zeros.index_add(0, labels, (predicted == labels).float())
    return correct, zeros.index_add(0, predicted, ones), zeros.index_add(0, labels, ones)


def mean_error(outputs: Tensor, labels: Tensor, power: int, target_std: float) -> tuple[Tensor, Tensor]:
    """Divide the sum of the absolute errors in the target's unit, each to a power, by the number of examples."""
    return (outputs - labels).abs().pow(power).sum() * target_std**power, torch.ones_like(labels).sum()


def r2(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the squared error saved over predicting the mean of train, 0 in standardised units, by the error of it."""
    total = labels.square().sum()
    return total - (outputs - labels).square().sum(), total


def metrics(params: Params) -> dict[str, Any]:
    """Return name -> function of outputs and labels, which returns a numerator and a denominator."""
    if params.target_type == "number":
        target_std = params.facts["target_std"]
        mae: Any = functools.partial(mean_error, power=1, target_std=target_std)
        rmse: Any = functools.partial(mean_error, power=2, target_std=target_std)
        mae.lower_is_better, rmse.lower_is_better, rmse.finish = True, True, torch.sqrt
        return {"mae": mae, "rmse": rmse, "r2": r2}

    def ratio(choose: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return lambda outputs, labels: choose(*count_classes(outputs, labels))

    return {
        "accuracy": ratio(lambda correct, predicted, labelled: (correct.sum(), labelled.sum())),
        "macro_precision": ratio(lambda correct, predicted, labelled: (correct, predicted)),
        "macro_recall": ratio(lambda correct, predicted, labelled: (correct, labelled)),
        "macro_f1": ratio(lambda correct, predicted, labelled: (2 * correct, predicted + labelled)),
    }
