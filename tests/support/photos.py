"""Folders of small photographs."""

import numpy as np
from PIL import Image


def write_photos(folder, names):
    """Write photographs that cannot be distinguished, which is enough for reading them."""
    generator = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / name)


def save_picture(path, pixels="red", **options):
    """Save pixels, or 8 x 8 of one colour, as an image; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (8, 8), pixels) if isinstance(pixels, str) else Image.fromarray(pixels)
    picture.save(path, **options)
    return path


def make_folders(data_dir, classes="ab", draw=lambda: "red", splits=("train", "val", "test"), suffix="png"):
    """Write a folder for each class: three images in each, or as many as `classes`, a dict, says."""
    counts = classes if isinstance(classes, dict) else dict.fromkeys(classes, 3)
    for path in (
        data_dir / split / name / f"{i}.{suffix}" for split in splits for name in counts for i in range(counts[name])
    ):
        save_picture(path, draw())
    return data_dir
