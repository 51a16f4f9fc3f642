"""After training: readable predictions, new images, and the description of an exported program."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fiveline.loading.pictures import find_images, left_out, open_picture
from model.vision.params import OWN_NETS, Params
from model.vision.readers import Examples, read_split
from utils import InputError

if TYPE_CHECKING:
    from torch import Tensor

READS = ("split_seed", "val_fraction", "grey_bits", "max_image_pixels")  # the hyperparameters of `fetch_inputs`
THUMBNAIL_SIDE = 128  # pixels of a picture in a page


def predictions(outputs: Tensor, labels: Tensor | None, params: Params) -> list[dict[str, Any]]:
    """Return one dict per example: the predicted class, its probability, and, unless labels is None, label and loss."""
    import torch.nn.functional as F

    confidences, predicted = outputs.softmax(dim=1).max(dim=1)
    rows: list[dict[str, Any]] = [
        {"prediction": params.classes[number], "confidence": confidence}
        for number, confidence in zip(predicted.tolist(), confidences.tolist(), strict=True)
    ]
    if labels is not None:
        losses = F.cross_entropy(outputs, labels, reduction="none").tolist()
        for row, label, loss in zip(rows, labels.tolist(), losses, strict=True):
            row.update(label=params.classes[label], loss=loss)
    return rows


def probabilities(outputs: Tensor, _: Tensor | None, params: Params) -> list[dict[str, float]]:
    """Return the probability of each class, one dict per example."""
    return [dict(zip(params.classes, row, strict=True)) for row in outputs.softmax(dim=1).tolist()]


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, Path | InputError]]:
    """Yield new images: files, and the images in folders, at any depth, in order."""
    for path in paths:
        if not path.is_dir():
            yield str(path), path
            continue
        images, others, errors = find_images(path)
        yield from ((str(path / name), path / name) for name in images)
        for note in left_out(path, others):
            logging.info(f"- {note}")
        yield from ((str(path), error) for error in errors)


def collate_unlabelled(examples: Sequence[Path], params: Params) -> tuple[Tensor, None]:
    """Return images as `ImageDataset` does; InputError if one of them cannot be read."""
    from model.vision.data_loader import ImageDataset

    names, once = [str(path) for path in examples], params.model_copy(update={"cache": "none"})
    split = Examples(names, [params.classes[0]] * len(names), list(examples), np.arange(len(names)))
    dataset = ImageDataset(split, Path(), once.with_facts(params.facts))
    return dataset.__getitems__(range(len(names)))[0], None


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how images become inputs and outputs become answers, for code that does not use this project."""
    side, mode = params.image_size, "RGB" if params.image_channels == 3 else "L"
    levels, draft = 2**params.known_grey_bits, 8 * side
    steps = [
        "open the file with Pillow; of several pictures take the first",
        f"let Pillow decode a large JPEG at half, quarter or an eighth of its size: draft(None, ({draft}, {draft}))",
        "turn it upright as its EXIF orientation says (ImageOps.exif_transpose)",
        f"where it has 16 bits of grey (Pillow's modes I and I;16): divide by {levels // 256} and round down, which "
        f"gives 8 bits (mode L); {levels} and more are refused; the value info['transparency'], if any, becomes 255",
        "where parts are transparent, put it on white: convert to RGBA, then alpha_composite on a white picture",
        f"convert to mode {mode} with Pillow's convert, from any mode: grey, RGB, palette (P), CMYK",
        f"resize to {side} x {side} pixels, stretching its sides: Pillow's BILINEAR (which antialiases)",
        "divide by 255, as float32",
        *(["subtract mean and divide by std, each channel its own"] if params.normalize != "none" else []),
        "put the axes in the order (batch_size, channels, height, width)",
    ]
    scale = {} if params.normalize == "none" else {"mean": params.facts["mean"], "std": params.facts["std"]}
    outputs = "logits, one for each of `classes`; softmax over the last axis makes them probabilities"
    return {"steps": steps, **scale, "outputs": outputs, "classes": params.classes}


def fetch_inputs(ids: Collection[str], split: str, data_dir: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return images of a split by their id, as {"image": a small PIL image}.

    An id that the split does not have, or whose image cannot be read, is left out. InputError: the data is broken.
    """
    examples, wanted, found = read_split(split, data_dir, params), set(ids), {}
    positions = [position for position, name in enumerate(examples.ids) if name in wanted]
    for position, image in zip(positions, examples.images_at(positions), strict=True):
        try:
            picture = open_picture(image, 2 * THUMBNAIL_SIDE, params.max_image_pixels, params.grey_bits or None)
            picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        except Exception:  # noqa: S112  Pillow's readers raise errors of many kinds
            continue
        found[examples.ids[position]] = {"image": picture}
    return found


def suggest(data_dir: Path, params: Params) -> tuple[int, dict[str, tuple[Any, str]]]:
    """Return the number of train images, and hyperparameters that suit a sample of them, each with the reason."""
    examples, pictures = read_split("train", data_dir, params), []
    number = len(examples.ids)
    for image in examples.images_at(range(0, number, math.ceil(number / 100) or 1)):
        with contextlib.suppress(Exception):  # training names broken files
            pictures.append(open_picture(image, 512, params.max_image_pixels, None).convert("RGB"))
    if not pictures:
        raise InputError(f"{data_dir}: no image of train can be read, in a sample of its {number}")
    median = int(np.median([min(picture.size) for picture in pictures]))
    is_grey = all(np.ptp(np.asarray(picture.resize((16, 16))), axis=2).max() < 8 for picture in pictures)
    is_writing = (is_grey and median <= 64) or all(len(name) == 1 and name.isalpha() for name in examples.labels)
    is_own, side = params.net in OWN_NETS, min(max(median, 16), 64)
    hint = "; for photos, net=resnet18 pretrained=true normalize=imagenet image_size=224 may be better"
    found: dict[str, tuple[Any, str]] = {
        "image_size": (side, f"the median of the shorter sides is {median}{hint if median > 64 else ''}"),
        "image_channels": (1, "all images are grey") if is_grey and is_own else (3, "for a net that looks at colour"),
        "horizontal_flip": (not is_writing, "photos may be mirrored, digits and letters may not"),
        "shift": (side // 16, "a sixteenth of image_size"),
    }
    if is_own:
        found["dropout_rate"] = (0.2 if number >= 10_000 else 0.3, f"{number:,} images")
    return number, {**found, **({"learning_rate": (3e-4, "for pretrained weights")} if params.pretrained else {})}
