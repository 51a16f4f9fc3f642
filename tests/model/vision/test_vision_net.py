"""Nets for images: parameter names, forward passes, frozen backbones; the loss and the metrics, held to others'."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, top_k_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torchvision import models

import utils
from fiveline.metrics import MetricSums
from fiveline.options import pretrained
from model.vision import net, serve
from model.vision.params import Params
from tests.support.data import refusal


def make_params(num_classes=6, counts=None, **values):
    names = [f"class {i}" for i in range(num_classes)]
    facts = {"classes": names, "class_counts": counts or [10] * num_classes}
    return Params(**values).with_facts(facts)


def make_outputs(num_examples, num_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_examples,), generator=generator)
    return torch.randn(num_examples, num_classes, generator=generator) + 2 * F.one_hot(labels, num_classes), labels


# ---- CS230's net and the MNIST net ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "image_size", "image_channels"), [("cs230", 8, 3), ("cs230", 33, 1), ("mnist", 10, 1), ("mnist", 33, 3)]
)
def test_own_nets_take_any_size_and_number_of_classes_and_drop_features_in_training_only(
    name, image_size, image_channels
):
    torch.manual_seed(0)
    values = {"net": name, "image_size": image_size, "image_channels": image_channels, "dropout_rate": 0.5}
    images = torch.rand(3, image_channels, image_size, image_size)
    for num_classes, num_channels in ((2, 4), (13, 8)):
        model = net.Net(make_params(num_classes, num_channels=num_channels, **values))
        outputs = model(images)
        assert outputs.shape == (3, num_classes) and not torch.equal(outputs, model(images))
        outputs.sum().backward()
        model.eval()
        assert torch.equal(model(images), model(images))


def test_mnist_net_computes_what_its_layers_say():
    torch.manual_seed(0)
    model = net.Net(make_params(10, net="mnist", image_size=28, image_channels=1, num_channels=4)).eval()
    w, images = model.state_dict(), torch.rand(3, 1, 28, 28)
    assert {name: tuple(entry.shape) for name, entry in w.items()} == {
        "conv1.weight": (4, 1, 5, 5), "conv1.bias": (4,), "conv2.weight": (8, 4, 5, 5), "conv2.bias": (8,),
        "fc1.weight": (100, 800), "fc1.bias": (100,), "fc2.weight": (10, 100), "fc2.bias": (10,),
    }  # fmt: skip
    x = F.relu(F.conv2d(images, w["conv1.weight"], w["conv1.bias"]))
    x = F.relu(F.max_pool2d(F.conv2d(x, w["conv2.weight"], w["conv2.bias"]), 2)).contiguous().view(3, -1)
    x = F.linear(F.relu(F.linear(x, w["fc1.weight"], w["fc1.bias"])), w["fc2.weight"], w["fc2.bias"])
    assert torch.allclose(model(images), x, rtol=1e-4, atol=1e-5)


# ---- torchvision's models ------------------------------------------------------------------------------------------


def check_torchvision_net(name, image_size):
    model = net.Net(make_params(7, net=name, image_size=image_size))
    entries = [*model.named_parameters(), *model.named_buffers()]
    shapes = {key: torch.empty_like(entry, device="meta") for key, entry in entries}
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    for mode in (True, False):  # in train mode, Inception and GoogLeNet would return more than logits
        assert torch.func.functional_call(model.train(mode), shapes, (images,)).shape == (2, 7)


def smallest_of_each_family():
    families = {}
    for name in models.list_models(module=models):
        size = models.get_model_weights(name).DEFAULT.meta["num_params"]
        families.setdefault(models.get_model_builder(name).__module__, []).append((size, name))
    return sorted(min(family)[1] for family in families.values())


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        *((name, 64) for name in ("resnet18", "squeezenet1_0", "vit_b_16")),
        *(
            pytest.param(name, 299 if name == "inception_v3" else 224, marks=pytest.mark.slow)
            for name in smallest_of_each_family()
        ),
    ],
)
def test_torchvision_nets_of_every_family_have_our_classes(name, image_size):
    # shapes without numbers, because these are large; a RegNet computes with numbers while it is built
    with contextlib.nullcontext() if name.startswith("regnet") else torch.device("meta"):
        check_torchvision_net(name, image_size)


@pytest.mark.slow
def test_torchvision_net_comes_back_from_its_checkpoint(tmp_path):
    # MNASNet looks at the version that its state carries
    first, second = (net.Net(make_params(3, net="mnasnet0_5", image_size=32)).eval() for _ in range(2))
    utils.save_checkpoint({"state_dict": first.state_dict()}, False, tmp_path)
    utils.load_checkpoint(tmp_path / "last.pth.tar", second)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(first(images), second(images)) and first(images).isfinite().all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"net": "resnet81"}, "net 'resnet81': unknown; did you mean resnet18"),
        ({"net": "cs320"}, "net 'cs320': unknown; did you mean cs230"),
        ({"net": "!"}, "net '!': unknown; did you mean cs230, mnist, resnet18?"),
        ({"net": "fasterrcnn_resnet50_fpn"}, "unknown; did you mean"),  # torchvision's, but it does not classify
        ({"net": "resnet18", "image_channels": 1}, "torchvision's models look at colour; set image_channels to 3"),
        ({"net": "alexnet", "image_size": 32}, "net 'alexnet': does not work with image_size 32 (Given input size"),
        ({"net": "vit_b_16", "image_size": 50}, "indivisible"),
    ],
)
def test_torchvision_net_that_cannot_be_is_refused(values, message):
    with torch.device("meta"):
        assert message in refusal(net.Net, make_params(**values))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Return a function that puts random weights where torch keeps its downloads, and returns them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def publish(name, **settings):
        torch.manual_seed(1)
        state = models.get_model(name, weights=None, **settings).state_dict()
        for key in state:
            if "running" in key:
                state[key] = 0.1 * torch.rand_like(state[key]) + (0 if key.endswith("mean") else 0.9)
        url = models.get_model_weights(name).DEFAULT.url
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
        torch.save(state, tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])
        return state

    return publish


def initialized(params):
    """The net of a new run, as train.py makes it."""
    model = net.Net(params)
    pretrained.initialize(model, params, pretrained.read_source(params))
    return model


def test_pretrained_net_of_a_thousand_classes_has_a_new_head(published):
    theirs = published("squeezenet1_1")
    model = initialized(make_params(1000, net="squeezenet1_1", pretrained=True))
    assert not torch.equal(model.state_dict()["classifier.1.weight"], theirs["classifier.1.weight"])


@pytest.mark.slow
def test_pretrained_googlenet_scales_its_input_as_its_weights_expect(published):
    theirs = published("googlenet", aux_logits=True, init_weights=False)
    model = initialized(make_params(5, net="googlenet", image_size=64, pretrained=True)).eval()
    images = 1e6 * torch.rand(2, 3, 64, 64)  # so large that random layers do not drown them in their biases
    reference = models.googlenet(weights=None, aux_logits=True, init_weights=False, transform_input=True)
    reference.load_state_dict(theirs)
    reference.fc = model.fc
    assert torch.allclose(model(images), reference.eval()(images), rtol=1e-3)


@pytest.mark.slow
def test_pretrained_weights_of_another_size_are_refused():
    params = make_params(net="vit_b_16", pretrained=True)
    with torch.device("meta"):
        message = refusal(net.Net(params).published)
    assert "net 'vit_b_16': its pretrained weights need image_size 224" in message


def test_pretrained_weights_without_a_network_say_so(tmp_path, no_network, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = refusal(initialized, make_params(net="squeezenet1_1", pretrained=True))
    assert "its weights cannot be downloaded (" in message and message.endswith("); or pretrained=false")


# ---- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("num_examples", [1, 37])
def test_loss_is_torchs_cross_entropy(label_smoothing, num_examples):
    outputs, labels = make_outputs(num_examples, 6)
    outputs.requires_grad_()
    losses = (
        net.loss_fn(outputs, labels, label_smoothing),
        F.cross_entropy(outputs, labels, label_smoothing=label_smoothing),
    )
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, outputs)[0] for loss in losses))
    assert net.loss_fn(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([0, 0])) == 5000  # certain, and finite


def test_train_loss_takes_smoothing_and_weights_from_the_params():
    outputs, labels = make_outputs(50, 3)
    plain = net.train_loss_fn(make_params(3))
    assert torch.equal(plain(outputs, labels), net.loss_fn(outputs, labels))
    smooth = net.train_loss_fn(make_params(3, label_smoothing=0.2))
    assert torch.allclose(smooth(outputs, labels), F.cross_entropy(outputs, labels, label_smoothing=0.2))
    counts = torch.bincount(labels, minlength=3).tolist()
    balanced = net.train_loss_fn(make_params(3, counts=counts, class_weights="balanced"))
    weights = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    expected = F.cross_entropy(outputs, labels, weight=torch.tensor(weights, dtype=torch.float32))
    assert torch.allclose(balanced(outputs, labels), expected)  # over all of train, torch's normalisation is ours
    batches = zip(outputs.split(25), labels.split(25), strict=True)
    in_batches = torch.stack([balanced(*batch) for batch in batches]).mean()
    assert torch.allclose(in_batches, expected)  # a mean over examples, so batches add up


# ---- the metrics ---------------------------------------------------------------------------------------------------


def scikit_learns(outputs, labels):
    num_classes = outputs.shape[1]
    predicted, labels, every = outputs.argmax(dim=1).numpy(), labels.numpy(), np.arange(num_classes)
    macro = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    top_5 = top_k_accuracy_score(labels, outputs.numpy(), k=5, labels=every) if num_classes > 5 else 1.0
    return {
        "accuracy": accuracy_score(labels, predicted), "top_5_accuracy": top_5,
        "macro_precision": macro[0], "macro_recall": macro[1], "macro_f1": macro[2],
        "loss": float(F.cross_entropy(outputs.double(), torch.as_tensor(labels))),
    }  # fmt: skip


def sums(outputs, labels, batch_size):
    total = MetricSums(net.metrics)
    for batch, batch_labels in zip(outputs.split(batch_size), labels.split(batch_size), strict=True):
        total.add(batch, batch_labels, net.loss_fn(batch, batch_labels))
    return total.result()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_metrics_over_any_batches_are_scikit_learns(batch_size):
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 6])
    predicted = torch.tensor([0, 1, 1, 1, 3, 0, 0])  # 2 and 6 never predicted, 3 never there, 4 and 5 neither
    odd = F.one_hot(predicted, 7).float() + torch.linspace(0, 0.1, 7), labels
    for outputs, labels in (make_outputs(100, 3), make_outputs(100, 10), odd):
        assert sums(outputs, labels, batch_size) == pytest.approx(scikit_learns(outputs, labels), rel=1e-6)


# ---- predictions and hyperparameters ---------------------------------------------------------------------------------


def test_predictions_name_the_classes():
    outputs, labels = make_outputs(20, 4)
    rows = serve.predictions(outputs, labels, make_params(4))
    probabilities = outputs.double().softmax(dim=1)
    for row, probability, output, label in zip(rows, probabilities, outputs, labels, strict=True):
        assert row["prediction"] == f"class {int(probability.argmax())}" and row["label"] == f"class {int(label)}"
        assert row["confidence"] == pytest.approx(float(probability.max()), rel=1e-5)
        assert row["loss"] == pytest.approx(float(F.cross_entropy(output[None], label[None])), rel=1e-5, abs=1e-6)
    assert serve.predictions(outputs, None, make_params(4))[0].keys() == {"confidence", "prediction"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pretrained": True}, "pretrained: there are no weights for net 'cs230'"),
        ({"net": "resnet18", "freeze_backbone": True}, "freeze_backbone: needs pretrained"),
        ({"normalize": "imagenet", "image_channels": 1}, "normalize: 'imagenet' needs image_channels 3"),
        ({"net": "mnist", "image_size": 8}, "net 'mnist' needs at least 10"),
        ({"image_channels": 2}, "image_channels"),
        ({"image_size": 7}, "image_size"),
    ],
)
def test_params_that_do_not_fit_together_are_refused(values, message):
    assert message in refusal(Params.from_values, values, "params.json")
