"""Start a project from this one, or give a project that was started so this version of the engine.

    python -m fiveline.new ../photos --task vision                      images, and what they need
    python -m fiveline.new ../both --task ner --task tabular --without study,sanity
    python -m fiveline.new ../mine --task my_task --like vision         a skeleton for a task of your own
    python -m fiveline.new ../photos --update                           replace its engine, keep everything else

A new project holds the scripts, the engine, the tasks with their data, experiments and tests, a README, and one commit.
At the end, its tests are run. Its `fiveline/origin.json` lists the files of the engine with their checksums, so that
`--update` notices files that were edited.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import utils
from fiveline import __version__
from fiveline.skeleton import LIKE, skeleton
from fiveline.tasks import DEFAULT_TASK, fetch_params_class, list_tasks

SOURCE = Path(__file__).resolve().parents[1]
ORIGIN = "fiveline/origin.json"
SCRIPTS = {  # script -> what the README of the new project says of it
    "train.py": "train one run: change experiments/base_model/params.json first",
    "evaluate.py": "score its checkpoint",
    "utils.py": "",
    "sanity_check.py": "find silent bugs before the long run",
    "search_hyperparams.py": "many runs",
    "synthesize_results.py": "one table of all runs",
    "predict.py": "predict labels of new inputs",
    "export.py": "export the net to a file that runs without this project",
}
OPTIONAL_ROOMS = {"study": "search_hyperparams.py", "sanity": "sanity_check.py"}  # no other room imports them
NOT_COPIED = ("fiveline/new.py", "fiveline/skeleton.py")
CONTRACT_TESTS = ("tests/conftest.py", "tests/fiveline/test_tasks.py")  # they find the tasks by themselves
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}  # where the package is called otherwise
DEVELOPMENT = ("pytest", "pytest-xdist")
PYPROJECT = """[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.10"
dependencies = {dependencies}

[dependency-groups]
dev = {development}

[tool.uv]
package = false

[tool.ruff]
line-length = 120

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
addopts = "-m 'not slow and not thorough'"
markers = ["slow: takes more than a few seconds", "thorough: takes minutes"]
"""
IGNORED = """# what a run writes; people write params.json, params.yaml and search.yaml
experiments/**
!experiments/**/
!experiments/**/params.*
!experiments/**/search.yaml
experiments/*/*/

.venv/
__pycache__/
.*_cache/
.hypothesis/
*.tmp
"""
README = """# {name}

Started from [Fiveline](https://github.com/fiveline/fiveline) {version}, with {tasks}.

```
python3 -m venv .venv && .venv/bin/pip install -q -r requirements-dev.txt
.venv/bin/python train.py
.venv/bin/python -m pytest -q
```

{scripts}

`model/` and the scripts are yours to edit. `fiveline/` is the engine: a new version replaces it as a whole.
The names that a folder of `model/` defines are in `model/__init__.py`.
"""


def tracked_files() -> list[str]:
    """Return the paths of the files of this project that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True)
    if done.returncode != 0:
        raise utils.InputError(f"{SOURCE}: expected a clone of Fiveline; git says: {done.stderr.strip()}")
    return sorted(path for path in done.stdout.splitlines() if (SOURCE / path).is_file())


def read(path: str) -> str:
    """Return the text of a file of this project."""
    return (SOURCE / path).read_text(encoding="utf-8")


def engine_files(tasks: Sequence[str], without: Sequence[str]) -> dict[str, bytes]:
    """Return what `--update` replaces: the engine with the wanted rooms, and the tests of the contract.

    Returns:
        path -> content; the default task is the first of `tasks`, because the one of this project may be absent
    """
    folders = tuple(f"fiveline/{room}/" for room in without)
    paths = [
        path
        for path in tracked_files()
        if path.startswith("fiveline/") and path not in NOT_COPIED and not path.startswith(folders)
    ]
    files = {path: (SOURCE / path).read_bytes() for path in [*paths, *with_shared_modules(CONTRACT_TESTS)]}
    for path in ("fiveline/tasks.py", "fiveline/record/params.py"):
        files[path] = files[path].replace(f'"{DEFAULT_TASK}"'.encode(), f'"{tasks[0]}"'.encode())
    shipped = f"SHIPPED = {json.dumps(list(tasks))}".encode()
    files["tests/support/tasks.py"] = re.sub(rb"(?m)^SHIPPED = .*$", shipped, files["tests/support/tasks.py"])
    return files


def with_shared_modules(paths: Iterable[str]) -> list[str]:
    """Return these tests and the modules of tests/support that they import, directly or through each other."""
    found: set[str] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            names = re.findall(r"^\s*from tests\.support\.(\w+) import", read(path), re.MULTILINE)
            waiting += [f"tests/support/{name}.py" for name in names]
    return sorted(found)


def task_files(tasks: Sequence[str], without: Sequence[str]) -> dict[str, bytes]:
    """Return the folders of the tasks, their experiments, their data and their tests: path -> content."""
    files: dict[str, bytes] = {}
    folders = [f"{place}/{task}/" for task in tasks for place in ("model", "tests/model")]
    experiments: list[Path] = []
    for path in sorted(SOURCE.glob("experiments/*/params.*")):
        values = utils.read_values(path)[0]
        task = values.get("task", DEFAULT_TASK)
        is_study = (path.parent / "search.yaml").exists()
        if task in tasks and not (is_study and "study" in without):
            experiments.append(path.parent)
            folders += [f"experiments/{path.parent.name}/", f"{values.get('data_dir') or default_data(task)}/"]
    for path in tracked_files():
        if path.startswith(tuple(folders)):
            files[path] = (SOURCE / path).read_bytes()
    if experiments and SOURCE / "experiments/base_model" not in experiments:  # `python train.py` trains this one
        for path in experiments[0].glob("params.*"):
            files[f"experiments/base_model/{path.name}"] = path.read_bytes()
    tests = [path for path in files if path.startswith("tests/")]
    return files | {path: (SOURCE / path).read_bytes() for path in with_shared_modules(tests)}


def default_data(task: str) -> str | None:
    """Return the data folder that ships with a task."""
    return fetch_params_class(task)().data_dir


def requirements(name: str, files: dict[str, bytes]) -> list[str]:
    """Return the lines of a requirements file for the packages that these files import, without comments."""
    text = b"\n".join(content for path, content in files.items() if path.endswith(".py"))
    lines = [line.split("#")[0].strip() for line in read(name).splitlines()]
    wanted = []
    for line in lines:
        package = re.split(r"[<>=!\[ ]", line)[0]
        imported = IMPORT_NAMES.get(package, package)
        is_imported = re.search(rf"(?m)^\s*(from|import) {re.escape(imported)}\b".encode(), text)
        if package and not package.startswith("-") and (package in DEVELOPMENT or is_imported):
            wanted.append(line)
    return wanted


def project_files(name: str, tasks: Sequence[str], without: Sequence[str], files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the README, the requirements, pyproject.toml, .gitignore and the licence of the new project."""
    scripts = [script for script in SCRIPTS if script not in [OPTIONAL_ROOMS[room] for room in without]]
    needed = requirements("requirements.txt", {path: files[path] for path in files if not path.startswith("tests/")})
    development = [line for line in requirements("requirements-dev.txt", files) if line not in needed]
    texts = {
        "requirements.txt": "\n".join([*needed, ""]),
        "requirements-dev.txt": "\n".join(["-r requirements.txt", *development, ""]),
        "pyproject.toml": PYPROJECT.format(
            name=re.sub(r"[^\w.-]", "_", name),
            dependencies=json.dumps(needed, indent=4),
            development=json.dumps(development, indent=4),
        ),
        "README.md": README.format(
            name=name,
            version=__version__,
            tasks=" and ".join(f"`model/{task}`" for task in tasks),
            scripts="\n".join(f"- `{script}`: {SCRIPTS[script]}" for script in scripts if SCRIPTS[script]),
        ),
        ".gitignore": IGNORED,
    }
    copied = {path: (SOURCE / path).read_bytes() for path in ("LICENSE", "model/__init__.py", *scripts)}
    if "study" not in without:
        texts["requirements-ray.txt"] = read("requirements-ray.txt")
    texts["requirements-export.txt"] = read("requirements-export.txt")
    return copied | {path: text.encode() for path, text in texts.items()}


def start(project: Path, tasks: Sequence[str], without: Sequence[str], like: str | None) -> None:
    """Write a new project, with one commit."""
    if project.exists() and any(project.iterdir()):
        raise utils.InputError(
            f"{project}: the folder is not empty; choose another one, or --update to replace its engine"
        )
    own = tasks[0]
    files = engine_files(tasks, without) | (skeleton(own, like) if like else {}) | task_files(tasks, without)
    files |= project_files(project.resolve().name, tasks, without, files)
    write(project, files)
    write_origin(project, engine_files(tasks, without), tasks, without)
    if like:
        run(project, sys.executable, f"data/{own}/build_dataset.py")
    run(project, "git", "init", "--quiet")
    run(project, "git", "add", "--all")
    identity = [] if has_identity(project) else ["-c", "user.name=Fiveline", "-c", "user.email=fiveline@localhost"]
    run(project, "git", *identity, "commit", "--quiet", "--message", f"Start from Fiveline {__version__}")
    print(f"{project}: {len(files)} files, one commit")


def write(project: Path, files: dict[str, bytes]) -> None:
    """Write these files into the project's folder."""
    for path, content in files.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_bytes(content)


def write_origin(project: Path, engine: dict[str, bytes], tasks: Sequence[str], without: Sequence[str]) -> None:
    """Write which version the engine is, and the checksums of its files."""
    checksums = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(engine.items())}
    origin = {"version": __version__, "tasks": list(tasks), "without": list(without), "files": checksums}
    utils.save_dict_to_json(origin, project / ORIGIN)


def update(project: Path) -> None:
    """Replace the engine of a project by this version's; refuse if one of its files was edited.

    Raises:
        InputError: the project was not started by this command, or files of its engine were edited
    """
    if not (project / ORIGIN).exists():
        raise utils.InputError(f"{project}: there is no {ORIGIN}; expected a project that `fiveline.new` started")
    origin = utils.read_json(project / ORIGIN)
    old = origin["files"]
    edited = [path for path, checksum in old.items() if checksum_of(project / path) != checksum]
    engine = engine_files(origin["tasks"], origin["without"])
    edited += [path for path in engine if path not in old and (project / path).exists()]
    if edited:
        listed = "\n  ".join(edited)
        raise utils.InputError(
            f"{project}: these files of the engine were edited, deleted or added:\n  {listed}\n"
            "Nothing was changed. Keep your changes elsewhere (in the scripts or in model/), restore these files with git, "
            "and run the command again"
        )
    print(changes_since(origin["version"]))
    for path in old.keys() - engine.keys():
        (project / path).unlink()
    write(project, engine)
    write_origin(project, engine, origin["tasks"], origin["without"])
    print(
        f"{project}: the engine is version {__version__} now; it was {origin['version']}. `git diff` shows what changed"
    )


def checksum_of(path: Path) -> str | None:
    """Return the checksum of a file; None if there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def changes_since(version: str) -> str:
    """Return the sections of CHANGELOG.md for the versions after this one."""
    sections = re.split(r"(?m)^(?=## )", read("CHANGELOG.md"))[1:]
    older = [i for i, section in enumerate(sections) if section.split()[1] == version]
    return (
        "".join(sections[: older[0]] if older else sections).strip() or f"CHANGELOG.md: no newer version than {version}"
    )


def has_identity(project: Path) -> bool:
    """Return whether git knows a name for the commit."""
    return subprocess.run(["git", "config", "user.email"], cwd=project, capture_output=True).returncode == 0


def run(project: Path, *command: str) -> None:
    """Run a command in the project's folder.

    Raises:
        InputError: it failed; its output was shown
    """
    done = subprocess.run(command, cwd=project)
    if done.returncode != 0:
        raise utils.InputError(f"{project}: `{' '.join(command)}` failed with exit code {done.returncode}")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("dir", type=Path, help="the folder of the new project, or of the project to update")
    parser.add_argument(
        "--task", action="append", default=[], help="a task to copy, or the name of your own with --like"
    )
    parser.add_argument("--like", choices=sorted(LIKE), help="write a skeleton with inputs like those of this task")
    parser.add_argument("--without", default="", metavar="ROOM,...", help=f"leave out: {', '.join(OPTIONAL_ROOMS)}")
    parser.add_argument("--update", action="store_true", help="replace the engine of a project by this version's")
    args = parser.parse_args(argv)
    without = [room for room in args.without.split(",") if room]
    check(args.task, args.like, without, args.update)
    if args.update:
        update(args.dir)
    else:
        start(args.dir, args.task, without, args.like)
    run(args.dir, sys.executable, "-m", "pytest", "-q")


def check(tasks: Sequence[str], like: str | None, without: Sequence[str], is_update: bool) -> None:
    """Check the command line.

    Raises:
        InputError: unknown tasks or rooms, or flags that do not fit together
    """
    unknown = [room for room in without if room not in OPTIONAL_ROOMS]
    if unknown:
        raise utils.InputError(
            f"--without {unknown[0]}: choose from {', '.join(OPTIONAL_ROOMS)}; the scripts need the others"
        )
    if is_update and (tasks or like or without):
        raise utils.InputError(
            "--update keeps the tasks and rooms of the project: leave out --task, --like and --without"
        )
    if not is_update and not tasks:
        raise utils.InputError(f"expected --task: one of {', '.join(list_tasks())}, or your own name with --like")
    if like and (len(tasks) != 1 or not re.fullmatch(r"[a-z][a-z0-9_]*", tasks[0]) or tasks[0] in list_tasks()):
        raise utils.InputError(f"--like {like}: expected one --task with a new name, in lower case: --task my_task")
    for task in tasks if not like else ():
        fetch_params_class(task)


if __name__ == "__main__":
    utils.run_script(main)
