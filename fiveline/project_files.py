"""The files that a project holds when `python -m fiveline.new` starts it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

import utils
from fiveline import __version__
from fiveline.tasks import DEFAULT_TASK

SOURCE = Path(__file__).resolve().parents[1]
ROOMS = {"study": "search_hyperparams.py", "sanity": "sanity_check.py"}  # may be left out, with their scripts
CONTRACT = ("tests/conftest.py", "tests/fiveline/test_tasks.py")  # these tests find the tasks by themselves
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
TOOLS = ("pytest", "pytest-xdist", "ruff")


def tracked(*places: str) -> dict[str, bytes]:
    """Return path -> content for the files of this project that git tracks, in these folders or with these names."""
    done = subprocess.run(["git", "ls-files", "-z", "--", *places], cwd=SOURCE, capture_output=True, text=True)
    if done.returncode != 0:
        raise utils.InputError(f"{SOURCE}: expected a git clone of Fiveline; git says: {done.stderr.strip()}")
    return {path: (SOURCE / path).read_bytes() for path in done.stdout.split("\0") if (SOURCE / path).is_file()}


def read(path: str) -> str:
    """Return the text of a file of this project."""
    return (SOURCE / path).read_text(encoding="utf-8")


def skeleton(name: str, like: str) -> dict[str, bytes]:
    """Return the files of a new task: the templates under its name, without the lines for other kinds of inputs."""
    files, folder = {}, "fiveline/templates/my_task/"
    for path in tracked(folder):
        lines = re.sub(r"(.*)  # like (\w+)\n", lambda line: f"{line[1]}\n" if line[2] == like else "", read(path))
        files[path.removeprefix(folder).removesuffix(".txt").replace("my_task", name)] = lines.replace("my_task", name)
    return {path: text.encode() for path, text in files.items()} | tracked("model/__init__.py")


def with_shared_modules(tests: Iterable[str]) -> dict[str, bytes]:
    """Return these tests and the modules of tests/support that they import, directly or through each other."""
    found: dict[str, bytes] = {}
    waiting = [*tests]
    while waiting:
        text = read(path := waiting.pop())
        found[path] = text.encode()
        imported = re.findall(r"(?m)^\s*from tests\.support\.(\w+) import", text)
        waiting += [new for name in imported if (new := f"tests/support/{name}.py") not in found]
    return found


def engine_files(tasks: Sequence[str], without: Sequence[str]) -> dict[str, bytes]:
    """Return the files that `--update` replaces: the engine without these parts, and the tests of the contract."""
    places = ("new.py", "project_files.py", "templates/", *(f"{room}/" for room in without))
    left_out = tuple(f"fiveline/{place}" for place in places)
    files = {path: content for path, content in tracked("fiveline").items() if not path.startswith(left_out)}
    files |= with_shared_modules(CONTRACT) | {"fiveline/LICENSE": read("LICENSE").encode()}
    params, names = "fiveline/record/params.py", "tests/support/tasks.py"
    default = DEFAULT_TASK if DEFAULT_TASK in tasks else tasks[0]
    files[params] = re.sub(r'(?<=task: str = Field\(")\w+', default, read(params)).encode()
    files[names] = re.sub("(?m)(?<=^SHIPPED = ).*", json.dumps(sorted(tasks)), read(names)).encode()
    return files


def task_files(tasks: Sequence[str], without: Sequence[str]) -> dict[str, bytes]:
    """Return the folders of the tasks, their tests, experiments and commands, and the data that these name."""
    files = tracked(*(f"{place}/{task}" for task in tasks for place in ("model", "tests/model")))
    for path in [path for path in files if path.startswith("tests/")]:  # tests of the parts left out
        if any(ROOMS[room].removesuffix(".py").encode() in files[path] for room in without):
            del files[path]
    tests = [path for path in files if path.startswith("tests/") and path.endswith(".py")]
    experiments = []
    for path in tracked("experiments/*/params.*"):
        folder = Path(path).parent
        is_left_out = "study" in without and (SOURCE / folder / "search.yaml").exists()
        if utils.read_values(SOURCE / path)[0].get("task", DEFAULT_TASK) in tasks and not is_left_out:
            experiments.append(path)
            files |= tracked(str(folder))
    if experiments and not any("/base_model/" in path for path in experiments):  # `python train.py` trains this one
        files[f"experiments/base_model/{Path(experiments[0]).name}"] = files[experiments[0]]
    data = {name.decode() for name in re.findall(rb'"(data/[\w.]+)', b"\n".join(files.values()))}
    for path, content in tracked(":(glob)build_*.py").items():
        if any(f"from model.{task}." in content.decode() for task in tasks):
            files[path] = content
    return files | with_shared_modules(tests) | tracked("model/__init__.py", *data)


def requirements(name: str, files: dict[str, bytes]) -> str:
    """Return the lines of a requirements file for packages that these files import, without comments."""
    code = b"\n".join(content for path, content in files.items() if path.endswith(".py")).decode()
    wanted = []
    for line in read(name).splitlines():
        requirement = line.partition("#")[0].strip()
        package = re.split(r"[<>=!\[ ]", requirement)[0]
        imported = rf"(?m)^\s*(?:from|import) {re.escape(IMPORT_NAMES.get(package, package))}\b"
        if package and not package.startswith("-") and (package in TOOLS or re.search(imported, code)):
            wanted.append(requirement)
    return "\n".join([*wanted, ""])


def project_files(name: str, tasks: Sequence[str], without: Sequence[str], files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the scripts, README, requirements, pyproject.toml and .gitignore of a project that has these files."""
    left_out = ("build_", *(ROOMS[room] for room in without))
    scripts = {path: content for path, content in tracked(":(glob)*.py").items() if not path.startswith(left_out)}
    copied = scripts | tracked("requirements-export.txt", *([] if "study" in without else ["requirements-ray.txt"]))
    tests = {path: content for path, content in files.items() if path.startswith(("tests/", "data/"))}
    code = {path: content for path, content in (files | scripts).items() if path not in tests}
    words = {
        "name": name,
        "version": __version__,
        "tasks": ", ".join(f"`model/{task}`" for task in tasks),
        "scripts": "\n".join(f"- `{path}`: {read(path).splitlines()[0][3:]}" for path in scripts),
    }
    tools = re.findall(r"(?ms)^\[tool\.(?:ruff|pytest).*?(?=^\[|^filterw|\Z)", read("pyproject.toml"))
    texts = {
        "README.md": Template(read("fiveline/templates/README.md.txt")).substitute(words),
        "requirements.txt": requirements("requirements.txt", code),
        "requirements-dev.txt": "-r requirements.txt\n" + requirements("requirements-dev.txt", tests),
        "pyproject.toml": "".join(tools),
        ".gitignore": re.sub(r"(?s)# data, .*?\n\n", "", read(".gitignore")),  # a project tracks its own data
    }
    return copied | {path: text.encode() for path, text in texts.items()}
