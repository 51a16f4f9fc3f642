"""Each reader of images, on random small data: what an independent reader gives, or an error that names the file."""

import contextlib
import re
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from model.vision.decode import decode
from model.vision.params import Params
from model.vision.readers import read_split
from utils import InputError

PARAMS = Params(image_size=8)
few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def found_or_refused(read, *names):
    """Return the result of `read`, or None for an InputError that names the file."""
    try:
        return read()
    except InputError as error:
        assert any(name in str(error) for name in names), f"{error} names none of {names}"
        return None


# ---- image files ---------------------------------------------------------------------------------------------------

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


@few
@given(st.data())
@pytest.mark.filterwarnings("ignore")  # Pillow's, about what is wrong with a file
def test_image_files_are_seen_as_numpy_sees_them_or_named(data):
    mode = data.draw(st.sampled_from(sorted(FORMATS)))
    suffix = data.draw(st.sampled_from(FORMATS[mode]))
    turn = data.draw(st.sampled_from(list(TURNS)))
    damage = data.draw(st.sampled_from(["none", "none", "uppercase", "wrong suffix", "cut", "empty"]))
    picture, seen = draw_image(mode, np.random.default_rng(data.draw(st.integers(0, 2**32))))
    with folder() as place:
        path = place / f"x.{suffix}"
        exif = Image.Exif()
        if turn is not None and suffix in KEEP_EXIF:
            exif[0x0112], seen = turn, None if seen is None else TURNS[turn](seen)
        options = {**LOSSLESS.get(suffix, {}), **({"exif": exif.tobytes()} if len(exif) else {})}
        picture.save(path, **options, **({"transparency": TRANSPARENT} if mode == "P" else {}))
        content = path.read_bytes()
        named = {"uppercase": f"x.{suffix.upper()}", "wrong suffix": "x.jpg"}.get(damage, path.name)
        path = path.rename(place / named)
        if damage == "empty":
            path.write_bytes(b"")
        elif damage == "cut":
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        pixels = found_or_refused(lambda: decode(path, PARAMS), str(path))
    assert pixels is not None or damage in ("empty", "cut") or seen is None
    if pixels is not None:
        assert damage != "empty" and seen is not None and pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
        if damage != "cut":
            assert np.abs(pixels - seen).max() <= 1.01, (mode, suffix, turn)  # alpha and CMYK are rounded


# ---- folders and names ---------------------------------------------------------------------------------------------

PARTS = ["cat", "dog", "Ünï", unicodedata.normalize("NFD", "Ünï"), ".git", "@eaDir", "__MACOSX", ".thumbnails", "7_b"]
FILES = ["1.png", "2.JPG", "3.jpeg", "._4.png", "Thumbs.db", "note.txt", "5.heic", "6.mpo", "7.jp2", "8", "9_a.png"]
paths = st.lists(st.sampled_from(PARTS), max_size=3).flatmap(
    lambda parts: st.sampled_from(FILES).map(lambda name: "/".join([*parts, name]))
)
READ = {".png", ".jpg", ".jpeg", ".mpo", ".jp2"}


def write_tree(place, names):
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()


def shown(names):
    """Return the names that a person put there, of images."""
    system = re.compile(r"(^|/)(\.|@eaDir(/|$)|__MACOSX(/|$))")
    return sorted(name for name in names if not system.search(name) and Path(name).suffix.lower() in READ)


@few
@given(st.sets(paths, max_size=12))
def test_folders_are_what_a_walk_finds(names):
    expected = {name: unicodedata.normalize("NFC", name.split("/")[0]) for name in shown(names) if "/" in name}
    with folder() as place:
        write_tree(place / "val", names)
        (place / "val").mkdir(exist_ok=True)
        (place / "train").mkdir()
        examples = found_or_refused(lambda: read_split("val", place, PARAMS), f"{place / 'val'}")
    if examples is not None:
        assert dict(zip(examples.ids, examples.labels, strict=True)) == expected and len(examples.ids) == len(expected)
        num_heic = sum("heic" in name for name in names if not re.search(r"(^|/)[.@_]", name))
        assert (f"{num_heic} .heic" in " ".join(examples.notes)) == (num_heic > 0)
    else:  # no images at all, or a class with files of which none can be read
        folders = {unicodedata.normalize("NFC", name.split("/")[0]) for name in names if "/" in name}
        assert not expected or folders - set(expected.values())


# ---- packed --------------------------------------------------------------------------------------------------------


@few
@given(st.data())
def test_npz_is_what_numpy_reads(data):
    number = data.draw(st.integers(0, 4))
    shape = (number, *data.draw(st.sampled_from([(3, 2), (3, 2, 1), (3, 2, 3), (3, 2, 4), (3,), (0, 2)])))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    images = generator.integers(0, 256, shape).astype(data.draw(st.sampled_from([np.uint8] * 5 + [np.uint16, float])))
    largest = data.draw(st.sampled_from([1, 2, 5, 2**40, 2**62]))
    labels = generator.integers(data.draw(st.sampled_from([0, 0, -1])), largest + 1, number + data.draw(st.booleans()))
    labels = labels.astype(data.draw(st.sampled_from([np.int64, np.int64, np.uint64, np.int8, float])))
    classes = data.draw(st.sampled_from([None, ["a", "b", "c"], ["a", "a"], ["é", "e\u0301"], [["a"]], [1, 2, 3]]))
    arrays = {"images": images, "labels": labels, **({} if classes is None else {"classes": np.array(classes)})}
    with folder() as place:
        path = place / "test.npz"
        data.draw(st.sampled_from([np.savez, np.savez_compressed]))(path, **arrays)
        if data.draw(st.integers(0, 3)) == 0:
            content = path.read_bytes()
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
            assert found_or_refused(lambda: read_split("test", place, PARAMS), str(path)) is None
            return
        examples = found_or_refused(lambda: read_split("test", place, PARAMS), str(path))
    is_right = images.dtype == np.uint8 and (images.ndim == 3 or images.shape[3:] in ((1,), (3,))) and images.shape[1]
    is_right = is_right and labels.dtype.kind in "iu" and len(labels) == number and not (labels < 0).any()
    if classes is not None:
        is_right = is_right and np.ndim(classes) == 1 and len(set(classes)) == len(classes)
        is_right = is_right and not (labels >= len(classes)).any()
    assert (examples is not None) == bool(is_right)
    if examples is not None:
        names = labels.tolist() if classes is None else [classes[i] for i in labels]
        assert examples.labels == [unicodedata.normalize("NFC", str(name)) for name in names]
        assert all(type(label) is str for label in examples.labels)  # not NumPy's, which a checkpoint cannot hold
        assert np.array_equal(np.asarray(examples.images).reshape(images.shape), images)
