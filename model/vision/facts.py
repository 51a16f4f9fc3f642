"""What the train split decides: classes, pixel statistics, and the bits of 16-bit images."""

from __future__ import annotations

import collections
import math
from pathlib import Path
from typing import Any

import numpy as np

from model.vision.decode import chunks, decode_all
from model.vision.formats import Examples, Files, normal
from model.vision.opening import find_grey_bits
from model.vision.params import Params
from model.vision.readers import read_split
from model.vision.storage import keep_on_disk
from utils import InputError

BITS_SAMPLE = 100  # images whose values say how many bits are used
CONSTANT_STD = 0.1 / 255  # of a channel that is constant, but for a level here and there: noise, not to be magnified
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
    found = _grey_bits(examples, params)  # and what it warns of has no part in grey_bits
    facts["grey_bits"] = params.grey_bits or found
    facts["mean"], facts["std"] = [0.0] * params.image_channels, [1.0] * params.image_channels
    if params.normalize == "imagenet":
        facts["mean"], facts["std"] = IMAGENET_MEAN, IMAGENET_STD
    elif params.normalize == "train":
        known = params.with_facts(facts)  # decoding reads grey_bits
        facts["mean"], facts["std"] = _pixel_statistics(keep_on_disk(examples, data_dir, known), known)
    return facts


def _class_order(name: str) -> tuple[int, int, str]:
    """Sort names as text, but numbers as numbers."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _grey_bits(examples: Examples, params: Params) -> int:
    """Return how many bits the values of 16-bit grey images use, by a sample: the whole split may take minutes."""
    if not isinstance(examples.images, Files):
        return 16
    rows = examples.rows_of(range(0, len(examples.ids), math.ceil(len(examples.ids) / BITS_SAMPLE)))
    return find_grey_bits((examples.images[row] for row in rows), params.max_image_pixels)


def _pixel_statistics(examples: Examples, params: Params) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels, on the scale from 0 to 1.

    The standard deviation of a constant channel counts as 1, as in scikit-learn's StandardScaler.
    """
    levels = np.arange(256) / 255
    counts = np.zeros((params.image_channels, 256), dtype=np.int64)  # pixels of each channel at each level: exact
    for positions in chunks(len(examples.ids), params):
        pixels = decode_all(examples.images, examples.rows_of(positions), params)
        for channel in range(params.image_channels):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    means = shares @ levels  # (image_channels,)
    variances = (shares * (levels - means[:, None]) ** 2).sum(axis=1)
    stds = np.sqrt(variances)
    return means.tolist(), np.where(stds < CONSTANT_STD, 1.0, stds).tolist()


def unknown_class(name: str, label: str, data_dir: Path, params: Params) -> str:
    """Return the message about an example whose class the net does not know."""
    known = {normal(each) for each in params.classes}
    try:
        now = set(read_split("train", data_dir, params).labels)
    except InputError:  # a test split from elsewhere need have no train beside it
        now = set()
    if label not in now:
        return f"{name}: class {label!r} is not in train, which has {', '.join(params.classes[:10])}"
    new, gone = (", ".join(sorted(names, key=_class_order)[:10]) for names in (now - known, known - now))
    change = f"a class that this run does not know ({new})" + (f" and lacks {gone}" if gone else "")
    return f"{data_dir}: train now has {change}: another --model_dir, or --restart"
