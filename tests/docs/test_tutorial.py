"""Run the Python listings of each page as one session, and compare their output with the page.

The tutorial's session includes its quotes from the project. Shell commands are run by test_readme.py, except the ones
here: the exercises' answers, and a session in the debugger.
"""

import re
import subprocess
import sys

import numpy as np
import pytest

from docs import build_drawings
from tests.support.pages import PAGES, PROJECT, assert_printed, blocks_of, listings_of, make_clone, write_listings
from tests.support.tasks import SHIPPED, needs

BREAK = "---- the next listing ----"
PARTS = [page for page in PAGES if page.parent.name == "tutorial"]
EXERCISES = PARTS[-1]


def is_in_session(block, page):
    return block.language == "python" and (not block.mark or (page in PARTS and block.mark.startswith("from: ")))


LISTINGS = {page: [block for block in blocks_of(page) if is_in_session(block, page)] for page in PAGES[1:]}
LISTINGS = {page: listings for page, listings in LISTINGS.items() if listings}
TAKE_SECONDS = ["in_python", "debugging", "3_nets_and_data", "4_life_of_a_batch", "5_devices_and_processes", "6_export"]


def run(folder, *words, typed=""):
    """Run a script of a folder; return its output."""
    result = subprocess.run([sys.executable, *words], input=typed, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("pages") / "fiveline")


@needs(*SHIPPED)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in TAKE_SECONDS), id=page.name) for page in LISTINGS],
)
def test_listings_print_what_the_page_shows(page, clone):
    session = f"print({BREAK!r})\n".join(block.text for block in LISTINGS[page])
    (clone / "session.py").write_text(session, encoding="utf-8")  # a file, because torch.jit.script reads the source
    printed = run(clone, "session.py")
    for block, found in zip(LISTINGS[page], printed.split(f"{BREAK}\n"), strict=True):
        assert_printed(block.output, found, block.text)


@pytest.mark.slow
def test_debugger_answers_as_the_page_shows(tmp_path):
    (page,) = (page for page in PARTS if "look_inside.py" in dict(listings_of(page)))
    (block,) = (block for block in blocks_of(page) if block.mark == "typed: look_inside.py")
    write_listings(page, tmp_path)
    typed = re.findall(r"^\(Pdb\) (.*)$", block.output, re.MULTILINE)
    expected = re.sub(r"^\(Pdb\) .*\n", "(Pdb) ", block.output, flags=re.MULTILINE)
    assert len(typed) > 3
    assert_printed(expected, run(tmp_path, "look_inside.py", typed="\n".join(typed) + "\n"), block.text)


@pytest.mark.parametrize("name", [pytest.param("rnn_answer.py", marks=pytest.mark.slow), "silu_answer.py"])
def test_answers_print_what_the_page_shows(name, tmp_path):
    (block,) = (block for block in blocks_of(EXERCISES) if block.text == f"python {name}\n")
    write_listings(EXERCISES, tmp_path)
    assert_printed(block.output, run(tmp_path, name), name)


@pytest.mark.slow
def test_answer_to_mnist_learns_from_files_of_its_format(tmp_path):
    for split, name in (("train", "train"), ("test", "t10k")):
        with np.load(PROJECT / f"data/digits/{split}.npz") as arrays:
            images = np.pad(np.kron(arrays["images"], np.ones((1, 3, 3), np.uint8)), ((0, 0), (2, 2), (2, 2)))
            labels = arrays["labels"].astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):  # type and number of dimensions, sizes
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (tmp_path / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())
    write_listings(EXERCISES, tmp_path)
    printed = run(tmp_path, "mnist_answer.py", str(tmp_path))
    (shown,) = (line for line in EXERCISES.read_text(encoding="utf-8").splitlines() if line.startswith("test accuracy"))
    assert_printed(shown + "\n", printed, "mnist_answer.py")


@pytest.mark.parametrize("name", sorted(build_drawings.DRAWINGS))
def test_drawings_are_what_the_script_draws(name):
    """The loss curve is computed; its numbers may differ a little on another machine."""
    number = r"-?\d+(?:\.\d+)?"
    drawn, kept = build_drawings.DRAWINGS[name](), (build_drawings.FOLDER / name).read_text(encoding="utf-8")
    assert re.sub(number, "#", drawn) == re.sub(number, "#", kept), f"{name}: python -m docs.build_drawings"
    numbers = [[float(each) for each in re.findall(number, text)] for text in (drawn, kept)]
    np.testing.assert_allclose(*numbers, atol=3)
