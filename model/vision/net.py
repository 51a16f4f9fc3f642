"""Nets for images, the loss, and the metrics. (The models of torchvision and timm are in `published_nets.py`.)"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.vision.params import Params
from model.vision.published_nets import freeze, published_net


class ThreeConvNet(nn.Module):
    """CS230's net: three blocks of convolution, batch norm, pooling and ReLU, then two linear layers.

    Parameter names are CS230's, so its checkpoints load.
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        width, side = params.num_channels, params.image_size // 8
        self.conv1 = nn.Conv2d(params.image_channels, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width * 2, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width * 2)
        self.conv3 = nn.Conv2d(width * 2, width * 4, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.fc1 = nn.Linear(side * side * width * 4, width * 4)
        self.fcbn1 = nn.BatchNorm1d(width * 4)
        self.fc2 = nn.Linear(width * 4, len(params.classes))
        self.dropout_rate = params.dropout_rate

    def forward(self, s: Tensor) -> Tensor:
        """Return logits, (batch_size, num_classes), of images, (batch_size, image_channels, image_size, image_size)."""
        s = F.relu(F.max_pool2d(self.bn1(self.conv1(s)), 2))  # (batch_size, num_channels, image_size / 2, ...)
        s = F.relu(F.max_pool2d(self.bn2(self.conv2(s)), 2))  # (batch_size, num_channels * 2, image_size / 4, ...)
        s = F.relu(F.max_pool2d(self.bn3(self.conv3(s)), 2))  # (batch_size, num_channels * 4, side, side)
        s = s.flatten(1)  # (batch_size, num_channels * 4 * side * side)
        s = F.relu(self.fcbn1(self.fc1(s)))  # (batch_size, num_channels * 4)
        s = F.dropout(s, self.dropout_rate, self.training)
        return self.fc2(s)  # (batch_size, num_classes)


class MnistNet(nn.Module):
    """The small net of many PyTorch tutorials: two 5 x 5 convolutions, one pooling, two linear layers."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        width, side = params.num_channels, (params.image_size - 8) // 2
        self.conv1 = nn.Conv2d(params.image_channels, width, 5)
        self.conv2 = nn.Conv2d(width, width * 2, 5)
        self.fc1 = nn.Linear(width * 2 * side * side, 100)
        self.fc2 = nn.Linear(100, len(params.classes))
        self.dropout_rate = params.dropout_rate

    def forward(self, s: Tensor) -> Tensor:
        """Return logits, (batch_size, num_classes), of images, (batch_size, image_channels, image_size, image_size)."""
        s = F.relu(self.conv1(s))  # (batch_size, num_channels, image_size - 4, image_size - 4)
        s = F.relu(F.max_pool2d(self.conv2(s), 2))  # (batch_size, num_channels * 2, side, side)
        s = F.relu(self.fc1(s.flatten(1)))  # (batch_size, 100)
        s = F.dropout(s, self.dropout_rate, self.training)
        return self.fc2(s)  # (batch_size, num_classes)


def Net(params: Params) -> nn.Module:
    """Return the net that params.net names, with random weights drawn from the global generator.

    With params.channels_last, weights are stored in the order in which convolutions are fastest.
    """
    nets: dict[str, Callable[[Params], nn.Module]] = {"cs230": ThreeConvNet, "mnist": MnistNet}
    order = torch.channels_last if params.channels_last else torch.contiguous_format
    net = nets.get(params.net, published_net)(params).to(memory_format=order)
    if params.freeze_backbone:
        freeze(net)
    return net


def loss_fn(outputs: Tensor, labels: Tensor, label_smoothing: float = 0, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy, a scalar, written out; torch.nn.functional.cross_entropy does the same.

    Outputs are logits, (batch_size, num_classes); labels are class numbers, (batch_size,). `label_smoothing` is the
    share of each label that is spread evenly over all classes. `class_weights`, (num_classes,), are 1 on average.
    """
    num_examples = labels.shape[0]
    log_probabilities = F.log_softmax(outputs, dim=1)  # (batch_size, num_classes)
    losses = -log_probabilities[torch.arange(num_examples, device=labels.device), labels]  # (batch_size,)
    if label_smoothing > 0:
        losses = (1 - label_smoothing) * losses - label_smoothing * log_probabilities.mean(dim=1)
    if class_weights is not None:
        losses = losses * class_weights.to(losses.device, non_blocking=True)[labels]
    return losses.sum() / num_examples


def train_loss_fn(params: Params) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss to train on: `loss_fn` with the label smoothing and the class weights of the hyperparameters."""
    weights = None
    if params.class_weights == "balanced":
        counts = torch.tensor(params.facts["class_counts"], dtype=torch.float32).reshape(len(params.classes))
        weights = counts.sum() / (len(counts) * counts)
    return functools.partial(loss_fn, label_smoothing=params.label_smoothing, class_weights=weights)


def accuracy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the examples whose largest logit is the label's; and all examples."""
    return (outputs.argmax(dim=1) == labels).sum(), torch.ones_like(labels).sum()


def top_5_accuracy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the examples whose label is among the five largest logits; and all examples."""
    top = outputs.topk(min(5, outputs.shape[1]), dim=1).indices  # (batch_size, 5)
    return (top == labels.unsqueeze(1)).sum(), torch.ones_like(labels).sum()


@functools.lru_cache(maxsize=1)  # three metrics use the counts of the same batch
def count_classes(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count the correct predictions of each class, its predictions, and its labels; each (num_classes,), float32."""
    predicted = outputs.argmax(dim=1)
    zeros, ones = outputs.new_zeros(outputs.shape[1], dtype=torch.float32), torch.ones_like(labels, dtype=torch.float32)
    correct = zeros.index_add(0, labels, (predicted == labels).float())
    return correct, zeros.index_add(0, predicted, ones), zeros.index_add(0, labels, ones)


def _ratio(choose: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the metric that divides two of the counts of `count_classes`."""
    return lambda outputs, labels: choose(*count_classes(outputs, labels))


metrics = {
    "accuracy": accuracy,
    "top_5_accuracy": top_5_accuracy,
    "macro_precision": _ratio(lambda correct, predicted, labelled: (correct, predicted)),
    "macro_recall": _ratio(lambda correct, predicted, labelled: (correct, labelled)),
    "macro_f1": _ratio(lambda correct, predicted, labelled: (2 * correct, predicted + labelled)),
}
