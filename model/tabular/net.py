"""Nets for rows of numbers, the loss, and the metrics.

Classes: outputs are logits. A quantity: outputs and labels are in standard deviations of the train targets from their
mean, so that learning rates do not depend on units; metrics and predictions are in the data's own units.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import utils
from model.tabular.linear import Linear
from model.tabular.params import Params

LINEAR_LAYERS: dict[str, Callable[[int, int], nn.Module]] = {"torch": nn.Linear, "custom": Linear}


def _sizes(params: Params) -> tuple[int, int]:
    """Return the number of features and of outputs."""
    return len(params.facts["feature_names"]), len(params.classes) if params.target_type == "classes" else 1


class LinearNet(nn.Module):
    """One linear layer: logistic regression, or linear regression.

    Args:
        params: linear_layer, and the facts
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        num_features, num_outputs = _sizes(params)
        self.linear = LINEAR_LAYERS[params.linear_layer](num_features, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch_size, num_classes), or (batch_size,) of a quantity, from x, (batch_size, num_features)."""
        return _flat(self.linear(x))


class TwoLayerNet(nn.Module):
    """A hidden layer with ReLU between two linear layers.

    Args:
        params: hidden_size, linear_layer, and the facts
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        layer = LINEAR_LAYERS[params.linear_layer]
        num_features, num_outputs = _sizes(params)
        self.linear1 = layer(num_features, params.hidden_size)
        self.linear2 = layer(params.hidden_size, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch_size, num_classes), or (batch_size,) of a quantity, from x, (batch_size, num_features)."""
        hidden = F.relu(self.linear1(x))  # (batch_size, hidden_size)
        return _flat(self.linear2(hidden))


class MultiLayerNet(nn.Module):
    """Any number of hidden layers: linear, batch norm if wanted, ReLU, dropout.

    Args:
        params: hidden_sizes, batch_norm, dropout_rate, linear_layer, and the facts
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        layer = LINEAR_LAYERS[params.linear_layer]
        num_features, num_outputs = _sizes(params)
        sizes = [num_features, *params.hidden_sizes]
        self.hidden = nn.ModuleList(layer(size, next_size) for size, next_size in zip(sizes, sizes[1:], strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) if params.batch_norm else nn.Identity() for size in sizes[1:])
        self.last = layer(sizes[-1], num_outputs)
        self.dropout_rate = params.dropout_rate

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch_size, num_classes), or (batch_size,) of a quantity, from x, (batch_size, num_features)."""
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            x = F.relu(norm(linear(x)))  # (batch_size, a hidden size)
            x = F.dropout(x, self.dropout_rate, self.training)
        return _flat(self.last(x))


def _flat(outputs: Tensor) -> Tensor:
    """Return (batch_size,) in the place of (batch_size, 1): one number an example, as the labels are."""
    return outputs.squeeze(1) if outputs.shape[1] == 1 else outputs


def Net(params: Params) -> nn.Module:
    """Return the net that params.net names, with random weights drawn from the global generator."""
    nets: dict[str, Callable[[Params], nn.Module]] = {
        "linear": LinearNet,
        "two_layer": TwoLayerNet,
        "mlp": MultiLayerNet,
    }
    return nets[params.net](params)


def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of classes, or the mean squared error of a quantity.

    Before training they are near log(num_classes) and near 1.

    Args:
        outputs: logits, (batch_size, num_classes), or standardised predictions, (batch_size,)
        labels: (batch_size,), class numbers, int64, or standardised targets, float32

    Returns:
        scalar, the mean over the batch
    """
    if labels.is_floating_point():
        return F.mse_loss(outputs.to(labels.dtype), labels)  # under autocast, outputs are of a smaller type
    return F.cross_entropy(outputs, labels)


def accuracy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the examples whose largest logit is the label's; of all examples."""
    return (outputs.argmax(dim=1) == labels).sum(), torch.ones_like(labels).sum()


