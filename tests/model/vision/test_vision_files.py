"""Image files as cameras, microscopes, storage boxes and strangers leave them: what is decoded, scaled, and refused."""

import re
import struct

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from sklearn.preprocessing import StandardScaler

from fiveline.tasks import fetch_facts
from model.vision.decode import decode
from model.vision.params import Params
from model.vision.serve import collate_unlabelled, describe_inputs, fetch_inputs
from tests.support.data import load, refusal
from tests.support.photos import make_folders, save_picture
from utils import InputError

SMALL = Params(image_size=8, horizontal_flip=False)
GREY = Params(image_size=8, image_channels=1, horizontal_flip=False)


def test_what_cannot_be_decoded_is_named_with_what_to_do(tmp_path):
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert "(its contents are not of any of the formats JPEG, PNG, GIF, " in refusal(decode, tmp_path / "x.heic", SMALL)
    for path in (tmp_path / "x.heic", tmp_path / "missing.png"):
        assert re.search(f"{path}: not a readable image.*; repair it or take it out$", refusal(decode, path, SMALL))
    path = save_picture(tmp_path / "x.tif", np.full((8, 8), -5, dtype=np.int32))  # does not say what white is
    assert "x.tif: not a readable image (its pixels have 32 bits; save them as 8 or" in refusal(decode, path, GREY)
    path = save_picture(tmp_path / "x.png", np.zeros((100, 100), np.uint8))
    message = refusal(decode, path, GREY.model_copy(update={"max_image_pixels": 9_998}))
    assert "(10000 pixels)" in message and "set max_image_pixels higher" in message
    assert decode(path, GREY).shape == (8, 8, 1)  # the limit of another run is gone


@pytest.mark.parametrize("channels", [1, 3])
def test_train_statistics_are_standard_scalers_also_of_constant_channels(tmp_path, channels):
    generator = np.random.default_rng(0)

    def draw():
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pixels[..., 1] = 77
        return pixels if channels == 3 else pixels[..., 0]

    make_folders(tmp_path, draw=draw)
    dataset, params = load(tmp_path, Params(image_size=8, image_channels=channels, normalize="train"))
    pixels = [np.asarray(Image.open(path)).reshape(-1, channels) / 255 for path in dataset.examples.images]
    scaler = StandardScaler().fit(np.concatenate(pixels))
    assert np.allclose(params.facts["std"], scaler.scale_) and np.allclose(params.facts["mean"], scaler.mean_)
    batch = dataset.__getitems__(range(6))[0].permute(0, 2, 3, 1).reshape(-1, channels)
    assert np.allclose(batch, scaler.transform(np.concatenate(pixels)), atol=1e-5)


@pytest.mark.parametrize(("level", "is_constant"), [(1, True), (255, False)])
def test_a_channel_with_one_odd_pixel_is_constant_where_that_is_rounding(tmp_path, level, is_constant):
    images = np.zeros((40, 8, 8), np.uint8)
    images[3, 2, 2] = level
    for split in ("train", "val"):
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(40) % 2)
    dataset, params = load(tmp_path, Params(image_size=8, image_channels=1, normalize="train"), "val")
    std = 1 if is_constant else (images / 255).std()
    assert np.allclose(params.facts["std"], std)
    assert dataset[3][0].max() == pytest.approx((level / 255) / std, rel=0.01)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(("suffix", "dtype"), [("png", "<u2"), ("tif", ">u2"), ("tif", "<i4")])
