"""The layouts of image data, each written here as its own tools write it, and every message of the readers."""

import errno
import hashlib
import importlib.util
import json
import logging
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from fiveline.record.origin import fingerprint
from model.vision.data_loader import fetch_dataset, fetch_facts
from model.vision.decode import decode
from model.vision.params import Params
from model.vision.readers import read_split
from model.vision.serve import fetch_inputs, fetch_unlabelled
from utils import InputError

SMALL = Params(image_size=8, horizontal_flip=False)
GREY = Params(image_size=8, image_channels=1, horizontal_flip=False)


def save_image(path, colour=(200, 100, 50), size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)
    return path


def make_folders(data_dir, counts=None, splits=("train", "val", "test")):
    for split in splits:
        for name, number in (counts or {"cat": 3, "dog": 2}).items():
            for i in range(number):
                save_image(data_dir / split / name / f"{i}.png")
    return data_dir


def save_npz(path, number=6, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.arange(number * 64, dtype=np.uint8).reshape(number, 8, 8)
    np.savez(path, **{"images": images, "labels": np.arange(number) % 2, **arrays})


def save_idx(path, array):
    """Write an array as the MNIST files have it: magic number, sizes, bytes, all big-endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def make_mnist(data_dir, name="MNIST", num_train=40, num_test=10):
    generator = np.random.default_rng(0)
    for prefix, number in (("train", num_train), ("t10k", num_test)):
        images = generator.integers(0, 256, size=(number, 28, 28))
        save_idx(data_dir / name / "raw" / f"{prefix}-images-idx3-ubyte", images)
        save_idx(data_dir / name / "raw" / f"{prefix}-labels-idx1-ubyte", np.arange(number) % 10)
    return data_dir


def make_cifar10(data_dir, monkeypatch, per_batch=20):
    """Write CIFAR-10's batches, and give torchvision their checksums, which differ from the real ones."""
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

    def save(name, value):
        (folder / name).write_bytes(pickle.dumps(value, protocol=2))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch():
        data = generator.integers(0, 256, size=(per_batch, 3072), dtype=np.uint8)
        return {"data": data, "labels": [i % 10 for i in range(per_batch)]}

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [save(f"data_batch_{i}", batch()) for i in range(1, 6)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [save("test_batch", batch())])
    md5 = save("batches.meta", {"label_names": names})[1]
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5})
    return data_dir


