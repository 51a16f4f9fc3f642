"""Images as batches: decoded once, kept as bytes, augmented and scaled as whole batches."""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fiveline.device import example_draws, send
from fiveline.loading import pictures
from model.vision import decode
from model.vision.params import Params
from model.vision.readers import Examples, find_images, left_out, normal, read_split
from utils import InputError

CHUNK_BYTES = 2**26  # of decoded images are gone through at a time for the pixel statistics
BITS_SAMPLE = 100  # images whose values say how many bits are used: reading all of them may take minutes
CONSTANT_STD = 0.1 / 255  # of a channel that is constant but for a few levels of noise, which is not to be magnified
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return what the train split decides: the classes, how many examples each has, and the mean and std of pixels.

    Raises:
        InputError: there is no train split, or it is broken
    """
    examples = read_split("train", data_dir, params)
    counts = collections.Counter(examples.labels)
    if len(counts) < 2:
        found = f"train has {len(counts)} class(es) in {len(examples.labels)} images"
        raise InputError(f"{data_dir}: {found}; expected two or more")
    classes = sorted(counts, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    facts: dict[str, Any] = {"classes": classes, "class_counts": [counts[name] for name in classes]}
    facts["grey_bits"] = params.grey_bits or _find_grey_bits(examples, params)
    facts["mean"], facts["std"] = [0.0] * params.image_channels, [1.0] * params.image_channels
    if params.normalize == "imagenet":
        facts["mean"], facts["std"] = IMAGENET_MEAN, IMAGENET_STD
    elif params.normalize == "train":
        facts["mean"], facts["std"] = _pixel_statistics(ImageDataset(examples, data_dir, params.with_facts(facts)))
    return facts


def _find_grey_bits(examples: Examples, params: Params) -> int:
    if isinstance(examples.images, np.ndarray):
        return 16
    sample = range(0, len(examples.ids), math.ceil(len(examples.ids) / BITS_SAMPLE))
    return pictures.find_grey_bits(examples.images_at(sample), params.max_image_pixels)


def _pixel_statistics(dataset: ImageDataset) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels, on the scale from 0 to 1.

    The standard deviation of a constant channel counts as 1, as in scikit-learn's StandardScaler.
    """
    num_channels, levels = dataset.params.image_channels, np.arange(256) / 255
    counts = np.zeros((num_channels, 256), dtype=np.int64)  # pixels of each channel at each level: exact
    size = max(1, CHUNK_BYTES // math.prod(dataset.params.image_shape))
    for start in range(0, len(dataset), size):
        pixels = dataset.fetch_pixels(np.arange(start, min(start + size, len(dataset)))).numpy()
        for channel in range(num_channels):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    means = shares @ levels  # (image_channels,)
    stds = np.sqrt((shares * (levels - means[:, None]) ** 2).sum(axis=1))
    return means.tolist(), np.where(stds < CONSTANT_STD, 1.0, stds).tolist()


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """The images of one split.

    Args:
        examples: from `read_split`
        data_dir: where they are from; decoded images are kept there, if `cache` says so
        params: image_size, image_channels, cache, augmentation, and the facts
        augment: for the train split

    Raises:
        InputError: an example is of an unknown class, or, if all images are decoded now, some cannot be read
    """

    def __init__(self, examples: Examples, data_dir: Path, params: Params, augment: bool = False) -> None:
        self.examples, self.params = examples, params
        self.ids, self.labels = examples.ids, _class_numbers(examples, params)
        self.augment, self.epoch = augment, 1
        pixels, rows = decode.load_pixels(examples, data_dir, params)
        self.path = getattr(pixels, "filename", None)  # of a mapped file
        self.pixels = None if pixels is None else torch.from_numpy(pixels)
        self.rows = torch.from_numpy(rows)
        self.nbytes = len(rows) * math.prod(params.image_shape)
        self.in_memory = pixels is not None and self.nbytes <= decode.SMALL_BYTES
        shape = (1, params.image_channels, 1, 1)
        self._mean = torch.tensor(params.facts["mean"]).reshape(shape)
        self._std = torch.tensor(params.facts["std"]).reshape(shape)

    def __len__(self) -> int:
        return len(self.ids)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch's augmentation to draw, from 1."""
        self.epoch = epoch

    def move_to(self, device: torch.device) -> None:
        """Keep all images and labels on a device; what `fetch_raw` and `finish` return is there from now on."""
        assert self.pixels is not None
        self.pixels, self.rows, self.labels = (each.to(device) for each in (self.pixels, self.rows, self.labels))

    def fetch_pixels(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Return decoded images, uint8, (len(indices), image_size, image_size, image_channels)."""
        if self.pixels is None:
            return torch.from_numpy(decode.decode_all(self.examples.images_at(indices), self.params))
        positions = send(torch.as_tensor(indices), self.rows.device)
        return self.pixels.index_select(0, self.rows.index_select(0, positions))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, (image_channels, image_size, image_size), and its class number."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images, float32, (batch_size, image_channels, image_size, image_size), and labels, (batch_size,)."""
        raw, labels = self.fetch_raw(indices)
        return self.finish(raw), labels

    def fetch_raw(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return what `finish` makes the images from, on whichever device it is, and labels, (batch_size,).

        Returns:
            (pixels, draws), or (pixels,) where nothing is augmented:
            pixels, uint8, (batch_size, image_size, image_size, image_channels), and draws, uniform, (batch_size, 5);
            and the labels
        """
        device = self.labels.device
        pixels, positions = self.fetch_pixels(indices), send(torch.as_tensor(indices), device)
        labels = self.labels.index_select(0, positions)
        if not self.augment:
            return (pixels,), labels
        return (pixels, send(example_draws(self.params.seed, self.epoch, indices, 5), device)), labels

    def finish(self, raw: tuple[Tensor, ...]) -> Tensor:
        """Return images as `__getitems__` does, from what `fetch_raw` returned: augmented and scaled."""
        pixels, draws, params = raw[0], raw[1] if len(raw) == 2 else None, self.params
        if draws is not None:
            pixels = _move(pixels, draws, params)
        images = pixels.permute(0, 3, 1, 2)  # (batch_size, image_channels, image_size, image_size), channels-last
        order = torch.channels_last if params.channels_last else torch.contiguous_format
        images = images.to(torch.float32, memory_format=order).div_(255)
        if draws is not None and params.jitter > 0:
            images = _jitter(images, draws, params.jitter)
        if params.normalize != "none":
            if self._mean.device != images.device:  # once: each copy to a GPU would wait for it
                self._mean, self._std = self._mean.to(images.device), self._std.to(images.device)
            images = (images - self._mean) / self._std
        return images


def _class_numbers(examples: Examples, params: Params) -> Tensor:
    numbers = {normal(name): number for number, name in enumerate(params.classes)}
    for name, label in zip(examples.ids, examples.labels, strict=True):
        if label not in numbers:
            raise InputError(
                f"{name}: class {label!r} is not among the classes of train when this run began "
                f"({', '.join(params.classes[:10])}); if train has it now: another --model_dir, or --restart"
            )
    return torch.tensor([numbers[label] for label in examples.labels], dtype=torch.int64)


def _move(pixels: Tensor, draws: Tensor, params: Params) -> Tensor:
    """Mirror half of the images and move each by up to params.shift pixels; edges are repeated.

    Args:
        pixels: (batch_size, image_size, image_size, image_channels), uint8
        draws: (batch_size, 5), uniform; the first three are used here
        params: horizontal_flip, shift
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
    rows = rows + side * torch.arange(batch_size, device=pixels.device)[:, None]  # in the rows of all images
    sources = (side * rows[:, :, None] + columns[:, None, :]).flatten()
    return pixels.flatten(0, 2).index_select(0, sources).view(pixels.shape)  # each pixel moves as a whole, once


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
    dataset = ImageDataset(examples, data_dir, params, augment=split == "train")
    if split == "train" and (gone := {normal(name) for name in params.classes} - set(examples.labels)):
        logging.warning(f"- WARNING: {data_dir}: train lacks {', '.join(sorted(gone))}, a class that the net knows")
    if isinstance(examples.images, list) or dataset.pixels is None:  # the images have been decoded, or will be
        place = f"mapped from {dataset.path}" if dataset.path else "in memory"
        if dataset.pixels is None:
            hint = "" if params.num_workers else "; num_workers=... does it ahead of time, in other processes"
            place = f"each decoded when it is needed{hint}"
        logging.info(f"- {split}: {len(dataset)} images, {dataset.nbytes / 2**20:,.1f} MB, {place}")
    return dataset


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, Path | InputError]]:
    """Yield new images: files, and the images in folders, at any depth, in order."""
    for path in paths:
        if not path.is_dir():
            yield str(path), path
            continue
        images, others, errors = find_images(path, is_strict=False)
        yield from ((str(path / name), path / name) for name in images)
        for note in left_out(path, others):
            logging.info(f"- {note}")
        yield from ((str(path), error) for error in errors)


def collate_unlabelled(examples: Sequence[Path], params: Params) -> tuple[Tensor, None]:
    """Return images as `ImageDataset` does.

    Raises:
        InputError: one of them cannot be read
    """
    names = [str(path) for path in examples]
    once = params.model_copy(update={"cache": "none"}).with_facts(params.facts)
    split = Examples(names, [params.classes[0]] * len(names), list(examples))
    return ImageDataset(split, Path(), once).__getitems__(range(len(names)))[0], None


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how images become inputs and outputs become answers, for code that does not use this project."""
    side, mode = params.image_size, "RGB" if params.image_channels == 3 else "L"
    bits, draft = params.known_grey_bits, params.draft_side
    steps = [
        "open the file with Pillow; of several pictures take the first",
        f"let Pillow decode a large JPEG at half, quarter or an eighth of its size: draft(None, ({draft}, {draft}))",
        "turn it upright as its EXIF orientation says (ImageOps.exif_transpose)",
        f"where it has 16 bits of grey (Pillow's modes I and I;16): divide by {2 ** (bits - 8)} and round down, which "
        f"gives 8 bits (mode L); {2**bits} and more are refused; the value info['transparency'], if any, becomes 255",
        "where parts are transparent, put it on white: convert to RGBA, then alpha_composite on a white picture",
        f"convert to mode {mode} with Pillow's convert, from any mode: grey, RGB, palette (P), CMYK",
        f"resize to {side} x {side} pixels, stretching its sides: Pillow's BILINEAR (which antialiases)",
        "divide by 255, as float32",
        "subtract mean and divide by std, each channel its own",
        "put the axes in the order (batch_size, channels, height, width)",
    ]
    return {
        "steps": [step for step in steps if params.normalize != "none" or "mean" not in step],
        **({} if params.normalize == "none" else {"mean": params.facts["mean"], "std": params.facts["std"]}),
        "outputs": "logits, one for each of `classes`; softmax over the last axis makes them probabilities",
        "classes": params.classes,
    }