def test_values_of_fewer_bits_keep_their_levels_in_every_split(tmp_path, bits, suffix, dtype):
    values = np.linspace(0, 2**bits - 1, 64).astype(dtype).reshape(8, 8)
    params = fetch_facts(make_folders(tmp_path, draw=lambda: values, suffix=suffix), GREY)
    path = save_picture(tmp_path / f"test/a/0.{suffix}", (np.arange(64).reshape(8, 8)).astype(dtype))  # a dark one
    expected = np.arange(64).reshape(8, 8) // 2 ** (bits - 8)
    assert np.array_equal(decode(path, params)[:, :, 0], expected)
    assert np.array_equal(collate_unlabelled([path], params)[0][0, 0], np.float32(expected) / np.float32(255))
    if bits < 16:
        message = refusal(decode, save_picture(path, np.full((8, 8), 2**16 - 1).astype(dtype)), params)
        assert f"use {bits} bits and stay below {2**bits}; " in message and "grey_bits=16" in message


def test_grey_bits_may_be_given_and_a_transparent_value_of_16_bits_is_white(tmp_path):
    make_folders(tmp_path, draw=lambda: np.full((8, 8), 4095, np.uint16))
    for bits, level in ((0, 255), (12, 255), (14, 63), (16, 15)):
        dataset, params = load(tmp_path, GREY.model_copy(update={"grey_bits": bits}), "val")
        assert torch.equal(dataset[0][0], torch.full((1, 8, 8), level) / 255)  # not another one's cache
    assert (decode(tmp_path / "val/a/0.png", GREY) == 15).all()  # a run from before there was such a fact
    assert fetch_inputs(["a/0.png"], "val", tmp_path, GREY)["a/0.png"]["image"].getpixel((0, 0)) == 255
    values = np.array([[300] * 4 + [40_000] * 4] * 8, np.uint16)
    path = save_picture(tmp_path / "x.png", values, transparency=300)
    assert decode(path, GREY)[0, :, 0].tolist() == [255] * 4 + [156] * 4


