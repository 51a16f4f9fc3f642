"""What several tests need: the project's folder, a tiny run that is ready to train, a script run as a user does."""

import functools
import logging
import os
import re
import subprocess
import sys

# the nets of tests are tiny, and two processes of two threads on two cores would mostly wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
# `deterministic` asks for it, and cuBLAS reads it only once in a process
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

pytest.register_assert_rewrite("tests.support")  # its asserts show values, as the asserts of a test do

from tests.support.photos import save_picture  # noqa: E402
from tests.support.tasks import PROJECT, REMOVED  # noqa: E402

# Files that import a task whose folder was removed, and the tests of that task, are not collected.
collect_ignore = [
    str(path.relative_to(PROJECT / "tests"))
    for path in sorted(PROJECT.glob("tests/**/test_*.py"))
    for task in REMOVED
    if path.parent == PROJECT / "tests/model" / task
    or re.search(rf"^(?:from|import) model\.{task}\b", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.fixture(scope="session")
def project():
    """The folder that the scripts are in."""
    return PROJECT


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a run directory, and a small dataset that can be learnt, into `tmp_path`."""
    from tests.support.runs import write_tiny_run  # imports torch, which xdist's main process does not need

    return functools.partial(write_tiny_run, tmp_path)


@pytest.fixture
def photos(tmp_path):
    """Return the folder of a dataset of photographs of noise, which is enough for reading them."""
    generator = np.random.default_rng(0)
    for split, number in {"train": 60, "val": 12}.items():
        for i in range(number):
            pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            save_picture(tmp_path / "photos" / split / "ab"[i % 2] / f"{i}.png", pixels)
    return tmp_path / "photos"


@pytest.fixture
def run_script():
    """Return a function that runs a script in a process of its own, from the project's folder, as a user does."""

    def run(name, *args, timeout=600, **env):
        command = [sys.executable, name, *map(str, args)]
        inherited = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
        outputs = {"capture_output": True, "text": True, "timeout": timeout}
        return subprocess.run(command, cwd=PROJECT, env={**inherited, **env}, **outputs)

    return run


@pytest.fixture(autouse=True)
def keep_torchs_defaults():
    """Undo `tune_cpu` (hypothesis needs the smallest numbers, for example) and `deterministic`."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
        if sys.modules["torch"].are_deterministic_algorithms_enabled():  # else the next line would import a compiler
            sys.modules["torch"].use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def close_logs():
    """Take away the handlers that `utils.set_logger` made, so that no test logs into the files of one before."""
    yield
    logger = logging.getLogger()
    for handler in [each for each in logger.handlers if type(each).__module__ == "fiveline.record.log"]:
        logger.removeHandler(handler)
        handler.close()
