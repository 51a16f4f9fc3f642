"""The classification models of torchvision, by name: any size of image that they can take, any number of classes."""

from __future__ import annotations

import difflib
import functools
import sys
from http.client import HTTPException
from typing import Any

import torch
from torch import nn

from model.vision.params import OWN_NETS, Params
from utils import InputError


def torchvision_net(params: Params) -> nn.Module:
    """Return a model of torchvision with outputs for our classes.

    Args:
        params: net (its name), pretrained, freeze_backbone, image_size, image_channels, and the classes in its facts

    Raises:
        InputError: torchvision has no such model, it cannot look at such images, or its weights cannot be downloaded
    """
    from torchvision import models  # here, because it takes more than a second

    names = models.list_models(module=models)
    if params.net not in names:
        close = difflib.get_close_matches(params.net, [*OWN_NETS, *names], n=3) or [*OWN_NETS, "resnet18"]
        raise InputError(f"net {params.net!r}: unknown; did you mean {', '.join(close)}?")
    if params.image_channels != 3:
        raise InputError(f"net {params.net!r}: torchvision's models look at colour; set image_channels to 3")
    try:
        model: nn.Module = models.get_model(params.net, weights=None, num_classes=len(params.classes), **_shape(params))
        _try_size(model, params.image_size)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"net {params.net!r}: does not work with image_size {params.image_size} ({reason})") from None
    if params.freeze_backbone:
        _freeze(model)
    return model


def _shape(params: Params) -> dict[str, Any]:
    """Return what a few of the models want to know besides the number of classes."""
    if params.net.startswith("vit_"):
        return {"image_size": params.image_size}
    if params.net.startswith("maxvit_"):
        return {"input_size": (params.image_size, params.image_size)}
    if params.net in ("googlenet", "inception_v3"):
        # no extra outputs, which the five lines do not ask for; and ImageNet weights want ImageNet's scale changed
        return {"aux_logits": False, "init_weights": True, "transform_input": params.pretrained}
    return {}


def _try_size(model: nn.Module, image_size: int) -> None:
    """Raise whatever error images of this size lead to. Only shapes go through the model, so it costs next to nothing.

    Raises:
        RuntimeError, ValueError, AssertionError: torch's, with the layer's own words
    """
    entries = [*model.named_parameters(), *model.named_buffers()]
    shapes = {name: torch.empty_like(entry, device="meta") for name, entry in entries}
    model.eval()
    torch.func.functional_call(model, shapes, (torch.empty(1, 3, image_size, image_size, device="meta"),))
    model.train()


def _head(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and the module of the last layer, the one that knows the classes (SqueezeNet's convolves)."""
    return [entry for entry in model.named_modules() if isinstance(entry[1], (nn.Linear, nn.Conv2d))][-1]


def load_pretrained(model: nn.Module, params: Params) -> None:
    """Take over torchvision's best weights for ImageNet, all but those of the last layer.

    Args:
        model: of `torchvision_net`
        params: net, image_size

    Raises:
        InputError: they cannot be downloaded, or they are for images of one other size only
    """
    from torchvision import models

    try:
        source = models.get_model(params.net, weights="DEFAULT", progress=sys.stderr.isatty())
    except (OSError, RuntimeError, HTTPException) as error:
        raise InputError(
            f"net {params.net!r}: its weights cannot be downloaded ({error}); or pretrained=false"
        ) from None
    ours, theirs, head = model.state_dict(), source.state_dict(), _head(model)[0]
    for name in [name for name in ours if not name.startswith(f"{head}.")]:
        if ours[name].shape != theirs[name].shape:
            size = models.get_model_weights(params.net).DEFAULT.meta["min_size"][0]
            raise InputError(f"net {params.net!r}: its pretrained weights need image_size {size}")
        ours[name].copy_(theirs[name])


def _freeze(model: nn.Module) -> None:
    """Train the last layer only: the rest keeps its weights and stays in eval mode.

    In train mode, batch norm would go on following the data with its running means, and dropout would stay on.
    """
    name, head = _head(model)
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parameter in head.parameters():
        parameter.requires_grad = True
    model.train = functools.partial(_train_head, model, name)  # type: ignore[method-assign]
    model.train()


def _train_head(model: nn.Module, head: str, mode: bool = True) -> nn.Module:
    """Do what `model.train(mode)` does, to the last layer only. (`model.eval()` comes here too.)"""
    nn.Module.train(model, False)
    model.get_submodule(head).train(mode)
    return model
