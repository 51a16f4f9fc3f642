"""Image files as Pillow's pictures: which formats are opened, how large they may be, and which bits they keep."""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from fiveline.record.errors import InputError
from fiveline.record.files import files_below

# Pillow opens many more, whatever the file's name: for EPS it would start Ghostscript
FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"]
FORMATS += ["AVIF"] if importlib.util.find_spec("PIL.AvifImagePlugin") else []  # since Pillow 11.3
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf",
}  # fmt: skip
DEPTHS = (8, 10, 12, 14, 16)  # bits of the sensors whose values come in 16-bit files
_Turn = Image.Transpose
TURNS = {  # by the EXIF orientation
    2: _Turn.FLIP_LEFT_RIGHT, 3: _Turn.ROTATE_180, 4: _Turn.FLIP_TOP_BOTTOM, 5: _Turn.TRANSPOSE, 6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE, 8: _Turn.ROTATE_90,
}  # fmt: skip

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # max_pixels decides, and refuses


def find_images(folder: Path) -> tuple[list[str], list[str], list[InputError]]:
    """Return image files and other files, relative to `folder`, and an error for each folder that cannot be read."""
    unreadable: list[OSError] = []
    names = list(files_below(folder, unreadable.append))
    images = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
    text = "{0.filename}: this folder cannot be read ({0.strerror}); chmod it, or take it out"
    return images, sorted({*names} - {*images}), [InputError(text.format(error)) for error in unreadable]


def left_out(folder: Path, others: Sequence[str]) -> tuple[str, ...]:
    """Return a note about the files in a folder that are not read, if there are any."""
    kinds = collections.Counter(Path(name).suffix.lower() or Path(name).name for name in others)
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    return (f"{folder}: {len(others)} file(s) that cannot be read as images are left out ({counts})",) if others else ()


def open_picture(image: Path | np.ndarray, side: int, max_pixels: int, grey_bits: int | None) -> Image.Image:
    """Return the first picture of a file: upright as its EXIF entry says, 8 bits a value, transparent parts white.

    Args:
        image: the file; or an array (height, width) or (height, width, 3), uint8
        side: a JPEG of at least twice this size is decoded at a half, a quarter or an eighth of its size
        max_pixels: files whose header claims more are refused
        grey_bits: how many bits the values of 16-bit grey pictures use; None: as many as this picture needs
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    with _open(image, max_pixels) as picture:
        picture.draft(None, (side, side))
        picture.load()
    orientation = None
    with contextlib.suppress(Exception):  # EXIF that cannot be read is ignored, as other viewers do
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    # not ImageOps.exif_transpose: it writes the other EXIF entries again, and fails where one of them is malformed
    upright = picture.transpose(TURNS[orientation]) if orientation in TURNS else picture
    if upright.mode == "F" or upright.mode.startswith("I"):
        return _from_16_bits(upright, grey_bits)
    if upright.has_transparency_data:  # the colours below are arbitrary, often as black as the drawing on them
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright


def _open(path: Path, max_pixels: int) -> Image.Image:
    if not path.is_file() and path.exists():  # opening a pipe would wait for its other end
        raise ValueError("not a regular file")
    Image.MAX_IMAGE_PIXELS = max_pixels // 2  # Pillow refuses above twice this number
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error} If the file is right, set max_image_pixels higher") from None
    except UnidentifiedImageError:
        raise ValueError(f"its contents are not of any of the formats {', '.join(FORMATS)}") from None


def _from_16_bits(picture: Image.Image, grey_bits: int | None) -> Image.Image:
    """Return a picture of 16-bit grey values with 8 bits; Pillow would cut them off at 255."""
    values = np.asarray(picture)
    largest = int(values.max())
    if picture.mode == "F" or values.min() < 0 or largest >= 2**16:
        raise ValueError("its pixels have 32 bits; save them as 8 or 16 bits, which say what white is")
    bits = grey_bits or _bits_for(largest)
    if largest >= 2**bits:
        found = f"its values reach {largest}, where the values of train use {bits} bits and stay below {2**bits}"
        raise ValueError(f"{found}; save it on the scale of train, or train with grey_bits={_bits_for(largest)}")
    pixels = (values >> (bits - 8)).astype(np.uint8)
    if "transparency" in picture.info:
        pixels[values == picture.info["transparency"]] = 255
    return Image.fromarray(pixels)


def _bits_for(largest: int) -> int:
    return next((bits for bits in DEPTHS if largest < 2**bits), DEPTHS[-1])


def find_grey_bits(paths: Iterable[Path], max_pixels: int) -> int:
    """Return how many bits the values of 16-bit grey pictures use: enough for the largest value, or 16 without any."""
    largest = -1
    for path in paths:
        with contextlib.suppress(Exception), _open(path, max_pixels) as picture:  # decoding names a broken file
            if picture.mode.startswith("I"):
                largest = max(largest, int(np.asarray(picture).max()))
    return 16 if largest < 0 else _bits_for(largest)


def decode_in_threads(
    images: Sequence[Any] | np.ndarray, decode: Callable[[Any], np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    """Return images, (len(images), *shape), uint8; an InputError names all images for which `decode` raised one."""
    import torch

    values, errors = np.empty((len(images), *shape), dtype=np.uint8), {}

    def fill(i: int) -> None:
        try:
            values[i] = decode(images[i])
        except InputError as error:
            errors[i] = str(error)

    # only files are decoded outside the interpreter's lock; in a data loading process, torch has one thread
    num_threads = 1 if isinstance(images, np.ndarray) else torch.get_num_threads()
    with ThreadPoolExecutor(num_threads) as pool:
        list((pool.map if num_threads > 1 else map)(fill, range(len(images))))
    if errors:
        title = f"{len(errors)} images cannot be read:\n  " if len(errors) > 1 else ""
        raise InputError(title + "\n  ".join(errors[i] for i in sorted(errors)[:20]))  # the title counts them all
    return values