def png_that_claims(width, height):
    """Return the bytes of a tiny PNG whose header claims a huge picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


# ---- folders -------------------------------------------------------------------------------------------------------


def test_folders_give_classes_sorted_and_files_in_order(tmp_path):
    make_folders(tmp_path, {"dog": 2, "cat": 3, "ant": 1})
    examples = read_split("train", tmp_path, SMALL)
    assert examples.ids == ["ant/0.png", "cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    assert examples.labels == ["ant", "cat", "cat", "cat", "dog", "dog"]
    facts = fetch_facts(tmp_path, SMALL)
    assert facts["classes"] == ["ant", "cat", "dog"] and facts["class_counts"] == [1, 3, 2]
    dataset = fetch_dataset("val", tmp_path, SMALL.with_facts(facts))
    assert dataset.labels.tolist() == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "bmp", "gif", "webp", "tiff", "ppm"])
def test_folders_hold_any_format(tmp_path, suffix):
    save_image(tmp_path / "train" / "a" / f"x.{suffix}")
    save_image(tmp_path / "train" / "b" / f"y.{suffix}", size=(31, 17))
    examples = read_split("val", save_val(tmp_path), SMALL)
    assert len(examples.ids) == 1
    for path in read_split("train", tmp_path, SMALL).images:
        pixels = decode(path, SMALL)
        assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 8  # JPEG, WebP and GIF's palette lose a little


def save_val(data_dir):
    save_image(data_dir / "val" / "a" / "x.png")
    return data_dir


def test_folders_leave_out_what_is_hidden_or_no_image_and_say_so(tmp_path, caplog):
    make_folders(tmp_path)
    for name in ("train/cat/notes.txt", "train/labels.csv", "train/dog/Thumbs.db"):
        (tmp_path / name).write_text("x")
    save_image(tmp_path / "train/cat/.hidden.png")
    save_image(tmp_path / "train/cat/.ipynb_checkpoints/0-checkpoint.png")
    save_image(tmp_path / "train/.thumbnails/0.png")
    (tmp_path / "train/empty").mkdir()
    caplog.set_level(logging.INFO)
    params = SMALL.with_facts(fetch_facts(tmp_path, SMALL))
    assert params.classes == ["cat", "dog"]
    assert len(fetch_dataset("train", tmp_path, params)) == 5
    assert [r.message for r in caplog.records][:2] == [
        f"- {tmp_path / 'train'}: 3 file(s) that cannot be read as images are left out (1 .csv, 1 .db, 1 .txt)",
        f"- {tmp_path / 'train'}: no images in empty",
    ]


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    make_folders(tmp_path)
    (tmp_path / "train/dog/more").mkdir()
    forbidden, scandir = str(tmp_path / "train/dog/more"), os.scandir

    def scan(path):  # chmod does not keep out root
        if str(path) == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", forbidden)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(InputError, match=r"more: this folder cannot be read \(Permission denied\); chmod it"):
        fetch_facts(tmp_path, SMALL)
    *images, (name, error) = fetch_unlabelled([tmp_path / "train"], SMALL)
    assert len(images) == 5 and name == str(tmp_path / "train") and "more: this folder cannot be read" in str(error)


def test_folders_are_read_through_links_and_below_the_class(tmp_path):
    outside = save_image(tmp_path / "elsewhere" / "photo.png")
    make_folders(tmp_path / "data")
    (tmp_path / "data/train/cat/link.png").symlink_to(outside)
    (tmp_path / "data/train/fish").symlink_to(outside.parent)
    save_image(tmp_path / "data/train/cat/first/day/9.png")
    ids = read_split("train", tmp_path / "data", SMALL).ids
    assert {"cat/link.png", "fish/photo.png", "cat/first/day/9.png"} < set(ids)


@pytest.mark.parametrize("place", ["data/train/loop", "data/train/cat/loop", "data/train/cat/old/loop", "owls/loop"])
@pytest.mark.parametrize("target", ["data/train", "data"])
def test_a_link_back_to_a_folder_above_is_not_followed(tmp_path, place, target):
    """Else each image would be read 40 times, and cats as owls."""
    make_folders(tmp_path / "data")
    save_image(tmp_path / "data/train/cat/old/9.png")
    save_image(tmp_path / "owls/8.png")
    (tmp_path / "data/train/owl").symlink_to(tmp_path / "owls")
    expected, before = read_split("train", tmp_path / "data", SMALL), fingerprint(tmp_path / "data")
    assert len(expected.ids) == 7

    (tmp_path / place).symlink_to(tmp_path / target)
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    for data_dir in (tmp_path / "data", tmp_path / "linked"):
        found = read_split("train", data_dir, SMALL)
        assert (found.ids, found.labels) == (expected.ids, expected.labels)
        assert fingerprint(data_dir) == before
        assert len(list(fetch_unlabelled([data_dir / "train"], SMALL))) == 7


def test_numbers_sort_as_numbers(tmp_path):
    make_folders(tmp_path, {"10": 1, "9": 1, "2": 1, "b": 1, "a": 1})
    assert fetch_facts(tmp_path, SMALL)["classes"] == ["2", "9", "10", "a", "b"]


def test_a_class_that_train_lacks_is_refused(tmp_path):
    make_folders(tmp_path)
    save_image(tmp_path / "val/emu/0.png")
    params = SMALL.with_facts(fetch_facts(tmp_path, SMALL))
    with pytest.raises(
        InputError, match=r"^emu/0.png: class 'emu' is not among the classes of train when .*\(cat, dog\)"
    ):
        fetch_dataset("val", tmp_path, params)


def test_one_class_is_no_classification(tmp_path):
    make_folders(tmp_path, {"cat": 3})
    with pytest.raises(InputError, match="train has 1 class.* in 3 images; expected 2 or more"):
        fetch_facts(tmp_path, SMALL)


# ---- decoding ------------------------------------------------------------------------------------------------------


def test_decode_is_pillows_conversion_and_bilinear_resize(tmp_path):
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, size=(21, 13, 3), dtype=np.uint8))
    picture.save(tmp_path / "x.png")
    expected = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(decode(tmp_path / "x.png", SMALL), expected)
    expected = np.asarray(picture.convert("L").resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(decode(tmp_path / "x.png", GREY)[:, :, 0], expected)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("1", "png"), ("P", "png"), ("RGBA", "png"), ("LA", "png"),
                                              ("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "jpg")])  # fmt: skip
@pytest.mark.parametrize("level", [0, 255])
def test_decode_keeps_black_and_white_in_every_mode(tmp_path, mode, suffix, level):
    path = save_image(tmp_path / f"x.{suffix}", (level,) * 3, mode=mode)
    for params in (SMALL, GREY):
        assert np.abs(decode(path, params).astype(int) - level).max() <= 2


def test_decode_scales_16_bits(tmp_path):
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    for name in ("x.png", "x.tif", "x.pgm"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(decode(tmp_path / name, GREY)[:, :, 0], values >> 8)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_decode_refuses_pixels_that_do_not_say_what_white_is(tmp_path, dtype):
    Image.fromarray(np.full((8, 8), -5, dtype=dtype)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"x.tif: not a readable image \(its pixels have 32 bits; save them as 8 or"):
        decode(tmp_path / "x.tif", GREY)


def test_decode_shows_white_where_a_picture_is_transparent(tmp_path):
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)  # black, and transparent but for the left half
    pixels[:, :4, 3] = 255
    rgba = Image.fromarray(pixels)
    rgba.save(tmp_path / "rgba.png")
    rgba.convert("LA").save(tmp_path / "la.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.paste(1, (4, 0, 8, 8))
    palette.save(tmp_path / "p.png", transparency=1)
    palette.save(tmp_path / "p.gif", transparency=1)
    for name in ("rgba.png", "la.png", "p.png", "p.gif"):
        for params in (SMALL, GREY):
            decoded = decode(tmp_path / name, params)
            assert (decoded[:, :4] == 0).all() and (decoded[:, 4:] == 255).all(), name


def test_decode_turns_photos_upright(tmp_path):
    picture = Image.new("L", (8, 8))
    picture.paste(255, (0, 0, 8, 2))  # white at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top of the file is the right of the scene
    picture.save(tmp_path / "x.png", exif=exif)
    assert decode(tmp_path / "x.png", GREY)[:, :, 0].mean(axis=0).tolist() == [0] * 6 + [255] * 2


@pytest.mark.parametrize(("size", "most"), [((800, 600), 2), ((201, 150), 6), ((100, 75), 0), ((31, 9), 0)])
def test_decode_of_a_photo_is_exact_or_nearly_so_where_it_is_large(tmp_path, size, most):
    # from sixteen times image_size on, a JPEG is decoded at a half or less; an odd side then loses half a pixel
    coarse = np.random.default_rng(0).integers(0, 256, size=(12, 16, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    photo.save(tmp_path / "x.jpg", quality=95)
    with Image.open(tmp_path / "x.jpg") as picture:
        exact = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode(tmp_path / "x.jpg", SMALL) - exact).max() <= most


def test_decode_refuses_a_decompression_bomb(tmp_path):
    (tmp_path / "x.png").write_bytes(png_that_claims(30_000, 30_000))
    with pytest.raises(InputError, match=r"x.png: not a readable image \(Image size \(900000000 pixels\)"):
        decode(tmp_path / "x.png", SMALL)


def test_decode_names_the_file_that_cannot_be_read(tmp_path):
    whole = save_image(tmp_path / "whole.png", size=(64, 64)).read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("empty.png", "text.jpg", "cut.png", "broken.png", "missing.png"):
        with pytest.raises(InputError, match=f"{name}: not a readable image .*; repair it or take it out$"):
            decode(tmp_path / name, SMALL)


@pytest.mark.filterwarnings("ignore")  # Pillow's, about what is wrong with them
def test_decode_of_damaged_files_gives_an_image_or_a_plain_error(tmp_path):
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, size=(16, 16, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "tif"):
        path = tmp_path / f"x.{suffix}"
        picture.save(path)
        original = path.read_bytes()
        for _ in range(30):
            damaged = bytearray(original)
            for position in generator.integers(0, len(damaged), size=3):
                damaged[position] ^= int(generator.integers(1, 256))
            path.write_bytes(damaged)
            try:
                assert decode(path, SMALL).shape == (8, 8, 3)
            except InputError as error:
                assert path.name in str(error)


def test_a_broken_image_stops_the_dataset_and_is_named(tmp_path):
    make_folders(tmp_path)
    params = SMALL.with_facts(fetch_facts(tmp_path, SMALL))
    (tmp_path / "train/cat/1.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"cat.1\.png: not a readable image"):
        fetch_dataset("train", tmp_path, params)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_the_right_size_are_taken_as_they_are(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, size=(6, 8, 8, channels), dtype=np.uint8)
    save_npz(tmp_path / "train.npz", images=images)
    save_npz(tmp_path / "val.npz", images=images)
    params = Params(image_size=8, image_channels=channels)
    dataset = fetch_dataset("val", tmp_path, params.with_facts(fetch_facts(tmp_path, params)))
    batch, _ = dataset.__getitems__([4, 0])
    assert np.array_equal((batch * 255).round().permute(0, 2, 3, 1).numpy(), images[[4, 0]])


@pytest.mark.parametrize("channels", [1, 3])
def test_train_statistics_are_those_of_all_pixels(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, size=(7, 8, 8, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for i, image in enumerate(images):
            path = tmp_path / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image if channels == 3 else image[:, :, 0]).save(path)
    params = Params(image_size=8, image_channels=channels, normalize="train")
    facts = fetch_facts(tmp_path, params)
    pixels = images[..., :channels].reshape(-1, channels) / 255
    assert np.allclose(facts["mean"], pixels.mean(axis=0)) and np.allclose(facts["std"], pixels.std(axis=0))
    dataset = fetch_dataset("val", tmp_path, params.with_facts(facts))
    batch, _ = dataset.__getitems__(range(7))
    assert np.allclose(batch.mean(dim=(0, 2, 3)), 0, atol=1e-5) and np.allclose(
        batch.std(dim=(0, 2, 3), correction=0), 1, atol=1e-5
    )


# ---- CS230's names -------------------------------------------------------------------------------------------------


def test_signs_labels_have_any_number_of_digits(tmp_path):
    for name in ("train_signs", "val_signs", "test_signs"):
        for label in (10, 9, 2):
            save_image(tmp_path / name / f"{label}_IMG_{label}.jpg")
    save_image(tmp_path / "train_signs" / "007_x_y.png")
    examples = read_split("train", tmp_path, SMALL)
    assert dict(zip(examples.ids, examples.labels, strict=True)) == {
        "007_x_y.png": "7", "10_IMG_10.jpg": "10", "2_IMG_2.jpg": "2", "9_IMG_9.jpg": "9",
    }  # fmt: skip
    assert fetch_facts(tmp_path, SMALL)["classes"] == ["2", "7", "9", "10"]


@pytest.mark.parametrize("name", ["hand.jpg", "3.jpg", "a_3.jpg", "-1_x.jpg"])
def test_signs_without_a_label_are_refused(tmp_path, name):
    save_image(tmp_path / "train_signs" / "0_a.jpg")
    save_image(tmp_path / "train_signs" / name)
    with pytest.raises(InputError, match=f"{name}: expected a name that begins with the label's number"):
        read_split("train", tmp_path, SMALL)


# ---- packed arrays -------------------------------------------------------------------------------------------------


def test_npz_labels_are_numbers_or_names(tmp_path):
    save_npz(tmp_path / "train.npz")
    save_npz(tmp_path / "val.npz", classes=np.array(["no", "yes"]))
    save_npz(tmp_path / "test.npz", classes=np.array([b"no", b"yes"]))
    assert read_split("train", tmp_path, SMALL).labels == ["0", "1"] * 3
    assert read_split("val", tmp_path, SMALL).labels == ["no", "yes"] * 3
    assert read_split("test", tmp_path, SMALL).labels == ["no", "yes"] * 3
    assert read_split("test", tmp_path, SMALL).ids == [f"test[{i}]" for i in range(6)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((6, 8, 8))}, r"found images float64 \(6, 8, 8\)"),
        ({"images": np.zeros((6, 64), np.uint8)}, r"found images uint8 \(6, 64\)"),
        ({"images": np.zeros((6, 8, 8, 4), np.uint8)}, r"found images uint8 \(6, 8, 8, 4\)"),
        ({"images": np.zeros((6, 0, 8), np.uint8)}, r"found images uint8 \(6, 0, 8\)"),
        ({"labels": np.zeros(5, int)}, r"found images .* and labels int64 \(5,\)"),
        ({"labels": np.zeros(6)}, r"found images .* and labels float64 \(6,\)"),
        ({"labels": np.full(6, -1)}, "labels from -1 to -1; expected 0 or more"),
        ({"labels": np.arange(6), "classes": np.array(["a", "b"])}, "labels from 0 to 5; expected 0 to 1, a number"),
        ({"classes": np.array("ab")}, "found classes of another shape, 'ab'"),
        ({"labels": np.array([None] * 6)}, "an integer for each, .* found Object arrays cannot be loaded"),
        ({"labels": np.array(["a"] * 99, object)}, "an integer for each, .* found Object arrays cannot be loaded"),
        ({"classes": np.array(["a", "b"], object)}, "perhaps `classes`, text; found Object arrays cannot be loaded"),
    ],
)
def test_npz_of_another_kind_is_refused(tmp_path, arrays, message):
    save_npz(tmp_path / "train.npz", **arrays)
    with pytest.raises(InputError, match=rf"train.npz: .*{message}"):
        read_split("train", tmp_path, SMALL)


def test_npz_that_is_none_is_refused(tmp_path):
    path = tmp_path / "train.npz"
    np.savez(path, pictures=np.zeros(3))
    with pytest.raises(InputError, match="found pictures"):
        read_split("train", tmp_path, SMALL)
    damaged = [b"", b"no zip file", path.read_bytes(), pickle.dumps(os.getcwd)]
    save_npz(path)
    damaged.append(path.read_bytes()[:-30])
    np.save(tmp_path / "plain.npy", np.zeros(3))
    damaged.append((tmp_path / "plain.npy").read_bytes())
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(InputError, match="train.npz: expected `images`"):
            read_split("train", tmp_path, SMALL)


def test_npz_that_is_damaged_is_refused(tmp_path):
    path = tmp_path / "train.npz"
    generator = np.random.default_rng(0)
    np.savez_compressed(path, images=generator.integers(0, 256, (6, 8, 8), dtype=np.uint8), labels=np.arange(6) % 2)
    save_npz(tmp_path / "val.npz")
    original = path.read_bytes()
    whole = read_split("train", tmp_path, SMALL)
    for position in generator.integers(0, len(original), size=200):
        damaged = bytearray(original)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:  # dates and the like may change and do no harm
            assert np.array_equal(read_split("train", tmp_path, SMALL).images, whole.images)
        except InputError as error:
            assert "train.npz: " in str(error)


# ---- what data/build_dataset.py downloads ----------------------------------------------------------------------------


def load_builder():
    path = Path(__file__).parents[3] / "data" / "build_dataset.py"
    spec = importlib.util.spec_from_file_location("build_dataset", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_build_dataset_without_a_network_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    script = load_builder()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no server listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("mnist", "cifar10"):
        with pytest.raises(SystemExit) as stop:
            script.main([name, "--output_dir", str(tmp_path / name)])
        message = capsys.readouterr().err
        assert stop.value.code == 2
        assert message.startswith(f"error: {name} cannot be downloaded (") and message.count("\n") == 1
        assert message.endswith("; is there a network?\n")


def test_build_dataset_takes_what_is_there(tmp_path, monkeypatch, capsys):
    script = load_builder()
    make_cifar10(tmp_path, monkeypatch)
    script.main(["cifar10", "--output_dir", str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}: 100 train images", f"{tmp_path}: 20 test images"]
    test = read_split("test", tmp_path, SMALL)
    assert test.labels[:3] == ["airplane", "automobile", "bird"] and test.images.shape == (20, 32, 32, 3)
    with (tmp_path / "cifar-10-batches-py" / "test_batch").open("rb") as file:
        batch = pickle.load(file)
    assert np.array_equal(test.images[7], batch["data"][7].reshape(3, 32, 32).transpose(1, 2, 0))
    assert len(read_split("train", tmp_path, SMALL).ids) == 90 and len(read_split("val", tmp_path, SMALL).ids) == 10


@pytest.mark.parametrize(
    ("name", "first", "last"), [("mnist", "0", "9"), ("fashion_mnist", "T-shirt/top", "Ankle boot")]
)
def test_build_dataset_writes_mnist_as_npz(tmp_path, monkeypatch, name, first, last):
    folder = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]
    make_mnist(tmp_path, folder)
    monkeypatch.setattr(getattr(datasets, folder), "_check_exists", lambda self: True)
    load_builder().main([name, "--output_dir", str(tmp_path)])
    test = read_split("test", tmp_path, GREY)
    assert test.labels[0] == first and test.labels[9] == last and test.ids[9] == "test[9]"
    raw = (tmp_path / folder / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert test.images.tobytes() == raw and test.images.shape == (10, 28, 28)
    train, val = (read_split(split, tmp_path, GREY) for split in ("train", "val"))
    assert len(train.ids) == 30 and sorted(val.labels) == sorted(set(train.labels)) and len(val.ids) == 10


def test_build_dataset_does_not_unpickle_what_was_altered(tmp_path, monkeypatch, capsys):
    make_cifar10(tmp_path, monkeypatch)
    trace = tmp_path / "it ran"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trace,)

    for name in ("data_batch_3", "batches.meta"):
        path = tmp_path / "cifar-10-batches-py" / name
        original = path.read_bytes()
        path.write_bytes(pickle.dumps(Trap()))
        monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: None)
        with pytest.raises(SystemExit):
            load_builder().main(["cifar10", "--output_dir", str(tmp_path)])
        assert "corrupted" in capsys.readouterr().err
        path.write_bytes(original)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Trap()))
    assert trace.exists()  # the trap works


# ---- splits --------------------------------------------------------------------------------------------------------


def test_a_missing_val_split_is_cut_from_train(tmp_path, caplog):
    counts = {"a": 40, "b": 20, "c": 3, "d": 1}
    make_folders(tmp_path, counts, splits=("train", "test"))
    params = Params(image_size=8, val_fraction=0.2)
    caplog.set_level(logging.INFO)
    train, val = (read_split(split, tmp_path, params) for split in ("train", "val"))
    assert not set(train.ids) & set(val.ids) and len(train.ids) + len(val.ids) == 64
    assert {name: val.labels.count(name) for name in counts} == {"a": 8, "b": 4, "c": 1, "d": 0}
    assert val.ids == sorted(val.ids)  # in the order of the files
    params = params.with_facts(fetch_facts(tmp_path, params))
    assert params.facts["class_counts"] == [32, 16, 2, 1]  # without val
    assert not caplog.records
    for split in ("train", "val"):
        fetch_dataset(split, tmp_path, params)
    assert [r.message for r in caplog.records if "once" not in r.message] == [
        f"- {tmp_path} has no val split: 13 of 64 train examples serve as val"
    ]


@pytest.mark.parametrize("name", ["validation", "valid", "dev"])
def test_a_val_split_of_another_name_is_named_with_what_to_do(tmp_path, caplog, name):
    make_folders(tmp_path, splits=("train", "test", name))
    caplog.set_level(logging.INFO)
    params = SMALL.with_facts(fetch_facts(tmp_path, SMALL))
    for split in ("train", "val"):
        fetch_dataset(split, tmp_path, params)
    assert [r.message for r in caplog.records if "val split" in r.message] == [
        f"- {tmp_path} has no val split: 2 of 5 train examples serve as val; "
        f"{tmp_path / name} is not read: rename it to val"
    ]
    (tmp_path / name).rename(tmp_path / "val")  # as it says
    assert len(fetch_dataset("val", tmp_path, params)) == 5


def test_the_pictures_of_a_cut_split_are_its_own(tmp_path):
    for i in range(20):
        save_image(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", (10 * i, 0, 0))
    val = read_split("val", tmp_path, Params(val_fraction=0.3)).ids
    shown = fetch_inputs(val, "val", tmp_path, Params(val_fraction=0.3))
    assert len(val) == 6
    assert [entry["image"].getpixel((0, 0))[0] for entry in shown.values()] == [10 * int(name[2:-4]) for name in val]


def test_the_cut_depends_on_split_seed_alone(tmp_path):
    make_folders(tmp_path, {"a": 40, "b": 20}, splits=("train",))
    first = read_split("val", tmp_path, Params(seed=1)).ids
    assert first == read_split("val", tmp_path, Params(seed=2)).ids
    assert first == read_split("val", tmp_path, Params(seed=1)).ids
    assert first != read_split("val", tmp_path, Params(split_seed=231)).ids


def test_a_val_split_that_exists_is_left_alone(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    save_npz(tmp_path / "train.npz", 6)
    save_npz(tmp_path / "val.npz", 4)
    params = GREY.with_facts(fetch_facts(tmp_path, GREY))
    assert [len(fetch_dataset(split, tmp_path, params)) for split in ("train", "val")] == [6, 4]
    assert not caplog.records


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_folder_of_no_known_shape_says_what_was_expected(tmp_path, split):
    for name in ("a", "b", "c", "d", "e", "f", "g"):
        (tmp_path / name).mkdir()
    message = f"there is no {split} split in it; it holds a, b, c, d, e, f, ..., expected {split}/<class>/"
    with pytest.raises(InputError, match=message):
        read_split(split, tmp_path, SMALL)
    (tmp_path / "README.md").write_text("Download it")
    with pytest.raises(InputError, match=r"README\.md may say how to get it$"):
        read_split(split, tmp_path, SMALL)


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(InputError, match="it holds nothing, expected train/<class>"):
        read_split("train", tmp_path, SMALL)


def test_a_missing_test_split_is_not_cut(tmp_path):
    make_folders(tmp_path, splits=("train",))
    with pytest.raises(InputError, match="there is no test split in it; it holds train, expected"):
        read_split("test", tmp_path, SMALL)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such data directory; --data_dir says where"):
        read_split("train", tmp_path / "nowhere", SMALL)


@pytest.mark.parametrize(("names", "message"), [
    ((), "expected a folder for each class in it, found nothing"),
    (("1.jpg", "2.jpg"), "expected a folder for each class in it, found 1.jpg, 2.jpg"),
])  # fmt: skip
def test_a_split_without_class_folders_is_refused(tmp_path, names, message):
    (tmp_path / "train").mkdir()
    for name in names:
        save_image(tmp_path / "train" / name)
    with pytest.raises(InputError, match=message):
        read_split("train", tmp_path, SMALL)


def test_a_split_without_images_is_refused(tmp_path):
    for name in ("train/cat", "test_signs"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.txt").write_text("x")
    with pytest.raises(InputError, match=r"are left out \(1 .txt\); .*: no images in"):
        read_split("train", tmp_path, SMALL)
    with pytest.raises(InputError, match="test_signs: no images in it; it holds x.txt"):
        read_split("test", tmp_path, SMALL)


def test_two_layouts_in_one_folder_are_refused(tmp_path):
    save_npz(tmp_path / "test.npz")
    make_folders(tmp_path, splits=("test",))
    with pytest.raises(InputError, match=r"it holds test and test\.npz; put each dataset in a folder of its own"):
        read_split("test", tmp_path, SMALL)


@pytest.mark.parametrize("cache", ["auto", "memory"])
def test_all_unreadable_images_of_the_splits_are_named_together(tmp_path, run_script, cache):
    for split, number in (("train", 6), ("val", 4)):
        for label in ("ant", "bee"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    broken = [tmp_path / "data" / name for name in ("train/ant/1.png", "train/bee/5.png", "val/bee/0.png")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:40])
    folder = tmp_path / "run"
    folder.mkdir()
    values = {"data_dir": str(tmp_path / "data"), "image_size": 8, "cache": cache}
    (folder / "params.json").write_text(json.dumps(values))
    done = run_script("sanity_check.py", "--model_dir", folder)
    assert done.returncode == 2, done.stderr
    assert all(f"{path}: not a readable image" in done.stderr for path in broken), done.stderr
    assert "2 images cannot be read:" in done.stderr and done.stderr.count("not a readable image") == 3