def follow(steps, facts, path):
    """Do by hand what the steps say in words; a step that is not known here fails."""
    for step in steps:
        number = [int(text) for text in re.findall(r"\d+", step)]
        match step.split()[0]:
            case "open":
                picture = Image.open(path)
            case "let":
                picture.draft(None, (number[0], number[1]))
            case "turn":
                turned = picture.getexif().get(0x0112) == 6
                picture = picture.transpose(Image.Transpose.ROTATE_270) if turned else picture
            case "where" if "16 bits of grey" in step:
                if picture.mode.startswith("I"):
                    values, clear = np.asarray(picture), picture.info.get("transparency")
                    values = np.where(values == clear, 255, values // int(re.search(r"divide by (\d+)", step)[1]))
                    picture = Image.fromarray(values.astype(np.uint8))
            case "where" if "transparent" in step:
                if picture.has_transparency_data:
                    picture = picture.convert("RGBA")
                    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            case "convert":
                picture = picture.convert(step.split()[3])
            case "resize":
                array = np.asarray(picture.resize((number[0], number[1]), Image.Resampling.BILINEAR))
            case "divide":
                array = array.reshape(*array.shape[:2], -1).astype(np.float32) / np.float32(255)
            case "subtract":
                array = (array - np.float32(facts["mean"])) / np.float32(facts["std"])
            case "put":
                array = array.transpose(2, 0, 1)[None]
            case _:
                raise AssertionError(f"what is this step? {step}")
    return array


@pytest.mark.parametrize(("channels", "normalize"), [(1, "none"), (3, "train")])
def test_the_steps_in_words_lead_to_what_predict_feeds_the_net(tmp_path, channels, normalize):
    generator = np.random.default_rng(0)
    make_folders(tmp_path, draw=lambda: generator.integers(0, 4096, (9, 8), dtype=np.uint16))
    params = fetch_facts(tmp_path, Params(image_size=8, image_channels=channels, normalize=normalize))
    described, exif = describe_inputs(params), Image.Exif()
    exif[0x0112] = 6
    colours = generator.integers(0, 256, (150, 140, 4), dtype=np.uint8)
    photo, grey = (Image.fromarray(each) for each in (colours[..., :3], colours[:30, :20, 0].astype(np.uint16) * 16))
    files = {
        "grey.png": grey, "alpha.png": Image.fromarray(colours[:9]), "palette.png": photo.quantize(16),
        "cmyk.jpg": photo.convert("CMYK"), "photo.jpg": photo, "grey.jpg": photo.convert("L"),
        "small.webp": photo.crop((0, 0, 9, 7)), "bits.png": photo.convert("1"), "la.png": photo.convert("LA"),
    }  # fmt: skip
    for name, picture in files.items():
        options = {"transparency": picture.getpixel((3, 3))} if picture is grey else {}
        picture.save(tmp_path / name, exif=exif, **options)
        expected = collate_unlabelled([tmp_path / name], params)[0].numpy()
        assert np.allclose(follow(described["steps"], described, tmp_path / name), expected, atol=1e-6), name


A_TURN_AND_A_NEGATIVE_WIDTH = struct.pack("<HHIHHHHIii", 0x112, 3, 1, 6, 0, 0x100, 9, 1, -5, 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.filterwarnings("ignore")  # Pillow's, about the EXIF
def test_malformed_exif_turns_what_it_can_and_rejects_nothing(tmp_path, suffix, is_turned):
    exif = b"II*\0\x08\0\0\0\x02\0" + A_TURN_AND_A_NEGATIVE_WIDTH if is_turned else b"garbage"
    pixels = np.zeros((16, 8), np.uint8)
    pixels[:8] = 255  # white at the top, which turns to the right
    make_folders(tmp_path)
    path = save_picture(tmp_path / f"val/a/x.{suffix}", pixels, exif=b"Exif\0\0" + exif)
    expected = np.zeros((8, 8))
    expected[(slice(None), slice(4, None)) if is_turned else slice(4)] = 255
    assert np.abs(decode(path, GREY)[:, :, 0] - expected).mean() < 12
    (shown,) = fetch_inputs([f"a/{path.name}"], "val", tmp_path, SMALL).values()
    assert shown["image"].size == ((16, 8) if is_turned else (8, 16))


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif"])
def test_eps_under_another_name_starts_no_ghostscript(tmp_path, monkeypatch, name):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: started.append(args))
    path = make_folders(tmp_path) / "val/a" / name
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    assert f"{name}: not a readable image" in refusal(decode, path, SMALL)
    assert not fetch_inputs([f"a/{name}"], "val", tmp_path, SMALL) and not started


TURNS = {  # what the EXIF orientation asks for, by NumPy alone
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a), 9: lambda a: a,
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "bmp", "gif", "pgm", "ppm", "jp2"])
def test_formats_and_turns_are_seen_as_numpy_sees_them(tmp_path, suffix):
    grey = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    lossless = {"webp": {"lossless": True}, "jp2": {"irreversible": False}}.get(suffix, {})
    for turn, turned in TURNS.items() if suffix in ("png", "tif", "webp") else ():
        exif = Image.Exif()
        exif[0x0112] = turn
        path = save_picture(tmp_path / f"{turn}.{suffix}", grey, exif=exif.tobytes(), **lossless)
        assert np.array_equal(decode(path, GREY)[:, :, 0], turned(grey)), turn
    for name in (f"x.{suffix}", f"X.{suffix.upper()}", "y.jpg"):  # its contents decide
        path = save_picture(tmp_path / f"x.{suffix}", grey, **lossless).rename(tmp_path / name)
        assert np.array_equal(decode(path, SMALL), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp"])
@pytest.mark.filterwarnings("ignore")  # Pillow's, about what is wrong with a file
def test_damaged_files_are_named_or_give_an_image(tmp_path, suffix):
    path = save_picture(tmp_path / f"x.{suffix}", np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    content = path.read_bytes()
    cut = [content[:place] for place in range(0, len(content), 9)]
    flipped = [content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :] for i in range(0, len(content), 5)]
    for damaged in (*cut, *flipped):
        path.write_bytes(damaged)
        try:
            pixels = decode(path, SMALL)
            assert damaged and pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
        except InputError as error:
            assert str(path) in str(error)
