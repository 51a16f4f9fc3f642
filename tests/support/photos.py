"""Folders of small photographs."""

from PIL import Image


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
