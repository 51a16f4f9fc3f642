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
import keyword
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import utils
from fiveline import __version__
from fiveline.project_files import ROOMS, SOURCE, engine_files, project_files, read, skeleton, task_files
from fiveline.tasks import fetch_params_class, list_tasks

ORIGIN = "fiveline/origin.json"
LIKE = ("vision", "tabular", "ner")  # the skeletons for a new task, by kind of input


def start(project: Path, tasks: Sequence[str], without: Sequence[str], like: str | None) -> None:
    """Write a new project, with one commit."""
    if SOURCE in project.resolve().parents or (project.exists() and any(project.iterdir())):
        expected = f"expected a new or empty folder outside {SOURCE}"
        raise utils.InputError(f"{project}: {expected}; to replace a project's engine, add --update")
    engine = engine_files(tasks, without)
    files = (skeleton(tasks[0], like) if like else task_files(tasks, without)) | engine
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
    """Write files into the project's folder, and the engine's version, its checksums and the choices of the user."""
    for path, content in files.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_bytes(content)
    checksums = {path: utils.checksum(project / path) for path in sorted(engine)}
    utils.save_dict_to_json({"version": __version__, **choice, "files": checksums}, project / ORIGIN)


def update(project: Path) -> str:
    """Replace the engine of a project by this version's, unless it was edited or is newer; return the changelog."""
    if not (project / ORIGIN).exists():
        raise utils.InputError(f"{project}: has no {ORIGIN}; expected a project that `python -m fiveline.new` started")
    origin = utils.read_json(project / ORIGIN)
    version, old, choice = origin["version"], origin["files"], {key: origin[key] for key in ("tasks", "without")}
    engine = engine_files(**choice)
    found = {path: utils.checksum(project / path) for path in {**old, **engine} if (project / path).is_file()}
    edited = [path for path in sorted({**old, **found}) if found.get(path) != old.get(path)]
    if edited:
        lines = [f"{project}: these files of the engine were edited, deleted or added:", *edited]
        advice = "Move your changes into the scripts or model/, restore these files with git, and run the command again"
        raise utils.InputError("\n  ".join(lines) + f"\nNothing was changed. {advice}")
    print(changes := changes_since(version))
    for path in old.keys() - engine.keys():
        (project / path).unlink()
    write(project, engine, engine, choice)
    print(
        f"{project}: version {version} of the engine is replaced by {__version__}; `git diff` shows the changes. "
        f"If a test fails, compare the project's scripts with the ones in {SOURCE}"
    )
    return changes


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
    """Stop if the command line names unknown tasks or parts, or flags that contradict each other."""
    if is_update and (tasks or like or without):
        raise utils.InputError("--update keeps the project's tasks and parts: remove --task, --like and --without")
    if needed := set(without) - set(ROOMS):
        raise utils.InputError(f"--without {min(needed)}: the scripts need it; choose from {', '.join(ROOMS)}")
    if not is_update and not tasks:
        raise utils.InputError(f"expected --task: {', '.join(list_tasks())}, or a new name with --like")
    for task in tasks:
        is_new = re.fullmatch("[a-z][a-z0-9_]*", task) and not keyword.iskeyword(task) and task not in list_tasks()
        if like and not (is_new and len(tasks) == 1):
            raise utils.InputError(f"--task {task} --like {like}: expected one new name, such as --task my_task")
        if not like:
            fetch_params_class(task)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("dir", type=Path, help="the folder of the new project, or of the project to update")
    parser.add_argument("--task", action="append", default=[], help="a task to copy; with --like the name of a new one")
    parser.add_argument("--like", choices=LIKE, help="write a skeleton of a new task whose inputs are similar")
    parser.add_argument("--without", default="", metavar="PART,PART", help=f"leave out {' or '.join(ROOMS)}, or both")
    parser.add_argument("--update", action="store_true", help="replace the engine of a project by this version's")
    args = parser.parse_args(argv)
    without = [room for room in args.without.split(",") if room]
    check(args.task, args.like, without, args.update)
    if not args.update:
        start(args.dir, args.task, without, args.like)
    changes = update(args.dir) if args.update else None
    if importlib.util.find_spec("pytest") is None:
        raise utils.InputError(f"{args.dir}: its tests were not run; first: pip install -r requirements-dev.txt")
    run(args.dir, sys.executable, "-m", "pytest", "-q")
    origin = utils.read_json(args.dir / ORIGIN)
    chosen = {name: origin[name] for name in ("tasks", "without")}
    return {"project": str(args.dir), "engine": origin["version"], "changes": changes, **chosen}


if __name__ == "__main__":
    utils.run_script(main)
