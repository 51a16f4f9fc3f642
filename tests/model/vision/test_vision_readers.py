"""The layouts of image data, each written here as its own tools write it; splits, classes, and every message."""

import errno
import logging
import os
import pickle
import re
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from torchvision import datasets

from fiveline.record.origin import fingerprint
from fiveline.tasks import fetch_facts
from model.vision import readers
from model.vision.data_loader import fetch_dataset
from model.vision.params import Params
from model.vision.readers import read_split
from model.vision.serve import fetch_inputs, fetch_unlabelled
from tests.support.data import load, load_script, refusal
from tests.support.photos import make_folders, save_picture

SMALL = Params(image_size=8, horizontal_flip=False)


def mistake(data_dir, split="train"):
    return refusal(load, data_dir, SMALL, split)


def test_files_of_other_formats_are_counted_and_what_a_system_leaves_is_no_image_and_no_class(tmp_path, caplog):
    make_folders(tmp_path)
    before, expected = fingerprint(tmp_path), read_split("train", tmp_path, SMALL)
    for name in ("@eaDir/a/0.png", "a/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/a/._0.png", "a/__MACOSX/0.png",
                 "b/._1.png", "b/.ipynb_checkpoints/1.png", "#recycle/a.png", "$RECYCLE.BIN/a.png"):  # fmt: skip
        save_picture(tmp_path / "train" / name, "blue")
    found = read_split("train", tmp_path, SMALL)
    assert (found.ids, found.notes, fingerprint(tmp_path)) == (expected.ids, (), before)
    for name in ("a/1.heic", "a/2.HEIC", "b/x.jxl", "b/notes.txt", "labels.csv", "b/Thumbs.db"):
        (tmp_path / "train" / name).write_text("x")
    (tmp_path / "train/empty").mkdir()
    caplog.set_level(logging.INFO)
    assert len(load(tmp_path, SMALL)[0]) == len(list(fetch_unlabelled([tmp_path / "train"], SMALL))) == 6
    counts = "6 file(s) that cannot be read as images are left out (1 .csv, 1 .db, 2 .heic, 1 .jxl, 1 .txt)"
    notes = [f"- {tmp_path / 'train'}: {counts}", f"- {tmp_path / 'train'}: no images in empty"]
    assert caplog.messages[:2] == notes and caplog.messages[-1] == notes[0]
    (tmp_path / "train/c").mkdir()  # the net would not know this class
    (tmp_path / "train/c/1.heic").write_text("x")
    assert mistake(tmp_path).endswith("train: no images in c, empty")


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    forbidden, scandir = str(make_folders(tmp_path) / "train/b"), os.scandir

    def scan(path):  # chmod does not keep out root
        if str(path) == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", forbidden)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert "b: this folder cannot be read (Permission denied); chmod it" in mistake(tmp_path)
    *images, (name, error) = fetch_unlabelled([tmp_path / "train"], SMALL)
    assert len(images) == 3 and name == str(tmp_path / "train") and "b: this folder cannot be read" in str(error)


@pytest.mark.parametrize("place", ["data/train/a/old/loop", "owls/loop"])
def test_links_are_followed_but_not_back_to_a_folder_above(tmp_path, place):
    """Else each image would be read 40 times, and cats as owls."""
    make_folders(tmp_path / "data")
    for name in ("data/train/a/old/9.png", "owls/8.png"):
        save_picture(tmp_path / name)
    (tmp_path / "data/train/owl").symlink_to(tmp_path / "owls")
    (tmp_path / "data/train/a/link.png").symlink_to(tmp_path / "owls/8.png")
    expected, before = read_split("train", tmp_path / "data", SMALL), fingerprint(tmp_path / "data")
    assert {"a/old/9.png", "a/link.png", "owl/8.png"} < set(expected.ids) and len(expected.ids) == 9
    (tmp_path / place).symlink_to(tmp_path / "data/train")
    found = read_split("train", tmp_path / "data", SMALL)
    assert (found.ids, found.labels, fingerprint(tmp_path / "data")) == (expected.ids, expected.labels, before)
    assert len(list(fetch_unlabelled([tmp_path / "data/train"], SMALL))) == 9


def test_signs_are_labelled_by_their_names(tmp_path):
    for name in ("10_IMG_10.jpg", "9_IMG_9.jpg", "2_IMG_2.jpg", "007_x_y.png"):
        for split in ("train", "val"):
            save_picture(tmp_path / f"{split}_signs" / name)
    dataset, params = load(tmp_path, SMALL)
    assert params.classes == ["2", "7", "9", "10"] and dataset.examples.labels == ["7", "10", "2", "9"]
    assert dataset.ids == ["007_x_y.png", "10_IMG_10.jpg", "2_IMG_2.jpg", "9_IMG_9.jpg"]
    for name in ("hand.jpg", "3.jpg", "a_3.jpg", "-1_x.jpg"):
        path = save_picture(tmp_path / "train_signs" / name)
        assert f"{name}: expected a name that begins with the label's number" in mistake(tmp_path)
        path.unlink()


