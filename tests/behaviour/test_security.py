"""What comes from files is data: names stay names, nothing is executed, and absurd sizes are refused by a bound."""

import contextlib
import csv
import json
import logging
import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

import evaluate
import predict
import sanity_check
import synthesize_results
import train
import utils
from fiveline.record.files import from_cell
from fiveline.report.predictions import read_per_class, read_predictions
from fiveline.report.runs import read_runs
from tests.support.runs import finish, read_state, stopped

EVIL = [
    "..",
    "a b",
    "$(touch canary)",
    "; touch canary #",
    "`touch canary`",
    "quote'\"s",
    "new\nline",
    "return\rhere",
    "=1+1",
    "ünï日本\u202e\U0001f600",
    "x" * 200,
    "--restart",
    "-100",
    "%s %d {} {0}",
    "\x1b[31mred",
]


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: from_cell(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_class_names_of_a_file_stay_names(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a canary would be
    names = np.array([*EVIL, "../../escaped", "/etc/passwd"])
    labels = np.arange(4 * len(names)) % len(names)
    folder = make_run()
    for split in ("train", "val", "test"):
        images = np.random.default_rng(0).integers(0, 255, (len(labels), 8, 8), dtype=np.uint8)
        np.savez(tmp_path / "data" / f"{split}.npz", images=images, labels=labels, classes=names)
    before = files_of(tmp_path)
    evaluate.main(["--model_dir", str(finish(folder, "num_epochs=1"))])
    assert {name for name in files_of(tmp_path) - before if not name.startswith("run/")} == set()
    assert read_state(folder)["facts"]["classes"] == sorted(names, key=read_state(folder)["facts"]["classes"].index)
    rows = rows_of(folder / "predictions_test_best.csv")
    assert [row["label"] for row in rows] == [names[label] for label in labels]
    assert {row["class"] for row in rows_of(folder / "per_class_test_best.csv")} == set(names)


def test_names_of_folders_and_files_stay_names(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [name for name in EVIL if name != ".."]
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for i, name in enumerate(names):
            path = tmp_path / "photos" / split / name / f"{names[-1 - i]}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    stranger = os.fsencode(tmp_path / "photos/test/a b/") + b"/no utf-8 \xff.png"  # as unzipped from another system
    os.link(next((tmp_path / "photos/test/a b").iterdir()), stranger)
    folder = make_run(data_dir=str(tmp_path / "photos"), image_channels=3, batch_size=4)
    before = files_of(tmp_path)
    evaluate.main(["--model_dir", str(finish(folder, "num_epochs=1"))])
    made = {re.sub(r"-\w{16}\.npy$", ".npy", name) for name in files_of(tmp_path) - before}
    assert {name for name in made if not name.startswith("run/")} == {
        f"photos/.decoded/{split}_8x8x3{suffix}" for split in ("train", "val", "test") for suffix in (".npy", ".lock")
    }
    rows = rows_of(folder / "predictions_test_best.csv")
    assert len(rows) == len(names) + 1 and {row["label"] for row in rows} == set(names)
    assert {row["id"] for row in rows} >= {f"{name}/{names[-1 - i]}.png" for i, name in enumerate(names)}


def test_what_is_no_text_is_logged_and_not_lost(project, tmp_path):
    code = "import logging, os, sys, utils; utils.set_logger(sys.argv[1]); logging.info(os.fsdecode(b'caf\\xe9'))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "train.log")], cwd=project, capture_output=True, text=True
    )
    assert done.stderr == "caf\\udce9\n"
    assert r":INFO: caf\udce9" in (tmp_path / "train.log").read_text(encoding="utf-8")


def test_a_linked_checkpoint_is_replaced_and_what_it_points_to_is_left_alone(make_run, tmp_path):
    folder = finish(make_run("run"), "num_epochs=1")
    elsewhere = tmp_path / "elsewhere.pth.tar"
    (folder / "last.pth.tar").rename(elsewhere)
    (folder / "last.pth.tar").symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    finish(folder)
    assert elsewhere.read_bytes() == before
    assert not (folder / "last.pth.tar").is_symlink() and read_state(folder)["epoch"] == 2


def test_a_checkpoint_whose_path_has_spaces_and_quotes_restores(make_run, tmp_path):
    source = finish(make_run("a run; 'quoted'"), "num_epochs=1")
    folder = make_run("run")
    train.main(["--model_dir", str(folder), "--restore_file", str(source / "best.pth.tar")])
    evaluate.main(["--model_dir", str(folder), "--restore_file", str(source / "best.pth.tar")])
    assert [path.name for path in tmp_path.rglob("metrics_test_*")] == ["metrics_test_of_a_run___quoted__best.json"]


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:os.system ['touch canary']",
        "!!python/object/new:os.system ['touch canary']",
        "data_dir: !!python/name:os.system",
        "? !!python/object/apply:os.system ['touch canary']\n: 1",
    ],
)
def test_yaml_with_python_in_it_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/params.yaml").write_text(text)
    assert "params.yaml: not valid YAML" in stopped(tmp_path / "run", exit_code=2)
    (tmp_path / "run/params.yaml").write_text("seed: 1")
    stopped(tmp_path / "run", text.partition(": ")[0].split()[-1] + "=" + text.partition(": ")[2], exit_code=2)
    assert not (tmp_path / "canary").exists()


