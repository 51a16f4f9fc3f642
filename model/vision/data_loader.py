"""Images as batches: decoded once, kept as bytes, augmented and scaled as whole batches."""

from __future__ import annotations

import collections
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import runtime
from model.vision.decode import decode_all
from model.vision.formats import Examples
from model.vision.params import Params
from model.vision.readers import read_split
from utils import InputError

MEMORY_BYTES = 2 * 2**30  # cache "auto": larger sets are decoded when needed
CHUNK = 1024  # images in memory at once while the statistics are taken
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return what the train split decides: the classes, how many examples each has, and the mean and std of pixels.

    Raises:
        InputError: there is no train split, or it is broken
    """
    examples = read_split("train", data_dir, params)
    counts = collections.Counter(examples.labels)
    if len(counts) < 2:
        raise InputError(
            f"{data_dir}: train has {len(counts)} class(es) in {len(examples.labels)} images; expected two or more"
        )
    classes = sorted(counts, key=_class_order)
    facts: dict[str, Any] = {"classes": classes, "class_counts": [counts[name] for name in classes]}
    facts["mean"], facts["std"] = [0.0] * params.image_channels, [1.0] * params.image_channels
    if params.normalize == "imagenet":
        facts["mean"], facts["std"] = IMAGENET_MEAN, IMAGENET_STD
    elif params.normalize == "train":
        facts["mean"], facts["std"] = _pixel_statistics(examples, params)
    return facts


def _class_order(name: str) -> tuple[int, int, str]:
    """Sort names as text, but numbers as numbers."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _pixel_statistics(examples: Examples, params: Params) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels, on the scale from 0 to 1."""
    levels = np.arange(256) / 255
    counts = np.zeros((params.image_channels, 256), dtype=np.int64)  # pixels of each channel at each level: exact
    for start in range(0, len(examples.ids), CHUNK):
        positions = range(start, min(start + CHUNK, len(examples.ids)))
        pixels = decode_all(examples.images, positions, params)
        for channel in range(params.image_channels):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    means = shares @ levels  # (image_channels,)
    variances = (shares * (levels - means[:, None]) ** 2).sum(axis=1)
    return means.tolist(), np.sqrt(np.maximum(variances, 1e-12)).tolist()


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """The images of one split.

    Args:
        examples: from `read_split`
        params: image_size, image_channels, cache, augmentation, and the facts
        augment: for the train split

    Raises:
        InputError: a class that train lacks, or, where all images are decoded at once, an unreadable one
    """

    def __init__(self, examples: Examples, params: Params, augment: bool) -> None:
        numbers = {name: number for number, name in enumerate(params.classes)}
        for name, label in zip(examples.ids, examples.labels, strict=True):
            if label not in numbers:
                raise InputError(f"{name}: class {label!r} is not in train, which has {', '.join(params.classes[:10])}")
        self.ids = examples.ids
        self.labels = torch.tensor([numbers[label] for label in examples.labels], dtype=torch.int64)
        self.params, self.augment, self.epoch = params, augment, 1
        self._sources: Sequence[Path] | np.ndarray = examples.images
        num_bytes = len(self.ids) * params.image_size**2 * params.image_channels
        self.in_memory = params.cache == "memory" or (params.cache == "auto" and num_bytes <= MEMORY_BYTES)
        self._decoded = None
        if self.in_memory:
            self._decoded, self._sources = self._decode(range(len(self.ids))), []
        shape = (1, params.image_channels, 1, 1)
        self._mean = torch.tensor(params.facts["mean"]).reshape(shape)
        self._std = torch.tensor(params.facts["std"]).reshape(shape)

    def __len__(self) -> int:
        return len(self.ids)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch's augmentation to draw, from 1."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, (image_channels, image_size, image_size), and its class number."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images, float32, (batch_size, image_channels, image_size, image_size), and labels, (batch_size,)."""
        positions = torch.as_tensor(indices)
        pixels = self._decoded[positions] if self._decoded is not None else self._decode(indices)
        images = pixels.permute(0, 3, 1, 2)  # (batch_size, image_channels, image_size, image_size), channels-last
        draws = runtime.example_draws(self.params.seed, self.epoch, indices, 5) if self.augment else None
        if draws is not None:
            images = _move(images, draws, self.params)
        order = torch.channels_last if self.params.channels_last else torch.contiguous_format
        images = images.to(torch.float32, memory_format=order).div_(255)
        if draws is not None and self.params.jitter > 0:
            images = _jitter(images, draws, self.params.jitter)
        if self.params.normalize != "none":
            images = (images - self._mean) / self._std
        return images, self.labels[positions]

    def _decode(self, positions: Sequence[int]) -> Tensor:
        """Return images, uint8, (len(positions), image_size, image_size, image_channels)."""
        return torch.from_numpy(decode_all(self._sources, positions, self.params))


def _move(images: Tensor, draws: Tensor, params: Params) -> Tensor:
    """Mirror half of the images and move each by up to params.shift pixels; edges are repeated.

    Args:
        images: (batch_size, image_channels, image_size, image_size), uint8
        draws: (batch_size, 5), uniform; the first three are used here
        params: horizontal_flip, shift
    """
    if params.horizontal_flip:
        images = torch.where((draws[:, 0] < 0.5).reshape(-1, 1, 1, 1), images.flip(3), images)
    if params.shift > 0:
        side = images.shape[2]
        steps = (draws[:, 1:3] * (2 * params.shift + 1)).long() - params.shift  # (batch_size, 2), -shift to shift
        rows = (torch.arange(side) + steps[:, :1]).clamp(0, side - 1)  # (batch_size, image_size)
        columns = (torch.arange(side) + steps[:, 1:]).clamp(0, side - 1)
        batch = torch.arange(len(images))[:, None, None]
        # the channels are last in memory, so that each pixel moves as a whole
        images = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images


def _jitter(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Change contrast and brightness of each image by a factor of up to 1 +- strength.

    Args:
        images: (batch_size, image_channels, image_size, image_size), in [0, 1]
        draws: (batch_size, 5), uniform; the last two are used here
        strength: params.jitter
    """
    contrast, brightness = (1 + strength * (2 * draws[:, 3:] - 1)).T.reshape(2, -1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (((images - mean) * contrast + mean) * brightness).clamp_(0, 1)


def fetch_dataset(split: str, data_dir: Path, params: Params) -> ImageDataset:
    """Return the dataset of 'train', 'val' or 'test'; only train is augmented.

    Raises:
        InputError: the data is missing or broken
    """
    examples = read_split(split, data_dir, params)
    for note in examples.notes:
        logging.info(f"- {note}")
    return ImageDataset(examples, params, augment=split == "train")
