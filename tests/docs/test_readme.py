"""Run the commands of the README and the docs as written."""

import importlib
import json
import re
import shutil

import numpy as np
import pytest
import torch

from fiveline.tasks import fetch_params_class
from tests.support.pages import (
    PAGES,
    PROJECT,
    assert_printed,
    blocks_of,
    listings_of,
    make_clone,
    read,
    run_command,
    write_listings,
)
from tests.support.photos import save_picture
from tests.support.tasks import SHIPPED, need, needs


def write_images(folder, names, seed=0):
    generator = np.random.default_rng(seed)
    for i, name in enumerate(names):
        pixels = generator.integers(0, 100, size=(60, 50 + i, 3), dtype=np.uint8) + np.uint8(100 * (seed % 2))
        save_picture(folder / name, pixels)


@pytest.fixture
def clone(tmp_path):
    """A copy of the tracked files, with the files that a reader of the pages has: photographs, a CS230 project."""
    folder = make_clone(tmp_path / "fiveline")
    for seed, name in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):  # dogs are brighter
        write_images(folder / "my_photos" / name, [f"{i}.jpg" for i in range(12)], seed)
    write_images(folder / "new_photos", ["a new one.jpg", "another.png"])
    cs230 = folder / "my_cs230"
    for split in ("train", "val", "test"):
        write_images(cs230 / f"vision/data/64x64_SIGNS/{split}_signs", [f"{i % 6}_IMG_{i}.jpg" for i in range(12)])
    shutil.copytree(folder / "data/ner_small", cs230 / "nlp/data/small")
    own = {"learning_rate": 1e-3, "num_epochs": 1, "save_summary_steps": 100}
    vision = {**own, "batch_size": 32, "dropout_rate": 0.8, "num_channels": 32, "num_workers": 4}
    tagger = {**own, "batch_size": 5, "lstm_hidden_dim": 50, "embedding_dim": 50}
    runs = {f"vision/experiments/{name}": vision for name in ("base_model", "trained")}
    runs |= {f"nlp/experiments/{name}": tagger for name in ("base_model", "learning_rate")}
    for name, values in runs.items():
        (cs230 / name).mkdir(parents=True)
        (cs230 / name / "params.json").write_text(json.dumps(values))
    params = fetch_params_class("vision").from_values(vision, "CS230").with_facts({"classes": list("012345")})
    weights = importlib.import_module("model.vision.net").Net(params).state_dict()
    torch.save({"epoch": 1, "state_dict": weights, "optim_dict": {}}, cs230 / "vision/experiments/trained/best.pth.tar")
    return folder


@pytest.mark.slow
@needs(*SHIPPED)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run_as_written(page, clone):
    write_listings(page, clone)
    done = set()
    for block in blocks_of(page):
        printed = ""
        for command in block.commands:
            if command in done and not block.output:
                continue
            result = run_command(command, clone)
            assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
            done.add(command)
            printed += result.stdout
        if block.commands and block.output:
            assert_printed(block.output, printed, block.text)
    assert done or page.name != "README.md"


@needs(*SHIPPED)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_only_files_that_are_there(page):
    own = {name for name, _ in listings_of(page)} | {"data/kaggle/ner_dataset.csv"}  # a reader's own files
    names = re.findall(r"(?<![\w/])((?:model|data|fiveline|tests|benchmarks)/[\w/]+\.(?:py|md|csv|txt))\b", read(page))
    if page.name == "AGENTS.md":  # its table of places
        names += re.findall(r"`([\w./]+)`(?=[^|]* \|.*\|$)", read(page).partition("## Layout")[2], re.MULTILINE)
    for line in read(page).partition("## Find your way")[2].partition("\n| to change")[0].splitlines():  # the map
        found = re.findall(r"(?:^|  )([\w/]+(?:\.py|/))(?= |$)", line)
        names += [f"fiveline/{name}" if line.startswith("  ") else name for name in found]
    missing = [name for name in sorted({*names} - own) if not (PROJECT / name).exists()]
    assert [name for name in missing if "/my_" not in name] == []  # my_task is a reader's own, too


def test_readme_and_page_for_programs_are_short_and_the_readme_holds_the_five_lines_and_both_commands():
    text = read(PAGES[0])
    assert len(text.splitlines()) <= 150 and len(read(PROJECT / "AGENTS.md").splitlines()) <= 60
    assert "output_batch = model(train_batch)           # compute model output" in text
    for mark in ("first", "second"):
        assert re.search(rf"<!-- ci: {mark} -->\n```\n(.*)\n```", text), f"one line, marked for CI as {mark}"


@pytest.mark.slow
@pytest.mark.parametrize("task", SHIPPED)
def test_a_task_may_be_removed(tmp_path, task):
    """After `rm -r model/ner`, all other tests are collected, and what needs the task is skipped."""
    need(task)
    folder = make_clone(tmp_path / "fiveline")
    shutil.rmtree(folder / "model" / task)
    names = ("test_an_old_", "know_their_own", "broken_rows")
    result = run_command(f"python -m pytest -q -n 0 -rs -k '{' or '.join(names)}'", folder)
    assert result.returncode == 0 and f"needs model/{task}" in result.stdout, result.stdout[-2000:]
    assert int(re.search(r"(\d+) deselected", result.stdout)[1]) > 500  # the rest was collected
