"""Image files as cameras, microscopes, storage boxes and strangers leave them."""

import logging
import os
import re
import struct
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from sklearn.preprocessing import StandardScaler

from fiveline.record import atomic
from fiveline.record.origin import fingerprint
from model.vision import readers
from model.vision.data_loader import fetch_dataset, fetch_facts
from model.vision.decode import decode
from model.vision.params import Params
from model.vision.readers import read_split
from model.vision.serve import collate_unlabelled, describe_inputs, fetch_inputs, fetch_unlabelled
from utils import InputError

SMALL = Params(image_size=8, horizontal_flip=False)
GREY = Params(image_size=8, image_channels=1, horizontal_flip=False)


def save(path, pixels, **options):
    """Save pixels, or one colour, as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (8, 8), pixels) if isinstance(pixels, str) else Image.fromarray(pixels)
    picture.save(path, **options)
    return path


def make(data_dir, draw=lambda: "red", classes="ab", splits=("train", "val", "test"), suffix="png", number=3):
    for split in splits:
        for name in classes:
            for i in range(number):
                save(data_dir / split / name / f"{i}.{suffix}", draw())
    return data_dir


def with_facts(data_dir, params):
    return params.with_facts(fetch_facts(data_dir, params))


# ---- constant channels ---------------------------------------------------------------------------------------------


def test_a_constant_channel_is_scaled_as_standard_scaler_does(tmp_path):
    generator = np.random.default_rng(0)

    def draw():
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pixels[..., 1], pixels[..., 2] = 0, 77
        return pixels

    make(tmp_path, draw)
    facts = fetch_facts(tmp_path, Params(image_size=8, normalize="train"))
    images = [np.asarray(Image.open(path)).reshape(-1, 3) / 255 for path in (tmp_path / "train").rglob("*.png")]
    scaler = StandardScaler().fit(np.concatenate(images))
    assert np.allclose(facts["std"], scaler.scale_) and np.allclose(facts["mean"], scaler.mean_)
    assert facts["std"][1:] == [1, 1]


@pytest.mark.parametrize(("level", "is_constant"), [(1, True), (255, False)])
def test_a_channel_with_one_odd_pixel_is_constant_where_that_is_rounding(tmp_path, level, is_constant):
    images = np.zeros((40, 8, 8), np.uint8)
    images[3, 2, 2] = level
    for split in ("train", "val"):
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(40) % 2)
    params = with_facts(tmp_path, Params(image_size=8, image_channels=1, normalize="train"))
    std = 1 if is_constant else (images / 255).std()
    assert np.allclose(params.facts["std"], std)
    assert fetch_dataset("val", tmp_path, params)[3][0].max() == pytest.approx((level / 255) / std, rel=0.01)


# ---- 16 bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(("suffix", "dtype"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("tif", "<i4")])
def test_values_of_fewer_bits_keep_their_levels_in_every_split(tmp_path, bits, suffix, dtype):
    generator = np.random.default_rng(0)

    def draw():
        values = generator.integers(0, 2**bits, (8, 8))
        values[0, 0] = 2**bits - 1
        return values.astype(dtype)

    make(tmp_path, draw, suffix=suffix)
    params = with_facts(tmp_path, GREY)
    dark = save(tmp_path / f"test/a/0.{suffix}", (np.arange(64).reshape(8, 8) % 2**bits).astype(dtype))
    for path in (dark, tmp_path / f"train/b/1.{suffix}"):
        values = np.asarray(Image.open(path)).astype(int)
        expected = values // 2 ** (bits - 8)
        assert np.array_equal(decode(path, params)[:, :, 0], expected)
        assert np.array_equal(collate_unlabelled([path], params)[0][0, 0], np.float32(expected) / np.float32(255))
    if bits > 8:
        assert len(np.unique(decode(tmp_path / f"train/b/1.{suffix}", params))) > 30
    if bits < 16:
        with pytest.raises(
            InputError, match=rf"0.{suffix}: .*use {bits} bits and stay below {2**bits}; .*grey_bits=16"
        ):
            decode(save(dark, np.full((8, 8), 2**16 - 1).astype(dtype)), params)


def test_grey_bits_may_be_given(tmp_path):
    make(tmp_path, lambda: np.full((8, 8), 4095, np.uint16))
    for bits, level in ((0, 255), (12, 255), (14, 63), (16, 15)):
        params = with_facts(tmp_path, GREY.model_copy(update={"grey_bits": bits}))
        assert (decode(tmp_path / "val/a/0.png", params) == level).all()
        image = fetch_dataset("val", tmp_path, params)[0][0]  # not another one's cache
        assert torch.equal(image, torch.full_like(image, level) / 255)
    assert (decode(tmp_path / "val/a/0.png", GREY) == 15).all()  # a run from before there was such a fact
    shown = fetch_inputs(["a/0.png"], "val", tmp_path, GREY)["a/0.png"]["image"]
    assert shown.getpixel((0, 0)) == 255


def png_of_16_bits(*pixel):
    """Return a PNG of one colour: grey with alpha, colour, or colour with alpha."""
    row = b"\0" + struct.pack(f">{len(pixel)}H", *pixel) * 8
    kind = {2: 4, 3: 2, 4: 6}[len(pixel)]
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0)), (b"IDAT", zipfile.zlib.compress(row * 8))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zipfile.zlib.crc32(name + data))
        for name, data in [*parts, (b"IEND", b"")]
    )


def test_a_transparent_value_of_16_bits_is_white(tmp_path):
    values = np.full((8, 8), 300, np.uint16)
    values[:, 4:] = 40_000
    path = save(tmp_path / "x.png", values, transparency=300)
    assert decode(path, GREY)[0, :, 0].tolist() == [255] * 4 + [156] * 4


# ---- the steps of an exported program ------------------------------------------------------------------------------


def follow(steps, facts, path):
    """Do by hand what the steps say in words; a step that is not known here fails."""
    for step in steps:
        number = [int(text) for text in re.findall(r"\d+", step)]
        if step.startswith("open the file with Pillow"):
            picture = Image.open(path)
        elif step.startswith("let Pillow decode a large JPEG"):
            picture.draft(None, (number[0], number[1]))
        elif step.startswith("turn it upright"):
            orientation = picture.getexif().get(0x0112)
            picture = picture.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else picture
        elif step.startswith("where it has 16 bits of grey"):
            divisor = int(re.search(r"divide by (\d+)", step)[1])
            if picture.mode.startswith("I"):
                values, clear = np.asarray(picture), picture.info.get("transparency")
                assert "the value info['transparency'], if any, becomes 255" in step
                picture = Image.fromarray(np.where(values == clear, 255, values // divisor).astype(np.uint8))
        elif step.startswith("where parts are transparent"):
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        elif step.startswith("convert to mode"):
            picture = picture.convert(step.split()[3])
        elif step.startswith("resize to"):
            array = np.asarray(picture.resize((number[0], number[1]), Image.Resampling.BILINEAR))
        elif step == "divide by 255, as float32":
            array = array.reshape(*array.shape[:2], -1).astype(np.float32) / np.float32(255)
        elif step.startswith("subtract mean and divide by std"):
            array = (array - np.float32(facts["mean"])) / np.float32(facts["std"])
        elif step.startswith("put the axes in the order (batch_size, channels, height, width)"):
            array = array.transpose(2, 0, 1)[None]
        else:
            raise AssertionError(f"what is this step? {step}")
    return array


@pytest.mark.parametrize(("channels", "normalize"), [(1, "none"), (3, "train")])
def test_the_steps_in_words_lead_to_what_predict_feeds_the_net(tmp_path, channels, normalize):
    generator = np.random.default_rng(0)
    make(tmp_path, lambda: generator.integers(0, 4096, (9, 8), dtype=np.uint16))
    params = with_facts(tmp_path, Params(image_size=8, image_channels=channels, normalize=normalize))
    described = describe_inputs(params)
    exif = Image.Exif()
    exif[0x0112] = 6
    colours = generator.integers(0, 256, (150, 140, 4), dtype=np.uint8)
    photo = Image.fromarray(colours[..., :3])
    files = {
        "grey.png": Image.fromarray(generator.integers(0, 4096, (30, 20), dtype=np.uint16)),
        "alpha.png": Image.fromarray(colours[:9]),
        "palette.png": photo.quantize(16),
        "cmyk.jpg": photo.convert("CMYK"),
        "photo.jpg": photo,
        "grey.jpg": photo.convert("L"),
        "small.webp": photo.crop((0, 0, 9, 7)),
    }
    for name, picture in files.items():
        options = {"transparency": picture.getpixel((3, 3))} if name == "grey.png" else {}
        picture.save(tmp_path / name, exif=exif, **options)
        expected = collate_unlabelled([tmp_path / name], params)[0].numpy()
        assert np.allclose(follow(described["steps"], described, tmp_path / name), expected, atol=1e-6), name


# ---- EXIF ----------------------------------------------------------------------------------------------------------

TURN = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
EXIF = {
    "a negative width": (b"II*\0\x08\0\0\0\x02\0" + TURN + struct.pack("<HHIi", 0x100, 9, 1, -5) + bytes(4), True),
    "entries beyond the end": (
        b"II*\0\x08\0\0\0\x03\0" + TURN + struct.pack("<HHIIHHII", 0x8769, 4, 1, 2**32 - 9, 0x10F, 2, 500, 2**24),
        True),
    "no EXIF at all": (b"garbage", False),
    "cut": (b"II*\0\x08\0\0\0\x02\0" + TURN[:5], False),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("kind", EXIF)
@pytest.mark.filterwarnings("ignore")  # Pillow's, about the EXIF
def test_malformed_exif_turns_what_it_can_and_rejects_nothing(tmp_path, suffix, kind):
    exif, is_turned = EXIF[kind]
    pixels = np.zeros((16, 8), np.uint8)
    pixels[:8] = 255  # white at the top, which turns to the right
    path = save(tmp_path / f"x.{suffix}", pixels, exif=b"Exif\0\0" + exif)
    expected = np.zeros((8, 8))
    expected[(slice(None), slice(4, None)) if is_turned else slice(4)] = 255
    assert np.abs(decode(path, GREY)[:, :, 0] - expected).max() < 140
    assert np.abs(decode(path, GREY)[:, :, 0] - expected).mean() < 12
    make(tmp_path)
    path.rename(tmp_path / "val/a" / path.name)
    (shown,) = fetch_inputs([f"a/{path.name}"], "val", tmp_path, SMALL).values()
    assert shown["image"].size == ((16, 8) if is_turned else (8, 16))


# ---- formats -------------------------------------------------------------------------------------------------------


def test_the_first_picture_of_a_camera_and_jpeg_2000_are_read(tmp_path):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    make(tmp_path)
    first.save(tmp_path / "train/a/x.mpo", save_all=True, append_images=[second])
    (tmp_path / "train/b/y.jpg").write_bytes((tmp_path / "train/a/x.mpo").read_bytes())
    first.save(tmp_path / "train/b/z.jp2")
    examples = read_split("train", tmp_path, SMALL)
    assert {"a/x.mpo", "b/y.jpg", "b/z.jp2"} < set(examples.ids) and not examples.notes
    for path in examples.images:
        assert np.abs(decode(path, SMALL).astype(int) - (255, 0, 0)).max() < 3


def test_images_of_other_formats_are_counted_and_warned_of(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make(tmp_path)
    for name in ("train/a/1.heic", "train/a/2.HEIC", "train/b/x.jxl", "train/b/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    note = f"- {tmp_path / 'train'}: 4 file(s) that cannot be read as images are left out (2 .heic, 1 .jxl, 1 .txt)"
    fetch_dataset("train", tmp_path, with_facts(tmp_path, SMALL))
    assert caplog.records[0].message == note
    caplog.clear()
    assert len(list(fetch_unlabelled([tmp_path / "train"], SMALL))) == 6
    assert [record.message for record in caplog.records] == [note]


def test_a_file_of_another_format_is_named_with_the_formats_that_are_read(tmp_path):
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(
        InputError, match=r"x\.heic: not a readable image \(its contents are not of any of the formats JPEG, PNG, GIF, "
    ):
        decode(tmp_path / "x.heic", SMALL)


def test_a_class_that_holds_only_other_formats_is_not_dropped_silently(tmp_path):
    make(tmp_path, classes="abc")
    for path in (tmp_path / "train/c").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(InputError, match=r"\(3 .heic\); .*train: no images in c$"):
        fetch_facts(tmp_path, SMALL)


def test_what_a_system_leaves_in_a_folder_is_no_image_and_no_class(tmp_path):
    make(tmp_path)
    before, expected = fingerprint(tmp_path), read_split("train", tmp_path, SMALL)
    for name in ("train/@eaDir/a/0.png", "train/a/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "train/__MACOSX/a/._0.png",
                 "train/a/__MACOSX/0.png", "train/b/._1.png", "train/b/.ipynb_checkpoints/1.png",
                 "train/#recycle/a.png", "train/.thumbnails/a.png", "train/$RECYCLE.BIN/a.png"):  # fmt: skip
        save(tmp_path / name, "blue")
    found = read_split("train", tmp_path, SMALL)
    assert (found.ids, found.labels, found.notes) == (expected.ids, expected.labels, ())
    assert fingerprint(tmp_path) == before and len(list(fetch_unlabelled([tmp_path / "train"], SMALL))) == 6


# ---- what may do harm ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif"])
def test_eps_under_another_name_starts_no_ghostscript(tmp_path, monkeypatch, name):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: started.append(args))
    make(tmp_path)
    path = tmp_path / "val/a" / name
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    with pytest.raises(InputError, match=f"{name}: not a readable image"):
        decode(path, SMALL)
    assert not fetch_inputs([f"a/{name}"], "val", tmp_path, SMALL).keys() & {"a/x.jpg", "a/x.tif"} and not started


def test_max_image_pixels_is_a_limit_that_can_be_moved(tmp_path):
    path = save(tmp_path / "x.png", np.zeros((100, 100), np.uint8))
    limited = GREY.model_copy(update={"max_image_pixels": 9_998})
    for _ in range(2):
        with pytest.raises(InputError, match=r"x.png: .*\(10000 pixels\).*set max_image_pixels higher"):
            decode(path, limited)
        assert decode(path, GREY).shape == (8, 8, 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders")
def test_a_pipe_among_the_images_is_named_and_not_waited_for(tmp_path):
    make(tmp_path)
    os.mkfifo(tmp_path / "train/a/9.png")
    with pytest.raises(InputError, match=r"9\.png: not a readable image \(not a regular file\)"):
        fetch_dataset("train", tmp_path, with_facts(tmp_path, SMALL))


def npy(shape, data=b"", descr="|u1"):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("name", "header"),
    [("images", (2**20, 64, 64)), ("labels", (2**32,)), ("classes", (2**32,))],
)
def test_npz_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch, name, header):
    monkeypatch.setattr(readers, "UNSUSPICIOUS_BYTES", 2**20)
    monkeypatch.setattr(np, "load", lambda *args, **options: pytest.fail("unpacked"))
    arrays = {"images": npy((2, 8, 8), bytes(128)), "labels": npy((2,), bytes(2)), "classes": npy((2,), b"ab", "|S1")}
    with zipfile.ZipFile(tmp_path / "train.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in {**arrays, name: npy(header, bytes(2**23))}.items():
            archive.writestr(f"{key}.npy", content)
    with pytest.raises(InputError, match=rf"train\.npz: .*found {name}"):
        read_split("train", tmp_path, SMALL)


def test_a_stored_array_that_claims_more_than_the_file_has_is_refused(tmp_path):
    path = tmp_path / "train.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", npy((2**25, 8, 8), bytes(2**15)))
        archive.writestr("labels.npy", npy((2**25,), bytes(2)))
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 20 : start + 28] = struct.pack("<II", 2**32 - 2, 2**32 - 2)  # compressed and unpacked sizes
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train\.npz: .*found images\.npy claims 4,294,967,294 bytes"):
        read_split("train", tmp_path, SMALL)


def test_labels_of_any_size_take_no_memory(tmp_path):
    np.savez(tmp_path / "train.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array([3, 2**62]))
    assert read_split("train", tmp_path, Params(val_fraction=0.1)).labels == ["3", str(2**62)]


# ---- classes -------------------------------------------------------------------------------------------------------


def test_labels_beyond_the_last_class_are_named_with_their_place(tmp_path):
    labels = np.array([0, 9, 16, 3, 12, 16])
    np.savez(tmp_path / "train.npz", images=np.zeros((6, 8, 8), np.uint8), labels=labels, classes=list("abcdefghij"))
    expected = r"train\.npz: labels from 0 to 16; expected 0 to 9, .*; labels\[2\] is 16, the first of 3 wrong"
    with pytest.raises(InputError, match=expected):
        fetch_facts(tmp_path, SMALL)


def test_two_classes_of_one_name_are_refused(tmp_path):
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez(tmp_path / "train.npz", images=images, labels=np.arange(3), classes=["cat", "dog", "cat"])
    with pytest.raises(InputError, match=r"train\.npz: classes has 'cat' twice"):
        read_split("train", tmp_path, SMALL)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("before", "after"), [("ab", "abc"), ("ab", "ac"), ("ab", "abcd")])
def test_a_class_that_came_later_is_refused(tmp_path, split, before, after):
    params = with_facts(make(tmp_path / "before", classes=before), SMALL)
    data_dir = make(tmp_path / "after", classes=after)
    message = r"^c/0.png: class 'c' is not among the classes of train when .* \(a, b\); .* another --model_dir"
    with pytest.raises(InputError, match=message):
        fetch_dataset(split, data_dir, params)


def test_a_class_that_train_has_lost_is_warned_of(tmp_path, caplog):
    params = with_facts(make(tmp_path / "before", classes="abc"), SMALL)
    assert len(fetch_dataset("train", make(tmp_path / "after"), params)) == 6
    assert "after: train lacks c, a class that the net knows" in caplog.text


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_composed_and_decomposed_letters_are_one_class(tmp_path, forms):
    for split, form in zip(("train", "val"), forms, strict=True):
        make(tmp_path, classes=[unicodedata.normalize(form, "Käse"), "b"], splits=[split])
    params = with_facts(tmp_path, SMALL)
    assert params.classes == [unicodedata.normalize("NFC", "Käse"), "b"]
    assert fetch_dataset("val", tmp_path, params).labels.tolist() == [0, 0, 0, 1, 1, 1]
    old = params.with_facts({**params.facts, "classes": [unicodedata.normalize("NFD", "Käse"), "b"]})
    assert fetch_dataset("val", tmp_path, old).labels.tolist() == [0, 0, 0, 1, 1, 1]  # a run from before


def test_both_forms_of_a_name_beside_each_other_are_one_class(tmp_path):
    make(tmp_path, classes=["b", *(unicodedata.normalize(form, "Käse") for form in ("NFC", "NFD"))])
    if len(list((tmp_path / "train").iterdir())) < 3:
        pytest.skip("this file system takes them for one")
    assert fetch_facts(tmp_path, SMALL)["class_counts"] == [6, 3]


# ---- the cache -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="its st_ctime is the time of creation")
def test_another_image_of_the_same_size_and_time_is_noticed(tmp_path):
    make(tmp_path, suffix="bmp")
    params = with_facts(tmp_path, SMALL)
    path = tmp_path / "train/a/1.bmp"
    before, status = fetch_dataset("train", tmp_path, params)[1][0], path.stat()
    save(path, "blue")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    dataset = fetch_dataset("train", tmp_path, params)
    assert before[:, 0, 0].tolist() == [1, 0, 0] and dataset[1][0][:, 0, 0].tolist() == [0, 0, 1]


@pytest.mark.skipif(os.name == "nt", reason="no permissions of this kind")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_decoded_images_can_be_read_by_their_owner_alone(tmp_path, monkeypatch, elsewhere):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data_dir = make(tmp_path / "data")
    if elsewhere:
        (data_dir / ".decoded").write_text("")
    fetch_dataset("train", data_dir, with_facts(data_dir, SMALL))
    (decoded,) = tmp_path.rglob("train_8x8x3-*.npy")
    assert oct(decoded.stat().st_mode & 0o777) == oct(0o600)


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    make(tmp_path)
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".decoded").mkdir()
    monkeypatch.setattr(atomic, "temporary_path", lambda path: path.with_name(".x.tmp"))  # guessed by someone
    (tmp_path / ".decoded/.x.tmp").symlink_to(tmp_path / "victim")
    fetch_dataset("train", tmp_path, with_facts(tmp_path, SMALL))
    assert (tmp_path / "victim").read_text() == "mine"
