"""Projects started by `python -m fiveline.new`: what they hold, what they do not mention, and how they are updated."""

import json
import re
import subprocess
import sys

import pytest

import utils
from fiveline import new
from tests.support.data import refusal
from tests.support.tasks import PROJECT, SHIPPED, needs

ROOMS = {"study": ("search_hyperparams", "fiveline/study"), "sanity": ("sanity_check", "fiveline/sanity")}


def start(folder, *words, monkeypatch=None):
    """Start a project; with `monkeypatch`, do not run its tests."""
    if monkeypatch:
        command = new.run
        monkeypatch.setattr(new, "run", lambda folder, *words: "pytest" in words or command(folder, *words))
        new.main([str(folder), *words])
    else:
        assert_tested(run(PROJECT, "-m", "fiveline.new", str(folder), *words))
    return folder


def assert_tested(done):
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), done.stdout[-3000:] + done.stderr


def run(folder, *words):
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def git(folder, *words):
    return subprocess.check_output(["git", *words], cwd=folder, text=True)


def mentions(project, names):
    """Return the places in the project's files and paths that name one of the names, as a whole word.

    CSS's `tabular-nums` and the like are other words: a name ends before a hyphen only if a path follows.
    """
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(names)})(?![\w-])", re.IGNORECASE)
    found = []
    for path in git(project, "ls-files").splitlines():
        text = (project / path).read_bytes().decode("utf-8", errors="replace")
        found += [f"{path}: {line}" for line in [path, *text.splitlines()] if pattern.search(line)]
    return found


def absent_names(tasks, without):
    """Return the tasks that a project lacks, and the paths, modules and scripts of the rooms that it lacks."""
    rooms = [form for room in without for name in ROOMS[room] for form in (name, name.replace("/", r"\."))]
    absent = sorted(set(SHIPPED) - set(tasks))
    if "text" in absent:  # an ordinary word elsewhere
        absent[absent.index("text")] = r"(?:(?:model[./]|[Tt]ask[\W]+)text|experiments/text\w*)"
    return absent + rooms + [r"benchmarks[./]\w+"]


CHOICES = [
    (("vision",), ()),
    (("text",), ("sanity",)),
    (("ner",), ("study", "sanity")),
    (("tabular",), ("sanity",)),
    (("vision", "ner"), ("study", "sanity")),
]


@needs(*SHIPPED)
@pytest.mark.parametrize(("tasks", "without"), CHOICES, ids=lambda names: "+".join(names) or "all")
def test_a_new_project_mentions_nothing_that_was_left_out(tmp_path, monkeypatch, tasks, without):
    words = [word for task in tasks for word in ("--task", task)] + [f"--without={','.join(without)}"]
    project = start(tmp_path / "my photos", *words, monkeypatch=monkeypatch)
    assert mentions(project, absent_names(tasks, without)) == []
    version = utils.read_json(project / new.ORIGIN)["version"]
    assert git(project, "log", "--format=%s") == f"Start from Fiveline {version}\n"
    values = utils.read_json(project / "experiments/base_model/params.json")
    assert values["task"] in tasks and (project / "model" / values["task"] / "net.py").exists()
    assert_clean(project)


def assert_clean(project):
    run(project, "-m", "ruff", "check", ".")
    run(project, "-m", "ruff", "format", "--check", ".")
    assert git(project, "status", "--porcelain") == ""


def rarer(choices, *places):
    """Return the choices as parameters of a slow test; a thorough one at these places."""
    marks = [pytest.mark.thorough if place in places else pytest.mark.slow for place in range(len(choices))]
    return [pytest.param(*choice, marks=mark) for choice, mark in zip(choices, marks, strict=True)]


@needs(*SHIPPED)
@pytest.mark.parametrize(("tasks", "without"), rarer(CHOICES, 1, 2, 3), ids=lambda names: "+".join(names) or "all")
def test_a_new_project_passes_its_tests_and_trains(tmp_path, tasks, without):
    words = [word for task in tasks for word in ("--task", task)] + [f"--without={','.join(without)}"]
    project = start(tmp_path / "project", *words)
    short = ["num_steps=2", "evaluate_every_steps=2"] if "text" in tasks else ["num_epochs=1"]
    run(project, "train.py", *short)
    assert utils.read_json(project / "experiments/base_model/run.json")["status"] == "finished"
    assert git(project, "status", "--porcelain") == ""


def lines_of_code(text):
    text = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    return sum(bool(line.strip()) for line in text.splitlines())


@pytest.mark.parametrize("like", rarer([[like] for like in new.LIKE], 0, 1))
def test_a_skeleton_passes_the_tests_of_the_contract_and_learns(tmp_path, like):
    project = start(tmp_path / "mine", "--task", "my_task", "--like", like)
    files = [project / "model/my_task" / name for name in ("params.py", "net.py", "data_loader.py")]
    assert 30 <= sum(lines_of_code(file.read_text()) for file in files) <= 45
    assert mentions(project, absent_names((), ())) == []
    run(project, "train.py")
    run(project, "evaluate.py")
    assert utils.read_json(project / "experiments/base_model/metrics_test_best.json")["accuracy"] > 0.9
    run(project, "sanity_check.py", "--model_dir", "experiments/base_model")
    assert_clean(project)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project, and the command's own tests left out."""
    return start(tmp_path / "mine", "--task", "my_task", "--like", "tabular", monkeypatch=monkeypatch)


