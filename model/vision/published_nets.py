"""The classification models of torchvision and timm, by name: any number of classes, any image size that they take."""

from __future__ import annotations

import copy
import difflib
import functools
import logging
import sys
from http.client import HTTPException
from typing import Any

import torch
from torch import Tensor, nn

from model.vision.params import OWN_NETS, Params
from utils import InputError

EXTRA_OUTPUTS = ("aux1.", "aux2.", "AuxLogits.")  # weights of GoogLeNet and Inception that our models leave out


def published_net(params: Params) -> Any:
    """Return a model of torchvision, or of timm for `timm/NAME`, with outputs for our classes, or raise InputError."""
    build = _timm_model if params.net.startswith("timm/") else _torchvision_model
    shape = (1, params.image_channels, params.image_size, params.image_size)
    try:
        model: Any = build(params)
        copy.deepcopy(model).to("meta").eval()(torch.empty(shape, device="meta"))  # on meta, nothing is computed
    except InputError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        found = f"does not work with image_size {params.image_size} ({reason})"
        raise InputError(f"net {params.net!r}: {found}") from None
    model.published, model.renamed = functools.partial(_published, params, build), _without_extra_outputs
    return model


def _torchvision_model(params: Params, pretrained: bool = False) -> nn.Module:
    """Return a model of torchvision; if `pretrained`, with its best weights for ImageNet, and its classes."""
    from torchvision import models  # here, because it takes more than a second

    names = models.list_models(module=models)
    if params.net not in names:
        raise _unknown(params.net, [*OWN_NETS, *names], [*OWN_NETS, "resnet18"])
    if params.image_channels != 3:
        raise InputError(f"net {params.net!r}: torchvision's models need colour images; set image_channels to 3")
    if pretrained:
        weights = models.get_model_weights(params.net).DEFAULT
        size = weights.meta["min_size"][0]
        if params.net.startswith("vit_") and size != params.image_size:
            raise InputError(f"net {params.net!r}: its pretrained weights need image_size {size}")
        return models.get_model(params.net, weights=weights, progress=sys.stderr.isatty())
    options: dict[str, Any] = {}
    if params.net.startswith("vit_"):
        options = {"image_size": params.image_size}
    elif params.net.startswith("maxvit_"):
        options = {"input_size": (params.image_size, params.image_size)}
    elif params.net in ("googlenet", "inception_v3"):  # without extra outputs; and their weights expect another scale
        options = {"aux_logits": False, "init_weights": True, "transform_input": bool(params.pretrained)}
    return models.get_model(params.net, weights=None, num_classes=len(params.classes), **options)


def _timm_model(params: Params, pretrained: bool = False) -> nn.Module:
    """Return a model of timm; if `pretrained`, with its published weights and classes, fitted to our size of images."""
    try:
        import timm
    except ImportError:
        raise InputError(f"net {params.net!r}: timm is not installed; pip install timm") from None
    name = params.net.removeprefix("timm/")
    if not timm.is_model(name):
        raise _unknown(params.net, [f"timm/{each}" for each in timm.list_models()], ["timm/resnet10t"])
    options = {} if pretrained else {"num_classes": len(params.classes)}
    if timm.models.get_pretrained_cfg_value(name, "fixed_input_size"):
        options["img_size"] = params.image_size
    model: Any = timm.create_model(name, pretrained=pretrained, in_chans=params.image_channels, **options)
    if params.freeze_backbone and not isinstance(model.get_classifier(), (nn.Linear, nn.Conv2d)):
        raise InputError(f"net {params.net!r}: has no single last layer to train; set freeze_backbone to false")
    return model


def _unknown(name: str, names: list[str], examples: list[str]) -> InputError:
    close = difflib.get_close_matches(name, names, n=3) or examples
    return InputError(f"net {name!r}: unknown; did you mean {', '.join(close)}?")


def _published(params: Params, build: Any) -> tuple[dict[str, Tensor], str]:
    """Return the published weights of a net, and their name; InputError if they cannot be downloaded."""
    try:
        source = build(params, pretrained=True)
    except (OSError, RuntimeError, HTTPException) as error:
        hint = "or pretrained=false"
        raise InputError(f"net {params.net!r}: its weights cannot be downloaded ({error}); {hint}") from None
    settings = getattr(source, "pretrained_cfg", {})  # timm's models have it
    if (mean := settings.get("mean")) and params.normalize == "imagenet" and list(mean) != params.facts["mean"]:
        logging.warning(f"- WARNING: the weights of {params.net} were trained with mean {mean}, std {settings['std']}")
    return source.state_dict(), f"the published weights of {params.net} {settings.get('tag', '')}".rstrip()


def _without_extra_outputs(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if not name.startswith(EXTRA_OUTPUTS)}


def freeze(model: Any) -> None:
    """Train the last layer only. The rest stays in eval mode, or batch norm's running means would follow the data."""
    # the last layer of SqueezeNet is a convolution
    *_, (name, head) = (entry for entry in model.named_modules() if isinstance(entry[1], (nn.Linear, nn.Conv2d)))
    model.requires_grad_(False)
    head.requires_grad_(True)
    model.train = functools.partial(_train_head, model, name)
    model.train()


def _train_head(model: nn.Module, head: str, mode: bool = True) -> nn.Module:
    """Do what `model.train(mode)` does, to the last layer only. (`model.eval()` calls this too.)"""
    nn.Module.train(model, False)
    model.get_submodule(head).train(mode)
    return model
