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
TRANSPARENT = 3  # an entry of the palette
KEEP_EXIF = {"png", "tif", "webp"}
LOSSLESS = {"webp": {"lossless": True, "exact": True}, "jp2": {"irreversible": False}}


def draw_image(mode, generator):
    """Return a picture of 8 x 8 pixels, and what is to be seen of it in colour, (8, 8, 3)."""
    if mode == "1":
        bits = generator.integers(0, 2, (8, 8)).astype(bool)
        return Image.fromarray(bits), np.repeat(255 * bits[..., None], 3, 2)
    if mode == "P":
        palette, indices = generator.integers(0, 256, (16, 3)), generator.integers(0, 16, (8, 8)).astype(np.uint8)
        picture = Image.frombytes("P", (8, 8), indices.tobytes())
        picture.putpalette(palette.astype(np.uint8).tobytes())
        return picture, np.where(indices[..., None] == TRANSPARENT, 255, palette[indices])
    if mode in ("I;16", "I;16B", "I"):
        values = generator.integers(0, 2**16, (8, 8))
        stored = values.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode])
        return Image.fromarray(stored), np.repeat(values[..., None] // 256, 3, 2)
    if mode == "F":
        return Image.fromarray(generator.random((8, 8), dtype=np.float32)), None
    values = generator.integers(0, 256, (8, 8, len(mode)), dtype=np.uint8)
    picture, seen = Image.frombytes(mode, (8, 8), values.tobytes()), values.astype(float)
    if mode == "CMYK":
        return picture, (255 - seen[..., :3]) * (255 - seen[..., 3:]) / 255
    if mode in ("LA", "RGBA"):
        alpha = seen[..., -1:] / 255
        seen = seen[..., :-1] * alpha + 255 * (1 - alpha)
    return picture, np.broadcast_to(seen, (8, 8, 3))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.filterwarnings("ignore")  # Pillow's, about what is wrong with a file
def test_image_files_are_seen_as_numpy_sees_them_or_named(data):
    mode = data.draw(st.sampled_from(sorted(FORMATS)))
    suffix = data.draw(st.sampled_from(FORMATS[mode]))
    turn = data.draw(st.sampled_from(list(TURNS)))
    damage = data.draw(st.sampled_from(["none", "none", "uppercase", "wrong suffix", "cut", "flipped", "empty"]))
    picture, seen = draw_image(mode, np.random.default_rng(data.draw(st.integers(0, 2**32))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{suffix}"
        exif = Image.Exif()
        if turn is not None and suffix in KEEP_EXIF:
            exif[0x0112], seen = turn, None if seen is None else TURNS[turn](seen)
        options = {**LOSSLESS.get(suffix, {}), **({"exif": exif.tobytes()} if len(exif) else {})}
        picture.save(path, **options, **({"transparency": TRANSPARENT} if mode == "P" else {}))
        content = path.read_bytes()
        named = {"uppercase": f"x.{suffix.upper()}", "wrong suffix": "x.jpg"}.get(damage, path.name)
        path = path.rename(Path(folder) / named)
        if damage == "empty":
            path.write_bytes(b"")
        elif damage in ("cut", "flipped"):
            place = data.draw(st.integers(0, len(content) - 1))
            rest = b"" if damage == "cut" else bytes([content[place] ^ 0xFF]) + content[place + 1 :]
            path.write_bytes(content[:place] + rest)
        try:
            pixels = decode(path, Params(image_size=8))
        except InputError as error:
            assert str(path) in str(error) and (damage in ("empty", "cut", "flipped") or seen is None)
            return
    assert damage != "empty" and pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    if damage not in ("cut", "flipped"):
        assert np.abs(pixels - seen).max() <= 1.01, (mode, suffix, turn)  # alpha and CMYK are rounded
