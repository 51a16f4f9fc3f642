"""Image files of random modes, formats, turns and damage: seen as NumPy sees them, or an error that names the file."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from model.vision.decode import decode
from model.vision.params import Params
from utils import InputError

TURNS = {  # what the EXIF orientation asks for, by NumPy alone
    None: lambda a: a, 1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a), 9: lambda a: a,
}  # fmt: skip
FORMATS = {
    "1": ["png", "tif", "bmp"], "L": ["png", "tif", "bmp", "pgm", "jp2"], "LA": ["png"], "P": ["png", "gif"],
    "RGB": ["png", "tif", "bmp", "ppm", "webp", "jp2"], "RGBA": ["png", "tif", "webp"], "CMYK": ["tif"],
    "I;16": ["png", "tif", "pgm"], "I;16B": ["tif"], "I": ["tif"], "F": ["tif"],
}  # fmt: skip
KINDS = [(mode, suffix) for mode in sorted(FORMATS) for suffix in FORMATS[mode]]
OPTIONS = {"webp": {"lossless": True, "exact": True}, "jp2": {"irreversible": False}}


def draw_image(mode, generator):
    """Return a picture of 8 x 8 pixels, and what is to be seen of it in colour, (8, 8, 3) or (8, 8, 1)."""
    if mode == "1":
        bits = generator.integers(0, 2, (8, 8)).astype(bool)
        return Image.fromarray(bits), 255 * bits[..., None]
    if mode == "P":  # the fourth colour is transparent
        palette, indices = generator.integers(0, 256, (16, 3)), generator.integers(0, 16, (8, 8)).astype(np.uint8)
        picture = Image.frombytes("P", (8, 8), indices.tobytes())
        picture.putpalette(palette.astype(np.uint8).tobytes())
        return picture, np.where(indices[..., None] == 3, 255, palette[indices])
    if mode in ("I;16", "I;16B", "I"):
        values = generator.integers(0, 2**16, (8, 8))
        stored = values.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode])
        return Image.fromarray(stored), values[..., None] // 256
    if mode == "F":
        return Image.fromarray(generator.random((8, 8), dtype=np.float32)), None
    values = generator.integers(0, 256, (8, 8, len(mode)), dtype=np.uint8)
    picture, seen = Image.frombytes(mode, (8, 8), values.tobytes()), values.astype(float)
    if mode == "CMYK":
        return picture, (255 - seen[..., :3]) * (255 - seen[..., 3:]) / 255
    if mode in ("LA", "RGBA"):
        alpha = seen[..., -1:] / 255
        seen = seen[..., :-1] * alpha + 255 * (1 - alpha)
    return picture, seen


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.filterwarnings("ignore")  # Pillow's, about what is wrong with a file
def test_image_files_are_seen_as_numpy_sees_them_or_named(data):
    mode, suffix = data.draw(st.sampled_from(KINDS))
    turn = data.draw(st.sampled_from(list(TURNS))) if suffix in ("png", "tif", "webp") else None
    damage = data.draw(st.sampled_from(["none", "none", "X.PNG", "x.jpg", "cut", "flipped", "empty"]))
    picture, seen = draw_image(mode, np.random.default_rng(data.draw(st.integers(0, 2**32))))
    options = {**OPTIONS.get(suffix, {}), **({"transparency": 3} if mode == "P" else {})}
    if turn is not None:
        exif, seen = Image.Exif(), None if seen is None else TURNS[turn](seen)
        exif[0x0112] = turn
        options["exif"] = exif.tobytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{suffix}"
        picture.save(path, **options)
        content = path.read_bytes()
        path = path.rename(Path(folder) / (damage if "." in damage else path.name))  # under another name
        place = data.draw(st.integers(0, len(content) - 1))
        damaged = {"empty": b"", "cut": content[:place]}
        damaged["flipped"] = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
        path.write_bytes(damaged.get(damage, content))
        try:
            pixels = decode(path, Params(image_size=8))
        except InputError as error:
            assert str(path) in str(error) and (damage in damaged or seen is None)
            return
    assert damage != "empty" and pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    if damage not in damaged:
        assert np.abs(pixels - seen).max() <= 1.01, (mode, suffix, turn)  # alpha and CMYK are rounded
