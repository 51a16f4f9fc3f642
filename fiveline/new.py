"""Start a project of your own from this one, or replace the engine of such a project by this version's.

    python -m fiveline.new ../photos --task vision                    one task, its data, experiments and tests
    python -m fiveline.new ../both --task ner --task tabular --without study,sanity
    python -m fiveline.new ../mine --task my_task --like vision       a skeleton of a new task, to be edited
    python -m fiveline.new ../photos --update                         a new engine; everything else is kept

A new project holds the scripts, the engine, the tasks, a README and one commit. Its tests are run at the end. Its file
`fiveline/origin.json` lists the engine's files and their checksums, so that `--update` notices edited files.
"""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import utils
from fiveline import __version__
from fiveline.skeleton import LIKE, PYPROJECT, README, skeleton
from fiveline.tasks import DEFAULT_TASK, fetch_params_class, list_tasks

SOURCE = Path(__file__).resolve().parents[1]
ORIGIN = "fiveline/origin.json"
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


def with_shared_modules(tests: Iterable[str]) -> dict[str, bytes]:
    """Return these tests and the modules of tests/support that they import, directly or through each other."""
    found: dict[str, bytes] = {}
    waiting = [*tests]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = read(path).encode()
            names = re.findall(r"(?m)^\s*from tests\.support\.(\w+) import", read(path))
            waiting += [f"tests/support/{name}.py" for name in names]
    return found


def engine_files(tasks: Sequence[str], without: Sequence[str]) -> dict[str, bytes]:
    """Return the files that `--update` replaces: the engine with the wanted rooms, and the tests of the contract."""
    left_out = ("fiveline/new.py", "fiveline/skeleton.py", *(f"fiveline/{room}/" for room in without))
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


def requirements(name: str, files: dict[str, bytes]) -> list[str]:
    """Return the lines of a requirements file for packages that these files import, without comments."""
    code = b"\n".join(content for path, content in files.items() if path.endswith(".py")).decode()
    wanted = []
    for line in read(name).splitlines():
        requirement = line.partition("#")[0].strip()
        package = re.split(r"[<>=!\[ ]", requirement)[0]
        imported = rf"(?m)^\s*(?:from|import) {re.escape(IMPORT_NAMES.get(package, package))}\b"
        if package and not package.startswith("-") and (package in TOOLS or re.search(imported, code)):
            wanted.append(requirement)
    return wanted


