"""Images as batches: decoded once, kept as bytes, augmented and scaled as whole batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fiveline.device import epoch_draws
from model.vision.decode import decode_all, draft_side, grey_bits
from model.vision.facts import fetch_facts as fetch_facts
from model.vision.facts import unknown_class
from model.vision.formats import Examples, Files, left_out, normal, walk_files
from model.vision.params import Params
from model.vision.readers import read_split
from model.vision.storage import describe, is_ready, keep_in_memory, keep_on_disk
from utils import InputError


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """The images of one split.

    Args:
        examples: from `read_split`
        data_dir: where they are from; decoded images are kept there, if `cache` says so
        params: image_size, image_channels, cache, augmentation, and the facts
        augment: for the train split

    Raises:
        InputError: a class that train lacks, or, where all images are decoded at once, an unreadable one
    """

    def __init__(self, examples: Examples, data_dir: Path, params: Params, augment: bool) -> None:
        numbers = {normal(name): number for number, name in enumerate(params.classes)}
        for name, label in zip(examples.ids, examples.labels, strict=True):
            if label not in numbers:
                raise InputError(unknown_class(name, label, data_dir, params))
        self.ids = examples.ids
        self.labels = torch.tensor([numbers[label] for label in examples.labels], dtype=torch.int64)
        self.params, self._is_train = params, augment
        self._draws: Tensor | None = None
        self.examples = keep_in_memory(keep_on_disk(examples, data_dir, params), params)
        self.in_memory = is_ready(self.examples, params)
        shape = (1, params.image_channels, 1, 1)
        self._mean = torch.tensor(params.facts["mean"]).reshape(shape)
        self._std = torch.tensor(params.facts["std"]).reshape(shape)

    def __len__(self) -> int:
        return len(self.ids)

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentation of an epoch, from 1."""
        if self._is_train:
            self._draws = epoch_draws(self.params.seed, epoch, len(self), 5)

    def _decode(self, indices: Sequence[int]) -> Tensor:
        return torch.from_numpy(decode_all(self.examples.images, self.examples.rows_of(indices), self.params))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, (image_channels, image_size, image_size), and its class number."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images, float32, (batch_size, image_channels, image_size, image_size), and labels, (batch_size,)."""
        positions = torch.as_tensor(indices)
        draws = None if self._draws is None else self._draws[positions]
        return self._finish(self._decode(indices), draws), self.labels[positions]

    def _finish(self, pixels: Tensor, draws: Tensor | None) -> Tensor:
        if draws is not None:
            pixels = _move(pixels, draws, self.params)
        images = pixels.permute(0, 3, 1, 2)  # (batch_size, image_channels, image_size, image_size), channels-last
        order = torch.channels_last if self.params.channels_last else torch.contiguous_format
        images = images.to(torch.float32, memory_format=order).div_(255)
        if draws is not None and self.params.jitter > 0:
            images = _jitter(images, draws, self.params.jitter)
        if self.params.normalize != "none":
            images = (images - self._mean) / self._std
        return images


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
    rows = rows + side * torch.arange(batch_size, device=pixels.device)[:, None]  # among those of all images
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
    if isinstance(examples.images, Files) or not dataset.in_memory:  # else nothing was to be chosen
        logging.info(f"- {split}: {describe(dataset.examples, params)}")
    return dataset


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, Path | InputError]]:
    """Yield new images: files, and those of folders, at any depth, in order."""
    for path in paths:
        if not path.is_dir():
            yield str(path), path
            continue
        others: list[str] = []
        unreadable: list[InputError] = []
        for name, is_image in walk_files(path, unreadable.append):
            if is_image:
                yield str(path / name), path / name
            else:
                others.append(name)
        for note in left_out(path, others):
            logging.info(f"- {note}")
        yield from ((str(path), error) for error in unreadable)


def collate_unlabelled(examples: Sequence[Path], params: Params) -> tuple[Tensor, None]:
    """Return images as `ImageDataset` does: it does it.

    Raises:
        InputError: one of them cannot be read
    """
    names = [str(path) for path in examples]
    once = params.model_copy(update={"cache": "none"}).with_facts(params.facts)
    split = Examples(names, [params.classes[0]] * len(names), Files(Path(), names))
    return ImageDataset(split, Path(), once, augment=False).__getitems__(range(len(names)))[0], None


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how images become inputs and outputs become answers, for code without ours."""
    side, mode = params.image_size, "RGB" if params.image_channels == 3 else "L"
    bits, draft = grey_bits(params), draft_side(params)
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
