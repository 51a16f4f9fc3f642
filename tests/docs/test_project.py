"""Compare what several files say about the project: its version, its requirements, its commands."""

import importlib
import re
import sys

import pytest
import yaml

import fiveline
from tests.support.pages import PROJECT, read

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


def project():
    return tomllib.loads(read(PROJECT / "pyproject.toml"))


def requirements(name):
    """Return the requirements that a file adds to those in requirements.txt, without its comments."""
    lines = [line.partition("#")[0].strip() for line in read(PROJECT / name).splitlines()]
    return [line for line in lines if line and not line.startswith("-r ")]


def test_the_version_is_the_same_everywhere():
    assert project()["project"]["version"] == fiveline.__version__
    assert yaml.safe_load(read(PROJECT / "CITATION.cff"))["version"] == fiveline.__version__
    newest = re.search(r"^## (\S+)", read(PROJECT / "CHANGELOG.md"), re.MULTILINE)[1]
    assert newest in (fiveline.__version__, "Unreleased")


def test_every_script_prints_the_version(capsys):
    for script in [path.stem for path in sorted(PROJECT.glob("*.py")) if "def make_parser(" in read(path)]:
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(script).main(["--version"])
        assert (stop.value.code, capsys.readouterr().out) == (0, f"fiveline {fiveline.__version__}\n"), script


def test_pyproject_lists_the_requirements_of_pip():
    found = project()
    assert found["project"]["dependencies"] == requirements("requirements.txt")
    for group in ("dev", "export", "ray"):
        assert found["dependency-groups"][group] == requirements(f"requirements-{group}.txt")