@functools.lru_cache(maxsize=1)  # metrics ask one after the other for the same batch
def count_classes(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, for each class, the examples rightly called so, those called so, and those that are so.

    The last answer is kept: outputs and labels are not to be changed in place before the next.

    Args:
        outputs: logits, (batch_size, num_classes)
        labels: class numbers, (batch_size,)

    Returns:
        three tensors, (num_classes,), float32
    """
    called, num_classes = outputs.argmax(dim=1), outputs.shape[1]
    nobody, everyone = torch.zeros(num_classes, device=labels.device), torch.ones(len(labels), device=labels.device)
    hits = nobody.index_add(0, labels, (called == labels).float())
    return hits, nobody.index_add(0, called, everyone), nobody.index_add(0, labels, everyone)


def macro_precision(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count, for each class, the examples rightly called so; of those called so. Both (num_classes,)."""
    hits, called, _ = count_classes(outputs, labels)
    return hits, called


def macro_recall(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count, for each class, the examples rightly called so; of those that are so. Both (num_classes,)."""
    hits, _, are = count_classes(outputs, labels)
    return hits, are


def macro_f1(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count, for each class, twice the hits; of those called so plus those that are so. Both (num_classes,)."""
    hits, called, are = count_classes(outputs, labels)
    return 2 * hits, called + are


def mae(outputs: Tensor, labels: Tensor, target_std: float) -> tuple[Tensor, Tensor]:
    """Sum the distances between prediction and target, in the target's unit; of all examples."""
    return (outputs - labels).abs().sum() * target_std, torch.ones_like(labels).sum()


def rmse(outputs: Tensor, labels: Tensor, target_std: float) -> tuple[Tensor, Tensor]:
    """Sum the squared distances, in the target's unit squared; of all examples. The root is taken at the end."""
    return (outputs - labels).square().sum() * target_std**2, torch.ones_like(labels).sum()


def r2(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum how much closer the predictions are, squared, than the mean of train is; of the squared distances from it.

    In standardised units the mean of train is 0. (scikit-learn takes the mean of the split that is scored.)
    """
    total = labels.square().sum()
    return total - (outputs - labels).square().sum(), total


def metrics(params: Params) -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Return the metrics: of classes, or of a quantity in its own unit, which takes the std of train to say."""
    if params.target_type == "classes":
        return {
            "accuracy": accuracy,
            "macro_precision": macro_precision,
            "macro_recall": macro_recall,
            "macro_f1": macro_f1,
        }
    std = params.facts["target_std"]
    root = functools.partial(rmse, target_std=std)
    root.finish = torch.sqrt  # type: ignore[attr-defined]
    distance = functools.partial(mae, target_std=std)
    root.lower_is_better = distance.lower_is_better = True  # type: ignore[attr-defined]
    return {"mae": distance, "rmse": root, "r2": r2}


def predictions(outputs: Tensor, labels: Tensor | None, params: Params) -> list[dict[str, Any]]:
    """Return one dict an example: the prediction, of classes with its probability, and, where known, label and loss.

    Args:
        outputs: as of Net, on the CPU
        labels: (batch_size,), or None for inputs without
        params: for the classes' names, or the mean and std that give a quantity its unit back
    """
    rows: list[dict[str, Any]]
    if params.target_type == "number":
        rows = [{"prediction": value} for value in _in_units(outputs, params)]
        if labels is not None:
            losses = F.mse_loss(outputs, labels, reduction="none").tolist()
            for row, label, loss in zip(rows, _in_units(labels, params), losses, strict=True):
                row.update(label=label, loss=loss)
        return rows
    confidences, called = outputs.softmax(dim=1).max(dim=1)
    rows = [
        {"prediction": params.classes[number], "confidence": confidence}
        for number, confidence in zip(called.tolist(), confidences.tolist(), strict=True)
    ]
    if labels is not None:
        losses = F.cross_entropy(outputs, labels, reduction="none").tolist()
        for row, number, loss in zip(rows, labels.tolist(), losses, strict=True):
            row.update(label=params.classes[number], loss=loss)
    return rows


def probabilities(outputs: Tensor, _: Tensor | None, params: Params) -> list[dict[str, float]]:
    """Return the probability of each class, one dict an example.

    Raises:
        InputError: a number is predicted
    """
    if params.target_type == "number":
        raise utils.InputError("--probabilities: this run predicts a number, not classes; leave the flag out")
    return [dict(zip(params.classes, row, strict=True)) for row in outputs.softmax(dim=1).tolist()]


def _in_units(values: Tensor, params: Params) -> list[float]:
    """Return standardised values in the data's own unit, with the decimals that float32 can tell apart."""
    std = params.facts["target_std"]
    decimals = 5 - math.floor(math.log10(std))
    return [round(value, decimals) for value in (values.double() * std + params.facts["target_mean"]).tolist()]
