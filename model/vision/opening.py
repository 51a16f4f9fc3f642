"""Image files as Pillow's pictures: which formats are opened, how large they may be, and which bits they keep.

Imports no torch, because a page of results shows pictures without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# Pillow opens many more, whatever the file's name: EPS would start Ghostscript, and others have no clear beginning
FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"]
FORMATS += ["AVIF"] if importlib.util.find_spec("PIL.AvifImagePlugin") else []  # new in Pillow 11.3

IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf",
}  # fmt: skip
UNREAD_SUFFIXES = {
    ".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".dcm", ".svg",
    ".eps", ".pdf", ".psd", ".tga", ".ico", ".pcx", ".dib", ".dds", ".qoi", ".sgi", ".exr", ".hdr", ".pfm", ".fits",
    ".xbm", ".xpm", ".im", ".ras", ".icns", ".cur", ".avifs", ".wmf", ".emf",
}  # fmt: skip

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # max_image_pixels decides, and refuses

DEPTHS = (8, 10, 12, 14, 16)  # bits of the sensors whose values come in 16-bit files
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(path: Path, side: int, max_pixels: int, grey_bits: int | None) -> Image.Image:
    """Return the first picture of a file: upright, of 8 bits, with white where it is transparent.

    Args:
        path: the file
        side: a JPEG of at least twice that size is decoded at a half, a quarter or an eighth of its size
        max_pixels: files whose header claims more are refused
        grey_bits: how many bits the values of 16-bit grey pictures use; None: as many as this picture needs

    Raises:
        Exception: of any kind, because Pillow's readers raise many
    """
    with _open(path, max_pixels) as picture:
        picture.draft(None, (side, side))
        picture.load()
    # not ImageOps.exif_transpose: it writes the other EXIF entries again, and fails where one of them is malformed
    turn = TURNS.get(_orientation(picture))
    upright = picture if turn is None else picture.transpose(turn)
    if upright.mode == "F" or upright.mode.startswith("I"):
        return _from_16_bits(upright, grey_bits)
    if upright.has_transparency_data:  # what lies below is arbitrary, often as black as the drawing on it
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright


def _open(path: Path, max_pixels: int) -> Image.Image:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
        raise ValueError("not a regular file")
    Image.MAX_IMAGE_PIXELS = max_pixels // 2  # Pillow refuses above twice that
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error} If the file is right, set max_image_pixels higher") from None
    except UnidentifiedImageError:
        raise ValueError(f"it begins as no file of {', '.join(FORMATS)} does") from None


def _orientation(picture: Image.Image) -> Any:
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF that cannot be read turns nothing, as in other viewers
        return None


def _from_16_bits(picture: Image.Image, grey_bits: int | None) -> Image.Image:
    """Return a picture of 16-bit grey values as one of 8 bits; Pillow would cut them off at 255."""
    values = np.asarray(picture)
    largest = int(values.max())
    if picture.mode == "F" or values.min() < 0 or largest >= 2**16:
        raise ValueError("its pixels have 32 bits; save them as 8 or 16 bits, which say what white is")
    bits = grey_bits or bits_for(largest)
    if largest >= 2**bits:
        raise ValueError(
            f"its values reach {largest}, where those of train use {bits} bits and stay below {2**bits}; save it on "
            f"the scale of train, or train with grey_bits={bits_for(largest)}"
        )
    pixels = (values >> (bits - 8)).astype(np.uint8)
    if "transparency" in picture.info:
        pixels[values == picture.info["transparency"]] = 255
    return Image.fromarray(pixels)


def bits_for(largest: int) -> int:
    """Return the usual number of bits that holds a value."""
    return next((bits for bits in DEPTHS if largest < 2**bits), DEPTHS[-1])


def find_grey_bits(paths: Iterable[Path], max_pixels: int) -> int:
    """Return how many bits the values of 16-bit grey pictures use, by the largest in some files; 16 without any.

    It warns of 16-bit colour, and grey with alpha, that hardly use their range: Pillow keeps the upper 8 bits.
    """
    grey = colour = -1
    for path in paths:
        with contextlib.suppress(Exception), _open(path, max_pixels) as picture:  # decoding names a broken file
            if picture.mode.startswith("I"):
                grey = max(grey, int(np.asarray(picture).max()))
            elif ";16" in str(picture.tile):
                values = np.asarray(picture)
                if picture.getbands()[-1] == "A":  # what is wholly transparent may hold anything
                    values = values[values[..., -1] > 0][:, :-1]
                colour = max(colour, int(values.max()))
    if 0 <= colour < 2**6:
        logging.warning(
            f"- WARNING: the 16-bit colour images of train reach {colour} of 255 once they have 8 bits, because their "
            "values do not use all 16 bits, and grey_bits is for grey without alpha alone (grey with alpha counts as "
            "colour); scale them and save them with 8 bits, or save grey ones with 16 bits and without alpha"
        )
    return 16 if grey < 0 else bits_for(grey)