def project_files(name: str, tasks: Sequence[str], without: Sequence[str], files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the scripts, README, requirements, pyproject.toml and .gitignore of a project that has these files."""
    left_out = ("build_", *(ROOMS[room] for room in without))
    scripts = {path: content for path, content in tracked(":(glob)*.py").items() if not path.startswith(left_out)}
    copied = scripts | tracked("requirements-export.txt", *([] if "study" in without else ["requirements-ray.txt"]))
    tests = {path: content for path, content in files.items() if path.startswith(("tests/", "data/"))}
    code = {path: content for path, content in (files | scripts).items() if path not in tests}
    needed = requirements("requirements.txt", code)
    development = requirements("requirements-dev.txt", tests)
    words = {
        "name": name,
        "package": re.sub(r"\W+", "-", name).strip("-") or "project",
        "version": __version__,
        "tasks": ", ".join(f"`model/{task}`" for task in tasks),
        "scripts": "\n".join(f"- `{path}`: {read(path).splitlines()[0][3:]}" for path in scripts),
        "needed": json.dumps(needed, indent=4),
        "development": json.dumps(development, indent=4),
        "tools": "".join(re.findall(r"(?ms)^\[tool\.(?:ruff|pytest).*?(?=^\[|^filterw|\Z)", read("pyproject.toml"))),
    }
    texts = {
        "pyproject.toml": PYPROJECT.format(**words),
        "README.md": README.format(**words),
        "requirements.txt": "\n".join([*needed, ""]),
        "requirements-dev.txt": "\n".join(["-r requirements.txt", *development, ""]),
        ".gitignore": re.sub(r"(?s)# data, .*?\n\n", "", read(".gitignore")),  # a project tracks its own data
    }
    return copied | {path: text.encode() for path, text in texts.items()}


def start(project: Path, tasks: Sequence[str], without: Sequence[str], like: str | None) -> None:
    """Write a new project, with one commit."""
    if SOURCE in project.resolve().parents or (project.exists() and any(project.iterdir())):
        raise utils.InputError(
            f"{project}: expected a new or empty folder outside {SOURCE}; to replace a project's engine, add --update"
        )
    engine = engine_files(tasks, without)
    files = skeleton(tasks[0], like) | tracked("model/__init__.py") if like else task_files(tasks, without)
    files |= engine
    files |= project_files(project.resolve().name, tasks, without, files)
    write(project, files, engine, {"tasks": [*tasks], "without": [*without]})
    if like:
        run(project, sys.executable, f"data/{tasks[0]}/build_dataset.py")
    run(project, "git", "init", "--quiet")
    run(project, "git", "add", "--all")
    has_name = subprocess.run(["git", "config", "user.email"], cwd=project, capture_output=True).returncode == 0
    identity = [] if has_name else ["-c", "user.name=Fiveline", "-c", "user.email=fiveline@localhost"]
    run(project, "git", *identity, "commit", "--quiet", "--message", f"Start from Fiveline {__version__}")
    print(f"{project}: {len(files)} files, one commit")


def write(project: Path, files: dict[str, bytes], engine: dict[str, bytes], choice: dict[str, list[str]]) -> None:
    """Write files into the project's folder, and the engine's version, its checksums and what was chosen of it."""
    for path, content in files.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_bytes(content)
    checksums = {path: utils.checksum(project / path) for path in sorted(engine)}
    utils.save_dict_to_json({"version": __version__, **choice, "files": checksums}, project / ORIGIN)


def update(project: Path) -> None:
    """Replace the engine of a project by this version's, unless it was edited or is newer."""
    if not (project / ORIGIN).exists():
        raise utils.InputError(f"{project}: has no {ORIGIN}; expected a project that `python -m fiveline.new` started")
    origin = utils.read_json(project / ORIGIN)
    version, old, choice = origin["version"], origin["files"], {key: origin[key] for key in ("tasks", "without")}
    engine = engine_files(**choice)
    found = {path: utils.checksum(project / path) for path in {**old, **engine} if (project / path).is_file()}
    edited = [path for path in sorted({**old, **found}) if found.get(path) != old.get(path)]
    if edited:
        raise utils.InputError(
            f"{project}: these files of the engine were edited, deleted or added:\n  " + "\n  ".join(edited) + "\n"
            "Nothing was changed. Move your changes into the scripts or model/, restore these files with git, "
            "and run the command again"
        )
    print(changes_since(version))
    for path in old.keys() - engine.keys():
        (project / path).unlink()
    write(project, engine, engine, choice)
    print(f"{project}: version {version} of the engine is replaced by {__version__}; `git diff` shows the changes.")
    print(f"If a test fails, compare the project's scripts with the ones in {SOURCE}")


def changes_since(version: str) -> str:
    """Return the sections of CHANGELOG.md above this version's."""
    sections = re.split(r"(?m)^(?=## )", read("CHANGELOG.md"))[1:]
    names = [section.split()[1] for section in sections]
    if version not in names:
        raise utils.InputError(f"the project has version {version}; expected one of CHANGELOG.md: {', '.join(names)}")
    return "".join(sections[: names.index(version)]).strip() or f"CHANGELOG.md lists no changes since {version}"


def run(project: Path, *command: str) -> None:
    """Run a command in the project's folder, and stop if it fails."""
    done = subprocess.run(command, cwd=project)
    if done.returncode != 0:
        raise utils.InputError(f"{project}: `{' '.join(command)}` failed with exit code {done.returncode}")


def check(tasks: Sequence[str], like: str | None, without: Sequence[str], is_update: bool) -> None:
    """Stop if the command line names unknown tasks or rooms, or flags that do not fit together."""
    if is_update and (tasks or like or without):
        raise utils.InputError("--update keeps the project's tasks and rooms: remove --task, --like and --without")
    for room in without:
        if room not in ROOMS:
            raise utils.InputError(f"--without {room}: the scripts need it; choose from {', '.join(ROOMS)}")
    if not is_update and not tasks:
        raise utils.InputError(f"expected --task: {', '.join(list_tasks())}, or a new name with --like")
    for task in tasks:
        is_new = re.fullmatch("[a-z][a-z0-9_]*", task) and not keyword.iskeyword(task) and task not in list_tasks()
        if like and not (is_new and len(tasks) == 1):
            raise utils.InputError(f"--task {task} --like {like}: expected one new name, such as --task my_task")
        if not like:
            fetch_params_class(task)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("dir", type=Path, help="the folder of the new project, or of the project to update")
    parser.add_argument("--task", action="append", default=[], help="a task to copy; with --like the name of a new one")
    parser.add_argument("--like", choices=LIKE, help="write a skeleton of a new task whose inputs are similar")
    parser.add_argument("--without", default="", metavar="ROOM,ROOM", help=f"leave out {' or '.join(ROOMS)}, or both")
    parser.add_argument("--update", action="store_true", help="replace the engine of a project by this version's")
    args = parser.parse_args(argv)
    without = [room for room in args.without.split(",") if room]
    check(args.task, args.like, without, args.update)
    if args.update:
        update(args.dir)
    else:
        start(args.dir, args.task, without, args.like)
    if importlib.util.find_spec("pytest") is None:
        raise utils.InputError(f"{args.dir}: its tests were not run; first: pip install -r requirements-dev.txt")
    run(args.dir, sys.executable, "-m", "pytest", "-q")


if __name__ == "__main__":
    utils.run_script(main)