ABSURD = {
    "nested": '{"data_dir": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "digits": '{"seed": ' + "9" * 100_000 + "}",
    "exponent": '{"learning_rate": 1e999999999}',
    "anchors": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20)),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_params_of_absurd_nesting_or_numbers_are_refused(tmp_path, kind):
    (tmp_path / ("params.yaml" if kind == "anchors" else "params.json")).write_text(ABSURD[kind])
    with pytest.raises(utils.InputError) as caught:
        train.main(["--model_dir", str(tmp_path)])
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("name", ["params.json", "params.yaml", "run.json"])
def test_files_of_absurd_size_are_refused_without_reading_them(make_run, name):
    folder = make_run()
    if name == "params.yaml":
        (folder / "params.json").unlink()
    with (folder / name).open("wb") as file:
        file.truncate(2**40)  # a terabyte, of which the disk holds nothing
    assert f"{folder / name}: 1,099,511,627,776 bytes; expected a text file below" in stopped(folder, exit_code=2)


def test_an_image_that_claims_absurdly_many_pixels_is_refused(make_run, tmp_path):
    for split in ("train", "val"):
        for name in "ab":
            path = tmp_path / "photos" / split / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (8, 8)).save(path)
    bomb = bytearray(path.read_bytes())
    bomb[16:24] = (200_000).to_bytes(4, "big") * 2  # width and height in a PNG's header
    (tmp_path / "photos/train/a/1.png").write_bytes(bomb)
    message = stopped(make_run(data_dir=str(tmp_path / "photos")), exit_code=2)
    assert message.startswith(f"{tmp_path}/photos/train/a/1.png: not a readable image")


def test_arrays_of_absurd_size_are_reported_in_a_line(make_run, tmp_path):
    folder = make_run()
    header = json.dumps({"descr": "|u1", "fortran_order": False, "shape": None}).replace(
        "null", str((10**9, 1000, 1000))
    )
    header = header.replace('"', "'").replace("false", "False")
    array = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header.encode() + b"\n" + bytes(100)
    with zipfile.ZipFile(tmp_path / "data/train.npz", "w") as file:
        file.writestr("images.npy", array)
        file.writestr("labels.npy", array)
    message = stopped(folder, exit_code=2)
    assert message.startswith(f"{tmp_path}/data/train.npz: ")


UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
FINE = ["é", "日本", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "क्\u200dष", "שלום", "a\u00a0b"]


def test_names_cannot_steer_the_terminal_or_the_log(make_run, tmp_path, capfd):
    names = ["\x1b[2J\x1b[31mred", "\u202ecod.exe", "\x9b31m\u2066", "new\nline\r", *FINE]
    labels = np.arange(4 * len(names)) % len(names)
    folder = make_run("run\x1b[31m", num_epochs=1)
    for split in ("train", "val", "test"):
        images = np.random.default_rng(0).integers(0, 255, (len(labels), 8, 8), dtype=np.uint8)
        np.savez(tmp_path / "data" / f"{split}.npz", images=images, labels=labels, classes=np.array(names))
    evaluate.main(["--model_dir", str(finish(folder))])
    with contextlib.suppress(SystemExit):  # the splits share random images
        sanity_check.main(["--model_dir", str(folder), "--only", "label_counts,leaks"])
    Image.new("L", (8, 8)).save(tmp_path / "\x1b[31m\u202e.png")
    predict.main(["--model_dir", str(folder), "--input", str(tmp_path), "--output", str(tmp_path / "p.csv")])
    synthesize_results.main(["--parent_dir", str(tmp_path)])
    logging.warning(f"a name: {names}")
    printed = "".join(capfd.readouterr())
    logs = "".join((folder / name).read_text(encoding="utf-8") for name in ("train.log", "evaluate.log"))
    assert UNSAFE.search(printed) is None and UNSAFE.search(logs) is None
    assert "\\x1b[31mred" in printed and all(name in printed for name in FINE)
    assert rows_of(tmp_path / "p.csv")[0]["id"].endswith("\x1b[31m\u202e.png")


def test_an_error_message_cannot_steer_the_terminal(run_script):
    done = run_script("train.py", "--model_dir", "no\x1b[31m\u202ename")
    assert done.returncode == 2 and "error: no\\x1b[31m\\u202ename: " in done.stderr


def test_texts_that_a_spreadsheet_would_take_for_formulas_are_kept_from_it_in_every_table(make_run, tmp_path):
    names = ["=cmd|' /C calc'!A0", "@SUM(A1)", "+1+2", "-a", "-1.5", "'=1", "plain"]
    labels = np.arange(4 * len(names)) % len(names)
    folder = make_run("run", num_epochs=1)
    for split in ("train", "val", "test"):
        images = np.random.default_rng(0).integers(0, 255, (len(labels), 8, 8), dtype=np.uint8)
        np.savez(tmp_path / "data" / f"{split}.npz", images=images, labels=labels, classes=np.array(names))
    evaluate.main(["--model_dir", str(finish(folder))])
    (tmp_path / "photos").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photos/a.png")
    predict.main(["--model_dir", str(folder), "--input", str(tmp_path / "photos"), "--output", str(tmp_path / "p.csv")])
    tables = [folder / "predictions_test_best.csv", folder / "per_class_test_best.csv", tmp_path / "p.csv"]
    cells = set()
    for path in tables:
        with path.open(encoding="utf-8", newline="") as file:
            cells |= {cell for row in csv.reader(file) for cell in row}
    assert not [cell for cell in cells if cell[:1] in tuple("=@+") or cell == "-a"]
    assert {"'=cmd|' /C calc'!A0", "'@SUM(A1)", "'+1+2", "'-a", "-1.5", "''=1", "plain"} <= cells
    run, problems = read_runs(tmp_path)[0][0], []
    assert {row["label"] for row in read_predictions(run, problems)} == set(names)
    assert [row["class"] for row in read_per_class(run, problems)] == read_state(folder)["facts"]["classes"]
