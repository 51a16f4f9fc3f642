"""The layout: arrows go one way, importing does nothing, files stay readable."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SCRIPTS = ["train", "evaluate", "predict", "export", "sanity_check", "search_hyperparams", "synthesize_results"]
SOURCES = sorted(
    path.relative_to(PROJECT)
    for pattern in (
        "*.py",
        "model/**/*.py",
        "record/*.py",
        "training/*.py",
        "evaluation/*.py",
        "prediction/*.py",
        "exporting/*.py",
        "report/*.py",
        "study/*.py",
        "sanity/*.py",
    )
    for path in PROJECT.glob(pattern)
)
OURS = {path.parts[0].removesuffix(".py") for path in SOURCES}
TASKS = sorted(path.parent.name for path in PROJECT.glob("model/*/params.py"))

# Which rooms a room may import from. A task may import itself besides.
ALLOWED = {
    "record": {"record"},
    "utils": {"record"},
    "processes": {"record"},
    "runtime": {"record", "processes"},
    "task": {"utils", "runtime"},
    "model": {"utils", "runtime", "processes", "model"},
    "evaluation": {"utils", "runtime", "processes", "evaluation"},
    "evaluate": {"utils", "runtime", "processes", "evaluation", "model"},
    "training": {"utils", "runtime", "processes", "evaluation", "model", "training"},
    "train": {"utils", "runtime", "processes", "evaluation", "model", "training", "evaluate"},
    "sanity": {"utils", "runtime", "evaluation", "evaluate", "model", "training", "train", "sanity"},
    "sanity_check": {"utils", "runtime", "processes", "model", "sanity"},
    "prediction": {"utils", "prediction"},
    "predict": {"utils", "runtime", "processes", "model", "evaluate", "prediction"},
    "exporting": {"utils", "exporting"},
    "export": {"utils", "runtime", "processes", "model", "evaluate", "exporting"},
    "report": {"record", "report", "model", "evaluation"},
    "synthesize_results": {"record", "report"},
    "study": {"utils", "model", "report", "train", "study"},
    "search_hyperparams": {"utils", "processes", "model", "synthesize_results", "study"},
}


def imported_modules(path, top_level_only=False):
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def room_of(path):
    if path.parts[0] == "model" and len(path.parts) > 2:
        return "task"
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_one_way(path):
    own = ".".join(path.parts[:2]) if room_of(path) == "task" else None
    for name in imported_modules(path):
        top = name.split(".")[0]
        if top not in OURS or (own and (name == own or name.startswith(own + "."))):
            continue
        assert top in ALLOWED[room_of(path)], f"{path} imports {name}"
        is_task = top == "model" and len(name.split(".")) > 2
        assert not is_task, f"{path} imports the task module {name}; tasks are found by name"


def test_no_script_knows_a_task_by_name():
    for path in [
        *(Path(f"{name}.py") for name in [*SCRIPTS, "utils", "runtime", "processes"]),
        *Path(PROJECT / "training").glob("*.py"),
        *Path(PROJECT / "sanity").glob("*.py"),
    ]:
        tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not (names | attributes | texts) & set(TASKS), path


@pytest.mark.parametrize("script", SCRIPTS)
def test_importing_a_script_loads_no_torch_and_prints_nothing(script):
    code = f"import sys, {script}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("task", TASKS)
def test_reading_the_params_of_a_task_loads_no_torch(task):
    code = f"import sys, model.{task}.params; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_files_can_be_read_in_one_sitting(path):
    num_lines = len((PROJECT / path).read_text(encoding="utf-8").splitlines())
    assert num_lines <= (300 if len(path.parts) == 1 else 250), f"{path}: {num_lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_functions_can_be_read_at_a_glance(path):
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path}: {node.name} has {node.end_lineno - node.lineno} lines"
            assert len(node.args.args) + len(node.args.kwonlyargs) <= 7, f"{path}: {node.name} has many parameters"


def test_the_five_lines_stand_in_train_step_as_in_the_seed():
    tree = ast.parse((PROJECT / "train.py").read_text(encoding="utf-8"))
    step = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train_step")
    assert [ast.unparse(line) for line in step.body[1:]] == [
        "output_batch = model(train_batch)",
        "loss = loss_fn(output_batch, labels_batch)",
        "optimizer.zero_grad()",
        "loss.backward()",
        "optimizer.step()",
        "return (output_batch, loss)",
    ]
