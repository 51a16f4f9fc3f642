"""Images as batches: decoded once, kept as bytes, augmented and scaled as whole batches."""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fiveline.device import epoch_draws
from fiveline.loading import on_device
from fiveline.loading.pictures import find_grey_bits
from model.vision.decode import CHUNK_BYTES, decode_all, load_pixels
from model.vision.params import Params
from model.vision.readers import Examples, normal, read_split
from utils import InputError

SAMPLE_SIZE = 100  # images whose values say how many bits are used: reading all of them may take minutes
CONSTANT_STD = 0.1 / 255  # a smaller std is noise in a constant channel, which must not be magnified
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """The images of one split; augmented once `set_epoch` has been called. Decoded images are kept in `data_dir`.

    An InputError names an example of an unknown class, or the unreadable images, if all images are decoded now.
    """

    def __init__(self, examples: Examples, data_dir: Path, params: Params) -> None:
        self.examples, self.params, self.ids = examples, params, examples.ids
        labels = _class_numbers(examples, params)
        pixels, rows = load_pixels(examples, data_dir, params)
        self.pixels = None if pixels is None else torch.from_numpy(pixels)
        if self.pixels is not None and params.num_workers == 0:
            self.pixels = on_device(self.pixels)
        self.device = torch.device("cpu") if self.pixels is None else self.pixels.device
        self.labels, self.rows = labels.to(self.device), torch.from_numpy(rows).to(self.device)
        self.draws: Tensor | None = None  # (num_examples, 5), uniform
        self.mean = torch.tensor(params.facts["mean"], device=self.device)[:, None, None]  # (image_channels, 1, 1)
        self.std = torch.tensor(params.facts["std"], device=self.device)[:, None, None]

    def __len__(self) -> int:
        return len(self.ids)

    def set_epoch(self, epoch: int) -> None:
        """Augment from now on, with the random numbers of this epoch (from 1)."""
        self.draws = epoch_draws(self.params.seed, epoch, len(self), 5).to(self.device)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, (image_channels, image_size, image_size), and its class number."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images, float32, (batch_size, image_channels, image_size, image_size), and labels, (batch_size,)."""
        params, positions = self.params, torch.from_numpy(np.asarray(indices)).to(self.device, non_blocking=True)
        if self.pixels is None:
            pixels = torch.from_numpy(decode_all(self.examples.images_at(indices), params))
        else:
            pixels = self.pixels.index_select(0, self.rows.index_select(0, positions))
        draws = None if self.draws is None else self.draws.index_select(0, positions)
        if draws is not None:
            pixels = _move(pixels, draws, params)
        images = pixels.permute(0, 3, 1, 2)  # (batch_size, image_channels, image_size, image_size), channels-last
        order = torch.channels_last if params.channels_last else torch.contiguous_format
        images = images.to(torch.float32, memory_format=order).div_(255)
        if draws is not None and params.jitter > 0:
            images = _jitter(images, draws, params.jitter)
        if params.normalize != "none":
            images = (images - self.mean) / self.std
        return images, self.labels.index_select(0, positions)


def _move(pixels: Tensor, draws: Tensor, params: Params) -> Tensor:
    """Mirror half of the images and move each by up to params.shift pixels; edges are repeated.

    Pixels are (batch_size, image_size, image_size, image_channels), uint8. Three of each image's five draws are used.
    """
    if not params.horizontal_flip and params.shift == 0:
        return pixels
    batch_size, side = pixels.shape[:2]
    steps = (draws[:, 1:3] * (2 * params.shift + 1)).long() - params.shift  # (batch_size, 2), -shift to shift
    places = torch.arange(side, device=pixels.device)
    rows = (places + steps[:, :1]).clamp(0, side - 1)  # (batch_size, image_size)
    columns = (places + steps[:, 1:]).clamp(0, side - 1)
    if params.horizontal_flip:
        columns = torch.where(draws[:, :1] < 0.5, side - 1 - columns, columns)
    rows = rows + side * torch.arange(batch_size, device=pixels.device)[:, None]  # rows counted over all images
    sources = (side * rows[:, :, None] + columns[:, None, :]).flatten()
    return pixels.flatten(0, 2).index_select(0, sources).view(pixels.shape)  # each pixel moves as a whole, once


