"""Hyperparameters of image classification. The defaults are CS230's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

import utils

OWN_NETS = ("cs230", "mnist")


class Params(utils.Params):
    """The keys of `experiments/<run>/params.json` when its task is `vision`."""

    data_dir: str | None = Field("data/digits", description="the data's folder", json_schema_extra=utils.MACHINE)
    image_size: int = Field(64, ge=8, le=2048, description="pixels of a side; images are resized to squares")
    image_channels: Literal[1, 3] = Field(3, description="3: colour (grey images are repeated); 1: grey")
    normalize: Literal["none", "train", "imagenet"] = Field(
        "none", description="after scaling to [0, 1]: nothing, or (x - mean) / std of the train split or of ImageNet"
    )
    grey_bits: Literal[0, 8, 10, 12, 14, 16] = Field(0, description="bits used in 16-bit grey images; 0: as in train")
    max_image_pixels: int = Field(
        178_956_970, ge=2, description="larger image files are refused", json_schema_extra=utils.MACHINE
    )
    horizontal_flip: bool = Field(True, description="train on mirror images half of the time; not for text or digits")
    shift: int = Field(0, ge=0, le=64, description="train on images moved by up to this many pixels each way")
    jitter: float = Field(0.0, ge=0, lt=1, description="train with brightness and contrast changed by up to this share")

    net: str = Field("cs230", description="cs230, mnist, a classifier of torchvision, such as resnet18, or timm/NAME")
    num_channels: int = Field(32, ge=1, description="width of the first convolution of cs230 and mnist")
    dropout_rate: float = Field(0.8, ge=0, lt=1, description="dropout before the last layer of cs230 and mnist")
    freeze_backbone: bool = Field(False, description="train only the last layer of a pretrained net")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each training label spread over all classes")
    class_weights: Literal["none", "balanced"] = Field("none", description="balanced: weigh all classes equally")

    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of train that becomes val if the data has no val")
    split_seed: int = Field(230, ge=0, lt=2**32, description="decides which examples become val, whatever `seed` is")
    cache: Literal["auto", "memory", "disk", "none"] = Field(
        "auto",
        description="memory: decode all images at each start; disk: once, into a file that runs share; none: each when "
        "it is needed; auto: disk up to 2 GB decoded, else none",
        json_schema_extra=utils.MACHINE,
    )
    channels_last: bool = Field(
        True, description="store images and weights channels-last: usually faster", json_schema_extra=utils.MACHINE
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Params:
        if self.pretrained is True and self.net in OWN_NETS:
            raise ValueError(f"pretrained: there are no weights for net {self.net!r}; name a file or another net")
        if self.freeze_backbone and not self.pretrained:
            raise ValueError("freeze_backbone: needs pretrained, or only random features would be left")
        if self.normalize == "imagenet" and self.image_channels != 3:
            raise ValueError("normalize: 'imagenet' needs image_channels 3")
        if self.net == "mnist" and self.image_size < 10:
            raise ValueError("image_size: net 'mnist' needs at least 10")
        return self

    def warnings(self) -> list[str]:
        """Return one line for each setting that can have no effect, or a wrong one, beside the others."""
        is_own = self.net in OWN_NETS
        lines = super().warnings()
        lines += utils.idle_unless(self, {"num_channels": is_own, "dropout_rate": is_own}, "net")
        if self.pretrained is True and self.image_channels == 3 and self.normalize != "imagenet":
            lines.append(f"normalize={self.normalize}: pretrained weights were trained with normalize=imagenet")
        if self.shift >= self.image_size:
            lines.append(f"shift={self.shift}: can move images of image_size={self.image_size} out of view")
        return lines

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the outputs; known once the data is."""
        return list(self.facts["classes"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(image_size, image_size, image_channels)."""
        return self.image_size, self.image_size, self.image_channels

    @property
    def known_grey_bits(self) -> int:
        """How many bits the values of 16-bit grey images use in every split; older runs used all 16."""
        return int(self.facts.get("grey_bits", 16))
