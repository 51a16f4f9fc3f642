"""The classification models of torchvision, by name: any size of image that they can take, any number of classes."""

from __future__ import annotations

import copy
import difflib
import functools
import sys
from http.client import HTTPException
from typing import Any

import torch
from torch import nn

from model.vision.params import OWN_NETS, Params
from utils import InputError


def torchvision_net(params: Params) -> Any:
    """Return a model of torchvision with outputs for our classes; for pretrained weights, call its `initialize()`.

    Raises:
        InputError: torchvision has no such model, or it cannot take such images
    """
    from torchvision import models  # here, because it takes more than a second

    names = models.list_models(module=models)
    if params.net not in names:
        close = difflib.get_close_matches(params.net, [*OWN_NETS, *names], n=3) or [*OWN_NETS, "resnet18"]
        raise InputError(f"net {params.net!r}: unknown; did you mean {', '.join(close)}?")
    if params.image_channels != 3:
        raise InputError(f"net {params.net!r}: torchvision's models look at colour; set image_channels to 3")
    options: dict[str, Any] = {}
    if params.net.startswith("vit_"):
        options = {"image_size": params.image_size}
    elif params.net.startswith("maxvit_"):
        options = {"input_size": (params.image_size, params.image_size)}
    elif params.net in ("googlenet", "inception_v3"):  # without extra outputs; and their weights expect another scale
        options = {"aux_logits": False, "init_weights": True, "transform_input": params.pretrained}
    try:
        model = models.get_model(params.net, weights=None, num_classes=len(params.classes), **options)
        side = params.image_size  # without numbers, trying it costs little
        copy.deepcopy(model).to("meta").eval()(torch.empty(1, 3, side, side, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"net {params.net!r}: does not work with image_size {params.image_size} ({reason})") from None
    if params.freeze_backbone:
        _freeze(model)
    if params.pretrained:
        model.initialize = functools.partial(load_pretrained, model, params)
    return model


def _head(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and the module of the last layer, which knows the classes (SqueezeNet's is a convolution)."""
    return [entry for entry in model.named_modules() if isinstance(entry[1], (nn.Linear, nn.Conv2d))][-1]


def load_pretrained(model: nn.Module, params: Params) -> None:
    """Copy torchvision's best weights for ImageNet into a model of `torchvision_net`, except for its last layer.

    Raises:
        InputError: they cannot be downloaded, or they are for images of another size
    """
    from torchvision import models

    try:
        source = models.get_model(params.net, weights="DEFAULT", progress=sys.stderr.isatty())
    except (OSError, RuntimeError, HTTPException) as error:
        hint = "or pretrained=false"
        raise InputError(f"net {params.net!r}: its weights cannot be downloaded ({error}); {hint}") from None
    ours, theirs, head = model.state_dict(), source.state_dict(), _head(model)[0]
    for name in [name for name in ours if not name.startswith(f"{head}.")]:
        if ours[name].shape != theirs[name].shape:
            size = models.get_model_weights(params.net).DEFAULT.meta["min_size"][0]
            raise InputError(f"net {params.net!r}: its pretrained weights need image_size {size}")
        ours[name].copy_(theirs[name])


def _freeze(model: Any) -> None:
    """Train the last layer only. The rest stays in eval mode, or batch norm's running means would follow the data."""
    name, head = _head(model)
    model.requires_grad_(False)
    head.requires_grad_(True)
    model.train = functools.partial(_train_head, model, name)
    model.train()


def _train_head(model: nn.Module, head: str, mode: bool = True) -> nn.Module:
    """Do what `model.train(mode)` does, to the last layer only. (`model.eval()` calls this too.)"""
    nn.Module.train(model, False)
    model.get_submodule(head).train(mode)
    return model