def save_npz(path, **arrays):
    images = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8)
    np.savez(path, **{"images": images, "labels": np.arange(6) % 2, **arrays})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((6, 8, 8))}, "found images float64 (6, 8, 8)"),
        ({"labels": np.zeros(5)}, "and labels float64 (5,)"),
        ({"labels": np.full(6, -1)}, "labels from -1 to -1; expected 0 or more"),
        ({"labels": np.array([0, 9, 16, 3, 12, 16]), "classes": list("abcdefghij")}, "labels from 0 to 16; expected 0 "
         "to 9, a number for each of its classes; labels[2] is 16, the first of 3 wrong"),
        ({"classes": ["cat", "dog", "cat"]}, "classes has 'cat' twice"),
        ({"labels": np.array([None] * 6)}, "an integer for each, perhaps `classes`, text; found Object arrays"),
    ],
)  # fmt: skip
def test_npz_of_another_kind_is_refused(tmp_path, arrays, message):
    save_npz(tmp_path / "train.npz", **arrays)
    assert "train.npz: " in mistake(tmp_path) and message in mistake(tmp_path)


def npy(shape, data=b"", descr="|u1"):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def test_npz_that_is_none_or_damaged_is_refused(tmp_path):
    path = tmp_path / "train.npz"
    for data in (b"", b"no zip file", pickle.dumps(os.getcwd), npy((3,), bytes(3))):
        path.write_bytes(data)
        assert "train.npz: expected `images`" in mistake(tmp_path)
    np.savez(path, pictures=np.zeros(3))
    assert "found pictures" in mistake(tmp_path)
    save_npz(path, clases=np.array(["no", "yes"]))
    assert "found images, labels, clases" in mistake(tmp_path)
    save_npz(tmp_path / "val.npz", classes=np.array([b"no", b"yes"]))
    assert read_split("val", tmp_path, SMALL).labels == ["no", "yes"] * 3
    save_npz(path)
    original = path.read_bytes()
    assert read_split("train", tmp_path, SMALL).ids[5] == "train[5]"
    path.write_bytes(original[: len(original) // 2])
    assert "train.npz: expected `images`" in mistake(tmp_path)
    place = original.index(np.arange(64, dtype=np.uint8).tobytes())
    path.write_bytes(original[:place] + b"\xff" + original[place + 1 :])  # one pixel
    assert "train.npz: expected `images`" in mistake(tmp_path) and "CRC" in mistake(tmp_path)


@pytest.mark.parametrize(("name", "shape"), [("images", (2**20, 64, 64)), ("labels", (2**32,)), ("classes", (2**32,))])
def test_npz_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch, name, shape):
    monkeypatch.setattr(readers, "UNSUSPICIOUS_BYTES", 2**20)
    monkeypatch.setattr(np, "load", lambda *args, **options: pytest.fail("unpacked"))
    arrays = {"images": npy((2, 8, 8), bytes(128)), "labels": npy((2,), bytes(2)), "classes": npy((2,), b"ab", "|S1")}
    with zipfile.ZipFile(tmp_path / "train.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in {**arrays, name: npy(shape, bytes(2**23))}.items():
            archive.writestr(f"{key}.npy", content)
    assert f"found {name}" in mistake(tmp_path)


def test_classes_that_came_or_went_since_the_run_began_are_named(tmp_path, caplog):
    params = fetch_facts(make_folders(tmp_path / "before"), SMALL)
    data_dir = make_folders(tmp_path / "after", "ac")
    message = refusal(fetch_dataset, "val", data_dir, params)
    assert message.startswith("c/0.png: class 'c' is not among the classes of train when this run began (a, b); ")
    assert "another --model_dir" in message
    params = params.with_facts({**params.facts, "classes": ["a", "b", "c"]})
    assert len(fetch_dataset("train", data_dir, params)) == 6
    assert "after: train lacks b, a class that the net knows" in caplog.text
    make_folders(tmp_path / "one", {"cat": 3})
    assert "train has 1 class(es) in 3 images; expected 2 or more" in mistake(tmp_path / "one")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_composed_and_decomposed_letters_are_one_class(tmp_path, forms):
    for split, form in zip(("train", "val"), forms, strict=True):
        make_folders(tmp_path, [unicodedata.normalize(form, "Käse"), "b"], splits=[split])
    dataset, params = load(tmp_path, SMALL, "val")
    assert params.classes == [unicodedata.normalize("NFC", "Käse"), "b"]
    old = params.with_facts({**params.facts, "classes": [unicodedata.normalize("NFD", "Käse"), "b"]})
    for found in (dataset, fetch_dataset("val", tmp_path, old)):  # the second: a run from before
        assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_missing_val_split_is_cut_from_train_by_split_seed_alone(tmp_path, caplog):
    counts, generator = {"a": 40, "b": 20, "c": 3, "d": 1}, iter(range(1000))
    make_folders(tmp_path, counts, lambda: np.full((8, 8), next(generator), np.uint8), ["train", "dev"])
    params = Params(image_size=8, val_fraction=0.2)
    caplog.set_level(logging.INFO)
    train, val = (read_split(split, tmp_path, params) for split in ("train", "val"))
    assert not set(train.ids) & set(val.ids) and len(train.ids) + len(val.ids) == 64
    assert {name: val.labels.count(name) for name in counts} == {"a": 8, "b": 4, "c": 1, "d": 0}
    assert val.ids == sorted(val.ids)  # in the order of the files
    for values, is_same in (({"seed": 2}, True), ({"split_seed": 231}, False)):
        assert (read_split("val", tmp_path, params.model_copy(update=values)).ids == val.ids) == is_same
    params = fetch_facts(tmp_path, params)
    assert params.facts["class_counts"] == [32, 16, 2, 1] and not caplog.records  # without val
    dataset, shown = fetch_dataset("val", tmp_path, params), fetch_inputs(val.ids, "val", tmp_path, params)
    levels = [round(float(255 * image[0, 0, 0])) for image, _ in dataset]
    assert levels == [entry["image"].getpixel((0, 0)) for entry in shown.values()] and len(set(levels)) == 13
    found = f"{tmp_path} has no val split: 13 of 64 train examples serve as val"
    assert caplog.messages[:1] == [f"- {found}; {tmp_path / 'dev'} is not read: rename it to val"]
    (tmp_path / "dev").rename(tmp_path / "val")  # as it says
    assert len(read_split("val", tmp_path, params).ids) == len(read_split("train", tmp_path, params).ids) == 64


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        ("a b c d e f g", "val", "there is no val split in it; it holds a, b, c, d, e, f, ..., expected val/<class>/"),
        ("train/1.jpg train/2.jpg", "train", "expected a folder for each class in it, found 1.jpg, 2.jpg"),
        ("train/a/x.txt", "train", "are left out (1 .txt); "),
        ("test/a/1.png test.npz", "test", "it holds test and test.npz; put each dataset in a folder of its own"),
    ],
)
def test_folders_of_no_known_layout_say_what_was_expected(tmp_path, names, split, expected):
    for path in (tmp_path / name for name in names.split()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert expected in refusal(read_split, split, tmp_path, SMALL)
    assert "there is no such data directory; --data_dir says where" in mistake(tmp_path / "nowhere")


def test_images_of_the_page_are_found_in_every_layout(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "test.npz", images=pixels, labels=np.arange(3))
    found = fetch_inputs(["test[2]", "test[7]"], "test", tmp_path, Params())
    assert list(found) == ["test[2]"] and np.array_equal(np.asarray(found["test[2]"]["image"]), pixels[2])
    save_picture(tmp_path / "photos/test/cat/large.png", np.zeros((200, 400), np.uint8))
    (entry,) = fetch_inputs(["cat/large.png"], "test", tmp_path / "photos", Params()).values()
    assert entry["image"].size == (128, 64)


def test_build_dataset_writes_what_torchvision_has_or_says_that_there_is_no_network(tmp_path, monkeypatch, capsys):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    build = load_script("data/build_dataset.py")

    def mnist(folder, train, download):
        dataset = TensorDataset(torch.from_numpy(images[: 20 if train else 10]))
        dataset.data, dataset.targets = dataset.tensors[0], [0, 1] * (10 if train else 5)
        dataset.classes = ["0 - zero", "1 - one"]
        return dataset

    monkeypatch.setattr(datasets, "MNIST", mnist)
    build.main(["mnist", "--output_dir", str(tmp_path)])
    test = read_split("test", tmp_path, SMALL)
    assert np.array_equal(test.images, images[:10]) and test.labels == ["0", "1"] * 5
    assert len(read_split("train", tmp_path, SMALL).ids) == 18
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where no server listens
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(SystemExit, match="2"):
        build.main(["cifar10", "--output_dir", str(tmp_path)])
    message = capsys.readouterr().err
    assert re.match(r"error: cifar10 cannot be downloaded \(.*\); is there a network\?\n$", message)
