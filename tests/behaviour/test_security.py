"""What comes from files is data: names stay names, nothing is executed, and absurd sizes are refused by a bound."""

import contextlib
import itertools
import json
import logging
import os
import re

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
from tests.support.data import read_csv
from tests.support.photos import save_picture
from tests.support.runs import finish, read_state, stopped

EVIL = [
    "..", "a b", "$(touch canary)", "; touch canary #", "`touch canary`", "quote'\"s", "new\nline", "return\rhere",
    "=1+1", "ünï日本\u202e\U0001f600", "x" * 200, "--restart", "-100", "%s %d {} {0}", "\x1b[31mred",
]  # fmt: skip


def rows_of(path):
    return [{name: from_cell(cell) for name, cell in row.items()} for row in read_csv(path)]


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_names_of_folders_and_files_stay_names(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a canary would be
    names = [name for name in EVIL if name != ".."]
    for split, (i, name) in itertools.product(("train", "val", "test"), enumerate(names)):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        save_picture(tmp_path / "photos" / split / name / f"{names[-1 - i]}.png", pixels)
    stranger = os.fsencode(tmp_path / "photos/test/a b/") + b"/no utf-8 \xff.png"  # as unzipped from another system
    os.link(next((tmp_path / "photos/test/a b").iterdir()), stranger)
    folder = make_run(data_dir=str(tmp_path / "photos"), image_channels=3, batch_size=4)
    before = files_of(tmp_path)
    evaluate.main(["--model_dir", str(finish(folder, "num_epochs=1"))])
    made = {name for name in files_of(tmp_path) - before if not name.startswith("run/")}
    assert all(re.fullmatch(r"photos/\.decoded/(train|val|test)_8x8x3(-\w{16}\.npy|\.lock)", name) for name in made)
    rows = rows_of(folder / "predictions_test_best.csv")
    assert len(rows) == len(names) + 1 and {row["label"] for row in rows} == set(names)
    assert {row["id"] for row in rows} >= {f"{name}/{names[-1 - i]}.png" for i, name in enumerate(names)}


REFUSED = {  # params.yaml: part of the message
    "seed: !!python/object/apply:os.system ['touch canary']": "params.yaml: not valid YAML",
    "data_dir: !!python/name:os.system": "params.yaml: not valid YAML",
    "? !!python/object/apply:os.system ['touch canary']\n: 1": "params.yaml: not valid YAML",
    '{"data_dir": ' + "[" * 10_000 + "]" * 10_000 + "}": "params.yaml: not valid YAML",
    '{"seed": ' + "9" * 100_000 + "}": "params.yaml",
    '{"learning_rate": 1.0e999999999}': "learning_rate",
    "a0: &a0 [x, x, x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)): "20,000 values",
    json.dumps({f"k{i}": 1 for i in range(1_100)}): "and 1,080 more",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:12])
def test_params_that_run_code_or_have_absurd_sizes_are_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(utils.InputError, match=REFUSED[text]) as caught:
        train.main(["--model_dir", str(tmp_path)])
    assert len(str(caught.value)) < 5000
    (tmp_path / "params.yaml").write_text("seed: 1")
    key, _, value = text.partition(": ")
    if "!!" in value:
        stopped(tmp_path, f"{key}={value}", exit_code=2)
    assert not (tmp_path / "canary").exists()


UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
FINE = ["é", "日本", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "क्\u200dष", "שלום", "a\u00a0b"]
STEERING = ["\x1b[2J\x1b[31mred", "\u202ecod.exe", "\x9b31m\u2066", "new\nline\r"]
FORMULAS = ["=cmd|' /C calc'!A0", "@SUM(A1)", "+1+2", "-a", "-1.5", "'=1", "plain"]  # -1.5 is a number


def test_names_cannot_leave_the_folder_steer_the_terminal_or_be_formulas_of_a_spreadsheet(
    make_run, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    names = [*STEERING, *FINE, *FORMULAS, "../../escaped", "/etc/passwd", "$(touch canary)"]
    folder = make_run("run\x1b[31m", num_epochs=1)
    labels = np.arange(4 * len(names)) % len(names)
    for split in ("train", "val", "test"):
        images = np.random.default_rng(0).integers(0, 255, (len(labels), 8, 8), dtype=np.uint8)
        np.savez(tmp_path / f"data/{split}.npz", images=images, labels=labels, classes=np.array(names))
    before = files_of(tmp_path)
    evaluate.main(["--model_dir", str(finish(folder))])
    assert all(name.startswith(folder.name) for name in files_of(tmp_path) - before)
    assert [row["label"] for row in rows_of(folder / "predictions_test_best.csv")] == [names[label] for label in labels]
    with contextlib.suppress(SystemExit):  # the splits share random images
        sanity_check.main(["--model_dir", str(folder), "--only", "label_counts,leaks"])
    Image.new("L", (8, 8)).save(tmp_path / "\x1b[31m\u202e.png")
    predict.main(["--model_dir", str(folder), "--input", str(tmp_path), "--output", str(tmp_path / "p.csv")])
    synthesize_results.main(["--parent_dir", str(tmp_path)])
    utils.set_logger(folder / "train.log")
    values = {"levelno": logging.WARNING, "msg": "names: %s, and no text: %s", "args": (names, os.fsdecode(b"caf\xe9"))}
    for handler in logging.getLogger().handlers:
        if type(handler).__module__ == "fiveline.record.log":  # pytest's own handlers cannot report such a name
            handler.handle(logging.makeLogRecord(values))
    printed = "".join(capfd.readouterr())
    logs = "".join((folder / name).read_text(encoding="utf-8") for name in ("train.log", "evaluate.log"))
    assert UNSAFE.search(printed) is None and UNSAFE.search(logs) is None
    assert "\\x1b[31mred" in printed and all(name in printed for name in FINE)
    assert r"caf\udce9" in printed and r"caf\udce9" in logs

    tables = [folder / "predictions_test_best.csv", folder / "per_class_test_best.csv", tmp_path / "p.csv"]
    assert rows_of(tables[2])[0]["id"].endswith("\x1b[31m\u202e.png")
    cells = {cell for path in tables for row in read_csv(path) for cell in row.values()}
    assert not [cell for cell in cells if cell[:1] in tuple("=@+") or cell == "-a"]
    assert {"'=cmd|' /C calc'!A0", "'@SUM(A1)", "'+1+2", "'-a", "-1.5", "''=1", "plain"} <= cells
    run, problems = read_runs(tmp_path)[0][0], []
    assert {row["label"] for row in read_predictions(run, problems)} == set(names)
    assert [row["class"] for row in read_per_class(run, problems)] == read_state(folder)["facts"]["classes"]


def test_an_error_message_cannot_steer_the_terminal(run_script):
    done = run_script("train.py", "--model_dir", "no\x1b[31m\u202ename")
    assert done.returncode == 2 and "error: no\\x1b[31m\\u202ename: " in done.stderr