def _jitter(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Change contrast and brightness of images in [0, 1] by factors of up to 1 +- strength, from the last two draws."""
    contrast, brightness = (1 + strength * (2 * draws[:, 3:] - 1)).T.reshape(2, -1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (((images - mean) * contrast + mean) * brightness).clamp_(0, 1)


def fetch_dataset(split: str, data_dir: Path, params: Params) -> ImageDataset:
    """Return the dataset of 'train', 'val' or 'test'; InputError if the data is missing or broken."""
    examples = read_split(split, data_dir, params)
    for note in examples.notes:
        logging.info(f"- {note}")
    if split == "train" and (gone := {normal(name) for name in params.classes} - set(examples.labels)):
        logging.warning(f"- WARNING: {data_dir}: train lacks {', '.join(sorted(gone))}, a class that the net knows")
    dataset = ImageDataset(examples, data_dir, params)
    if dataset.pixels is None:
        hint = "num_workers=... decodes images ahead of time, in other processes"
        logging.info(f"- {split}: each of {len(dataset)} images is decoded when it is needed; {hint}")
    return dataset


def _class_numbers(examples: Examples, params: Params) -> Tensor:
    numbers = {normal(name): number for number, name in enumerate(params.classes)}
    for name, label in zip(examples.ids, examples.labels, strict=True):
        if label not in numbers:
            known = f"is not among the classes of train when this run began ({', '.join(params.classes[:10])})"
            hint = "if train has it now: another --model_dir, or --restart"
            raise InputError(f"{name}: class {label!r} {known}; {hint}")
    return torch.tensor([numbers[label] for label in examples.labels])


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return the facts of the train split: classes, how many examples each has, mean and std of pixels, grey bits."""
    examples = read_split("train", data_dir, params)
    num_examples, counts = len(examples.ids), collections.Counter(examples.labels)
    if len(counts) < 2:
        raise InputError(f"{data_dir}: train has {len(counts)} class(es) in {num_examples} images; expected 2 or more")
    classes = sorted(counts, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    sample = examples.images_at(range(0, num_examples, math.ceil(num_examples / SAMPLE_SIZE)))
    found_bits = 16 if isinstance(sample, np.ndarray) else find_grey_bits(sample, params.max_image_pixels)
    facts: dict[str, Any] = {
        "classes": classes,
        "class_counts": [counts[name] for name in classes],
        "grey_bits": params.grey_bits or found_bits,
        "mean": IMAGENET_MEAN if params.normalize == "imagenet" else [0.0] * params.image_channels,
        "std": IMAGENET_STD if params.normalize == "imagenet" else [1.0] * params.image_channels,
    }
    if params.normalize == "train":
        facts["mean"], facts["std"] = _pixel_statistics(examples, data_dir, params.with_facts(facts))
    return facts


def _pixel_statistics(examples: Examples, data_dir: Path, params: Params) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels, on the scale from 0 to 1.

    The standard deviation of a constant channel counts as 1, as in scikit-learn's StandardScaler.
    """
    pixels, rows = load_pixels(examples, data_dir, params)
    num_chunks = len(rows) * math.prod(params.image_shape) // CHUNK_BYTES + 1
    sums = np.zeros((2, params.image_channels), dtype=np.int64)  # sums of values and of squares: exact
    for part in np.array_split(np.arange(len(rows)), num_chunks):
        decoded = decode_all(examples.images_at(part), params) if pixels is None else pixels[rows[part]]
        values = decoded.reshape(-1, params.image_channels).astype(np.int64)
        sums += values.sum(axis=0), (values**2).sum(axis=0)
    means, squares = sums / (len(rows) * params.image_size**2)  # (image_channels,)
    stds = np.sqrt(np.maximum(squares - means**2, 0)) / 255
    return (means / 255).tolist(), np.where(stds < CONSTANT_STD, 1.0, stds).tolist()
