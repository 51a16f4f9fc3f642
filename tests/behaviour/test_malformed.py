"""Files that are whole and yet not ours: every key of a checkpoint, run.json and history.jsonl with wrong contents."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import evaluate
import export
import predict
import sanity_check
import search_hyperparams
import synthesize_results
import train
import utils
from fiveline.record.checkpoint import read_checkpoint, write_checkpoint
from fiveline.report.predictions import read_per_class, read_predictions
from fiveline.report.runs import read_history, read_runs
from fiveline.serving.output import fetch_margin
from fiveline.study.trial_process import open_output
from fiveline.study.trials import Trial, read_record
from tests.support.runs import QUICK, finish, write_params, write_tiny_run
from tests.support.tasks import PROJECT

DELETED = object()


WRONG = {
    "none": None, "text": "x", "negative": -1, "huge": 10**30, "nan": float("nan"), "list": [1, "a"],
    "dict": {"a": 1}, "tensor": torch.zeros(3), "deleted": DELETED,
}  # fmt: skip
# What is of the right type.
RIGHT = {
    ("best", "none"), ("best", "negative"), ("best", "huge"), ("seconds", "huge"), ("best_loss", "huge"),
    ("best_loss", "none"), ("best_loss", "negative"),
    ("generators", "none"), ("generators", "dict"), ("sums", "dict"),
    ("scaler", "dict"), ("average", "dict"), ("facts", "dict"),
}  # fmt: skip
READ_BY_EVALUATE = {"state_dict", "params", "facts"}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    return finish(write_tiny_run(tmp_path_factory.mktemp("trained")), "num_epochs=1")


@pytest.fixture
def trained(once, tmp_path):
    return shutil.copytree(once, tmp_path / "run")


def mistake(main, *words):
    """Return the message that a script stops with; fails for any other error, and where it goes on."""
    with pytest.raises(utils.InputError) as caught:
        main([str(word) for word in words])
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def test_every_key_of_a_checkpoint_is_checked(trained):
    state = read_checkpoint(trained / "last.pth.tar")
    (trained / "last.previous.pth.tar").unlink(missing_ok=True)
    simple = ["none", "text", "negative", "huge", "nan", "list", "dict", "tensor"]
    for number, key in enumerate(state):  # each is deleted, and gets a quarter of the wrong values
        kinds = ["deleted", *simple[number % 4 :: 4]]
        for kind in (kind for kind in kinds if (key, kind) not in RIGHT):
            changed = {name: value for name, value in {**state, key: WRONG[kind]}.items() if value is not DELETED}
            write_checkpoint(changed, trained / "last.pth.tar")
            messages = [mistake(train.main, "--model_dir", trained, "num_epochs=2")]
            if key in READ_BY_EVALUATE:
                messages.append(mistake(evaluate.main, "--model_dir", trained, "--restore_file", "last"))
            for message in messages:
                is_named = key in message or "another net" in message
                assert "last.pth.tar: " in message and is_named, (key, kind, message)
    write_checkpoint({**state, "params": {**state["params"], "task": "visoin"}}, trained / "last.pth.tar")
    message = mistake(evaluate.main, "--model_dir", trained, "--restore_file", "last")
    assert "last.pth.tar: unknown task 'visoin'" in message


def test_what_an_optimizer_kept_is_checked_before_its_next_step(trained):
    state = read_checkpoint(trained / "last.pth.tar")
    moments = state["optim_dict"]["state"]
    wrong = [{**moments[0], "exp_avg": value} for value in (torch.zeros(7), None, "x")]
    for changed in (*({**moments, 0: value} for value in (*wrong, {"step": moments[0]["step"]})), {99: moments[0]}):
        optim_dict = {**state["optim_dict"], "state": {**moments, **changed}}
        write_checkpoint({**state, "optim_dict": optim_dict}, trained / "last.pth.tar")
        message = mistake(train.main, "--model_dir", trained, "num_epochs=2")
        assert "last.pth.tar: optim_dict does not fit this code (" in message


FACTS = {  # task -> its params, and facts of another type, or that contradict each other
    "vision": (
        QUICK | {"class_weights": "balanced"},
        {"class_counts": [None, (1, 2), [[]], [1]], "classes": [5, None]},
    ),
    "tabular": (
        {"data_dir": str(PROJECT / "data/diabetes"), "target": "progression", "target_type": "number"},
        {"columns": [None, [{"name": 5}]], "target_std": [-1.0, 10**30, "x"], "target_mean": [None, 10**30]},
    ),
    "ner": ({"char_channels": 8}, {"tags": [[None], [""], float("nan")], "words": [5, {}], "characters": [None]}),
}


@pytest.mark.parametrize("task", FACTS)
def test_facts_of_another_type_name_the_checkpoint_whatever_the_task(task, tmp_path):
    params, wrong = FACTS[task]
    folder = finish(write_params(tmp_path / "run", task=task, **params), "num_epochs=1")
    best, last = read_checkpoint(folder / "best.pth.tar"), read_checkpoint(folder / "last.pth.tar")
    changes = [{name: value} for name, values in wrong.items() for value in values]
    if task == "tabular":  # one more input than the net was made for
        columns = best["facts"]["columns"]
        changes.append({"columns": [{**columns[0], "has_missing": not columns[0]["has_missing"]}, *columns[1:]]})
    for change in changes:
        write_checkpoint({**best, "facts": best["facts"] | change}, folder / "best.pth.tar")
        assert "best.pth.tar: facts does not fit this code (" in mistake(evaluate.main, "--model_dir", folder), change
        write_checkpoint({**last, "facts": last["facts"] | change}, folder / "last.pth.tar")
        message = mistake(train.main, "--model_dir", folder, "num_epochs=2")
        assert "last.pth.tar: facts does not fit this code (" in message, change


# --- run.json and history.jsonl

ROWS = [
    '{"epoch": 1, "val": []}', '{"epoch": 1, "val": {"accuracy": "0.5"}}', '{"epoch": "1"}', '{"epoch": 1e400}',
    '{"epoch": 1, "seconds": "x"}', "[]", '{"val": {"accuracy": 0.5}}', '{"epoch": true}', '{"epoch": -1}',
    '{"epoch": 1, "train": 5}', f'{{"epoch": {10**30}}}', '{"epoch": 1, "val": {"accuracy": NaN}}',
]  # fmt: skip


def test_a_malformed_row_of_a_history_is_named_or_passed_over(trained, capsys):
    for row in ROWS:
        (trained / "history.jsonl").write_text(row + "\n")
        assert "history.jsonl, " in mistake(train.main, "--model_dir", trained, "num_epochs=2"), row
        synthesize_results.main(["--parent_dir", str(trained.parent)])
    (trained.parent / "params.json").write_text((trained / "params.json").read_text())
    search_hyperparams.main(["--parent_dir", str(trained.parent), "--space", "seed=230,2", "--status"])
    assert "1 failed" in capsys.readouterr().out


VALUES = [None, "x", -1, 10**30, [], {}, [1, "a"], {"a": 1}, True, 1.5]


def test_malformed_entries_of_a_record_are_named_by_a_run_and_passed_over_by_a_study(trained):
    record = utils.read_json(trained / "run.json")
    typed = ("status", "params", "epochs", "best_epoch", "best", "lower_is_better", "data", "machine", "versions")
    num_refused = 0
    for key in typed:
        for value in VALUES:
            (trained / "run.json").write_text(json.dumps({**record, key: value}))
            try:
                utils.RunDirectory(trained).record()
                assert read_record(trained)
            except utils.InputError as error:
                assert "run.json: " in str(error) and key in str(error)
                assert read_record(trained) == {}
                num_refused += 1
    assert num_refused > 5 * len(typed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KNOWN = st.sampled_from(
    ["epoch", "val", "train", "status", "params", "epochs", "seconds", "best_epoch", "lower_is_better", "monitor",
     "start", "end", "accuracy", "loss", "seed", "restore_file", "task", "data_dir"]
)  # fmt: skip
OBJECT = st.dictionaries(KNOWN, JSON | st.dictionaries(KNOWN, JSON, max_size=4), max_size=8)
FILES = ("run.json", "metrics_val_best_weights.json", "metrics_test_best.json", "scored_test_best.json")
TABLE = st.text("id,label\n\r\"'=1ab x\0", max_size=60) | st.just("id,label,prediction,loss\n'=1,a,b,x\n")


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    objects=st.lists(OBJECT | JSON, min_size=4, max_size=4), history=st.lists(OBJECT | JSON, max_size=3), table=TABLE
)
@example(objects=[{"params": []}, [], 5, "x"], history=[[], {"epoch": 1, "val": 5}], table="")
@example(objects=[{"status": {}, "params": {"seed": {}}}] * 4, history=[{"epoch": 10**400}], table="id\n")
def test_no_row_makes_a_table_stumble(tmp_path, capsys, objects, history, table):
    for name in ("a", "b"):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True, exist_ok=True)
        for file, value in zip(FILES, objects, strict=True):
            (run / file).write_text(json.dumps(value))
        (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
        (run / "predictions_test_best.csv").write_text(table)
        (run / "per_class_test_best.csv").write_text(table.replace("id", "class"))
    words = ["--parent_dir", str(tmp_path / "runs")]
    for more in ([], ["--filter", "accuracy > 0.5 or seed == 1", "--sort", "loss"], ["--compare", "a", "b"]):
        with contextlib.suppress(SystemExit, utils.InputError):  # a file was skipped, or no run has that column
            synthesize_results.main([*words, *more])
    capsys.readouterr()
    runs, problems = read_runs(tmp_path / "runs")
    for run in runs:
        for read in (read_history, read_predictions, read_per_class):
            read(run, problems)
    assert len(runs) == 2
    is_bad = [not isinstance(value, dict) for value in objects[:3]]
    named = [any(file in line for line in problems) for file in FILES[:3]]
    assert all(name or not bad for bad, name in zip(is_bad, named, strict=True))


# --- paths


SCRIPTS = {
    "train": (train.main, ["--model_dir", "--data_dir", "--restore_file"], []),
    "evaluate": (evaluate.main, ["--model_dir", "--data_dir", "--restore_file"], []),
    "predict": (predict.main, ["--model_dir", "--input", "--output", "--restore_file"], []),
    "export": (export.main, ["--model_dir", "--data_dir", "--output", "--restore_file"], ["--format", "safetensors"]),
    "sanity_check": (sanity_check.main, ["--model_dir", "--data_dir"], ["--only", "leaks"]),
    "search_hyperparams": (search_hyperparams.main, ["--parent_dir"], ["--space", "seed=1,2", "--array"]),
    "synthesize_results": (synthesize_results.main, ["--parent_dir"], []),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_paths_that_cannot_be_are_refused_in_a_line(trained, script):
    main, flags, more = SCRIPTS[script]
    (trained / "loop").symlink_to(trained / "loop")
    (trained / "file").write_text("x")
    ends = {"--output": ".csv" if script == "predict" else ".safetensors", "--restore_file": ".pth.tar"}
    for flag in flags:
        for path in ("x" * 300, f"a/{'x' * 300}/b", "a\0b", f"{trained}/loop/x", f"{trained}/file/x"):
            words = {"--model_dir": trained, "--input": trained / "file"}
            given = {name: value for name, value in words.items() if name in flags}
            given[flag] = path + ends.get(flag, "")
            with pytest.raises((utils.Stop, OSError, ValueError, SystemExit)) as caught:
                main([str(word) for pair in given.items() for word in pair] + more)
            stop = utils.explain(caught.value)
            assert stop is not None and (stop.exit_code == 2 or flag == "--data_dir"), (flag, path, caught.value)


@pytest.mark.parametrize("name", ["params.json", "last.pth.tar", "history.jsonl", "run.json", "train.log"])
def test_pipes_and_devices_in_place_of_files_are_refused(trained, name):
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (trained / name).unlink(missing_ok=True)
        make(trained / name)
        (trained / "last.previous.pth.tar").unlink(missing_ok=True)
        assert name in mistake(train.main, "--model_dir", trained, "num_epochs=2")


def test_pipes_among_inputs_and_outputs_of_others_are_not_waited_for(trained, tmp_path, capfd):
    names = ("folder/pipe.png", "predictions_test_best.csv", "output.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    assert "a pipe" in mistake(predict.main, "--model_dir", trained, "--input", tmp_path / "folder/pipe.png")
    with pytest.raises(utils.Stop):
        predict.main(["--model_dir", str(trained), "--input", str(tmp_path / "folder")])
    assert "regular file" in capfd.readouterr().out
    assert fetch_margin(tmp_path / "best.pth.tar", tmp_path) is None
    assert Trial(0, {}, None, tmp_path).last_words(3) == "exit code 3"
    with pytest.raises(utils.InputError, match="a pipe"):
        open_output(tmp_path / "output.txt")


def test_nets_beyond_any_memory_are_refused(make_run):
    folder = make_run()
    for size in (2**40, 2**63 - 1, 2**64):
        with pytest.raises((RuntimeError, TypeError)) as caught:
            train.main(["--model_dir", str(folder), f"num_channels={size}"])
        assert "out of memory" in str(utils.explain(caught.value))


# --- processes that lack something


def run_shell(project, text):
    return subprocess.run(["bash", "-c", text], cwd=project, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_standard_streams_may_be_closed(project, make_run):
    names = ("open", "closed", "study")
    folders = dict(zip(names, map(make_run, names), strict=True))
    script = f"{sys.executable} train.py num_epochs=1 --model_dir"
    finish(folders["open"], "num_epochs=1")
    assert run_shell(project, f"{script} {folders['closed']} >&- 2>&- <&-").returncode == 0
    for file in ("metrics_val_best_weights.json", "metrics_val_last_weights.json"):
        assert (folders["closed"] / file).read_bytes() == (folders["open"] / file).read_bytes()
    assert "Epoch 1/1" in (folders["closed"] / "train.log").read_text()
    done = run_shell(project, f"{sys.executable} evaluate.py --model_dir {folders['closed']} >&- 2>&-")
    assert done.returncode == 0 and utils.read_json(folders["closed"] / "metrics_test_best.json")
    done = run_shell(project, f"{sys.executable} predict.py --model_dir {folders['closed']} --input data >&-")
    assert done.returncode == 2 and "standard output is closed" in done.stderr
    study = f"{sys.executable} search_hyperparams.py --parent_dir {folders['study']} --space seed=1,2"
    assert run_shell(project, f"{study} num_epochs=1 >&- 2>&-").returncode == 0
    statuses = [utils.read_json(folders["study"] / f"seed_{i}/run.json")["status"] for i in (1, 2)]
    assert statuses == ["finished", "finished"]


def test_a_full_standard_output_is_reported(project, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics_val_best_weights.json").write_text('{"accuracy": 0.5}')
    done = run_shell(project, f"{sys.executable} synthesize_results.py --parent_dir {tmp_path} > /dev/full")
    message = "error: a file or the output: could not be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, message)
