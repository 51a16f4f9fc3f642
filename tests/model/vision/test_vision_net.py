"""Nets for images: parameter names, forward passes, frozen backbones; the loss and the metrics, held to others'."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, top_k_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torchvision import models

from fiveline.metrics import MetricSums
from fiveline.options import pretrained
from model.vision import net
from model.vision.params import Params
from tests.support.data import refusal


def make_params(num_classes=6, counts=None, **values):
    names = [f"class {i}" for i in range(num_classes)]
    return Params(**values).with_facts({"classes": names, "class_counts": counts or [10] * num_classes})


def make_outputs(num_examples, num_classes):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (num_examples,), generator=generator)
    return torch.randn(num_examples, num_classes, generator=generator) + 2 * F.one_hot(labels, num_classes), labels


def test_mnist_net_computes_what_its_layers_say_and_drops_features_in_training_only():
    model = net.Net(make_params(10, net="mnist", image_size=33, image_channels=1, num_channels=4, dropout_rate=0.5))
    w, images = model.state_dict(), torch.rand(3, 1, 33, 33)
    x = F.relu(F.conv2d(images, w["conv1.weight"], w["conv1.bias"]))
    x = F.relu(F.max_pool2d(F.conv2d(x, w["conv2.weight"], w["conv2.bias"]), 2)).reshape(3, 8 * 12 * 12)
    x = F.linear(F.relu(F.linear(x, w["fc1.weight"], w["fc1.bias"])), w["fc2.weight"], w["fc2.bias"])
    assert not torch.equal(model(images), model(images))
    assert torch.allclose(model.eval()(images), x, rtol=1e-4, atol=1e-5)


OTHERS = """alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5 mobilenet_v2
    mobilenet_v3_small regnet_y_400mf shufflenet_v2_x0_5 swin_t vgg11 vit_b_16"""


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_0", *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS.split())]
)
def test_torchvision_nets_of_every_family_have_our_classes(name):
    size = 299 if name == "inception_v3" else 224
    # shapes without numbers, because these are large; a RegNet computes with numbers while it is built
    with contextlib.nullcontext() if name.startswith("regnet") else torch.device("meta"):
        model = net.Net(make_params(7, net=name, image_size=size))
    shapes = {key: torch.empty_like(entry, device="meta") for key, entry in model.state_dict(keep_vars=True).items()}
    images = torch.empty(2, 3, size, size, device="meta")
    for mode in (True, False):  # in train mode, Inception and GoogLeNet would return more than logits
        assert torch.func.functional_call(model.train(mode), shapes, (images,)).shape == (2, 7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"net": "resnet81"}, "net 'resnet81': unknown; did you mean resnet18"),
        ({"net": "resnet18", "image_channels": 1}, "torchvision's models need colour images; set image_channels to 3"),
        ({"net": "alexnet", "image_size": 32}, "net 'alexnet': does not work with image_size 32 (Given input size"),
        ({"net": "vit_b_16", "image_size": 50}, "indivisible"),
        ({"net": "vit_b_16", "pretrained": True}, "net 'vit_b_16': its pretrained weights need image_size 224"),
    ],
)
def test_torchvision_net_that_cannot_be_is_refused(values, message):
    with torch.device("meta"):
        assert message in refusal(lambda: net.Net(make_params(**values)).published())


def initialized(params):
    """The net of a new run, as train.py makes it."""
    model = net.Net(params)
    pretrained.initialize(model, params, pretrained.read_source(params))
    return model


def test_pretrained_net_scales_its_input_as_its_weights_expect_and_has_a_new_head(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where torch keeps its downloads
    path = tmp_path / "hub/checkpoints" / models.GoogLeNet_Weights.DEFAULT.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    reference = models.googlenet(weights=None, aux_logits=True, init_weights=False, transform_input=True).eval()
    torch.save(reference.state_dict(), path)
    model = initialized(make_params(1000, net="googlenet", image_size=64, pretrained=True)).eval()
    ours, theirs = model.state_dict(), reference.state_dict()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == ["fc.weight", "fc.bias"]
    images = 1e6 * torch.rand(2, 3, 64, 64)  # so large that random layers do not drown them in their biases
    reference.fc = model.fc
    torch.testing.assert_close(model(images), reference(images), rtol=1e-3, atol=1e-4)


def test_pretrained_weights_without_a_network_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where no server listens
    monkeypatch.setenv("no_proxy", "")
    message = refusal(initialized, make_params(net="squeezenet1_1", pretrained=True))
    assert "its weights cannot be downloaded (" in message and message.endswith("); or pretrained=false")


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_loss_is_torchs_cross_entropy(label_smoothing):
    outputs, labels = make_outputs(37, 6)
    outputs.requires_grad_()
    ours = net.train_loss_fn(make_params(6, label_smoothing=label_smoothing))(outputs, labels)
    losses = ours, F.cross_entropy(outputs, labels, label_smoothing=label_smoothing)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, outputs)[0] for loss in losses))
    assert net.loss_fn(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([0, 0])) == 5000  # certain, and finite


def test_balanced_class_weights_are_scikit_learns_and_batches_add_up():
    outputs, labels = make_outputs(50, 3)
    counts = torch.bincount(labels, minlength=3).tolist()
    balanced = net.train_loss_fn(make_params(3, counts=counts, class_weights="balanced"))
    weights = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    expected = F.cross_entropy(outputs, labels, weight=torch.tensor(weights, dtype=torch.float32))
    assert torch.allclose(balanced(outputs, labels), expected)  # over all of train, torch's normalisation is ours
    halves = [balanced(*batch) for batch in zip(outputs.split(25), labels.split(25), strict=True)]
    assert torch.allclose(sum(halves) / 2, expected)  # a mean over examples


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_metrics_over_any_batches_are_scikit_learns(batch_size):
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 6])
    predicted = torch.tensor([0, 1, 1, 1, 3, 0, 0])  # 2 and 6 never predicted, 3 never there, 4 and 5 neither
    odd = F.one_hot(predicted, 7).float() + torch.linspace(0, 0.1, 7), labels
    for outputs, labels in (make_outputs(100, 3), make_outputs(100, 10), odd):
        total = MetricSums(net.metrics)
        for batch in zip(outputs.split(batch_size), labels.split(batch_size), strict=True):
            total.add(*batch, net.loss_fn(*batch))
        predicted, every = outputs.argmax(dim=1), np.arange(outputs.shape[1])
        macro = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
        assert total.result() == pytest.approx({
            "accuracy": accuracy_score(labels, predicted),
            "top_5_accuracy": top_k_accuracy_score(labels, outputs, k=5, labels=every) if len(every) > 5 else 1.0,
            "macro_precision": macro[0], "macro_recall": macro[1], "macro_f1": macro[2],
            "loss": float(F.cross_entropy(outputs.double(), labels)),
        }, rel=1e-6)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pretrained": True}, "pretrained: there are no weights for net 'cs230'"),
        ({"net": "resnet18", "freeze_backbone": True}, "freeze_backbone: needs pretrained"),
        ({"normalize": "imagenet", "image_channels": 1}, "normalize: 'imagenet' needs image_channels 3"),
        ({"net": "mnist", "image_size": 8}, "net 'mnist' needs at least 10"),
    ],
)
def test_params_that_do_not_fit_together_are_refused(values, message):
    assert message in refusal(Params.from_values, values, "params.json")