def make_old(project):
    """Make a project look as if an older version had started it: one file differs, one is gone, one is missing."""
    origin = utils.read_json(project / new.ORIGIN)
    for path, text in (("fiveline/state.py", "# an older state\n"), ("fiveline/gone.py", "# no longer there\n")):
        (project / path).write_text(text)
        origin["files"][path] = utils.checksum(project / path)
    (project / "fiveline/device.py").unlink()
    del origin["files"]["fiveline/device.py"]
    (project / new.ORIGIN).write_text(json.dumps(origin))


def test_update_replaces_an_engine_that_was_not_edited_and_nothing_else(project, capsys):
    assert "data/my_task/train.npz" in git(project, "ls-files").splitlines()
    run(project, "train.py", "num_epochs=1")
    assert git(project, "status", "--porcelain") == ""  # a run is not tracked
    make_old(project)
    origin = (project / new.ORIGIN).read_text()
    (project / new.ORIGIN).write_text(json.dumps({**json.loads(origin), "version": "99.0.0"}))
    assert "has version 99.0.0; expected one of CHANGELOG.md: " in refusal(new.main, [str(project), "--update"])
    (project / new.ORIGIN).write_text(origin)

    (project / "fiveline/loader.py").write_text("# my loader\n")
    (project / "fiveline/tasks.py").unlink()
    (project / "fiveline/device.py").write_text("# my device\n")
    before = {path: path.read_bytes() for path in project.rglob("*.*") if path.is_file()}
    message = refusal(new.main, [str(project), "--update"])
    assert re.findall(r"^  fiveline/(\S+)$", message, re.MULTILINE) == ["device.py", "loader.py", "tasks.py"]
    assert "Nothing was changed" in message
    assert before == {path: path.read_bytes() for path in project.rglob("*.*") if path.is_file()}

    (project / "fiveline/device.py").unlink()
    git(project, "checkout", "fiveline/loader.py", "fiveline/tasks.py")
    own = {"train.py": "# my loop\n", "model/my_task/net.py": "# my net\n", "experiments/base_model/params.json": "{}"}
    for path, text in own.items():
        (project / path).write_text(text)
    capsys.readouterr()
    new.main([str(project), "--update"])
    assert "## Unreleased" in capsys.readouterr().out
    assert (project / "fiveline/state.py").read_bytes() == (PROJECT / "fiveline/state.py").read_bytes()
    assert (project / "fiveline/device.py").exists() and not (project / "fiveline/gone.py").exists()
    assert {path: (project / path).read_text() for path in own} == own
    assert set(git(project, "diff", "--name-only").splitlines()) == set(own)


@pytest.mark.slow
@needs("tabular")
def test_a_project_with_changes_is_updated_and_its_tests_pass(tmp_path, monkeypatch):
    project = start(tmp_path / "rows", "--task", "tabular", "--without=study,sanity", monkeypatch=monkeypatch)
    edits = {
        "model/tabular/net.py": ("F.relu(norm(linear(x)))", "F.silu(norm(linear(x)))"),
        "train.py": ('"""Train one run.', '"""Train one run of mine.'),
        "experiments/base_model/params.json": ('"num_epochs": 30', '"num_epochs": 1'),
    }
    for path, (old, text) in edits.items():
        assert old in (project / path).read_text()
        (project / path).write_text((project / path).read_text().replace(old, text))
    make_old(project)
    assert_tested(run(PROJECT, "-m", "fiveline.new", str(project), "--update"))
    assert all(text in (project / path).read_text() for path, (_, text) in edits.items())
    run(project, "train.py")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --task: .*, or a new name with --like"),
        (["--task", "tabluar"], "unknown task 'tabluar'; did you mean 'tabular'"),
        (["--task", "tabular", "--without", "report"], "--without report: .*choose from study, sanity"),
        (["--task", "tabular", "--like", "ner"], "--task tabular --like ner: expected one new name"),
        (["--task", "class", "--like", "ner"], "--task class --like ner: expected one new name"),
        (["--update", "--task", "tabular"], "remove --task, --like and --without"),
        (["--update"], r"has no fiveline/origin.json"),
    ],
)
@needs("tabular")
def test_mistakes_in_the_command_are_reported(tmp_path, words, message):
    assert re.search(message, refusal(new.main, [str(tmp_path / "x"), *words]))
    assert not (tmp_path / "x").exists()


@needs("tabular")
def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    for folder in (tmp_path, PROJECT / "docs/x"):
        assert "expected a new or empty folder" in refusal(new.main, [str(folder), "--task", "tabular"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
