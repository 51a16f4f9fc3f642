"""Check what the scripts print with --json against the tables of docs/json.md, and that every flag has a help text."""

import argparse
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import sanity_check
from fiveline import new, publish
from tests.support.pages import PROJECT, read
from tests.support.results import write_run
from tests.support.tasks import needs
from utils import read_json

PAGE = PROJECT / "docs/json.md"
KINDS = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "list": list, "map": dict,
}  # fmt: skip
ENVELOPE = "Entries of every document"
SCRIPTS = sorted(path.stem for path in PROJECT.glob("*.py") if "def make_parser(" in read(path))


def tables():
    """Return the tables of the page: heading -> name of an entry -> its type."""
    sections = re.split(r"^##+ (.*)\n", read(PAGE), flags=re.MULTILINE)
    rows = [dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)) for text in sections[2::2]]
    found = dict(zip(sections[1::2], rows, strict=True))
    return {**found, "train.py": {**found["run"], **found["train.py"]}}


TABLES = tables()


def check(value, kind, place):
    """Fail unless a value is of a type as the page writes it."""
    outer, _, inner = kind.partition(" of ")
    if outer.endswith("?") and value is None:
        return
    outer = outer.removesuffix("?")
    if outer in KINDS:
        assert isinstance(value, KINDS[outer]) and (outer == "boolean") == isinstance(value, bool), (place, kind, value)
        for key, each in value.items() if outer == "map" else enumerate(value) if outer == "list" else ():
            check(each, inner, f"{place}.{key}")
    else:
        check_entries(value, TABLES[outer], place)


def check_entries(values, entries, place):
    required = {name for name, kind in entries.items() if not kind.endswith(", optional")}
    assert required <= values.keys() <= entries.keys(), (place, required ^ values.keys())
    for name, value in values.items():
        check(value, entries[name].removesuffix(", optional"), f"{place}.{name}")


def document_of(*words, exit_code=0):
    """Run a script as a process; return its document, after checking the entries that every document has."""
    done = subprocess.run([sys.executable, *map(str, words), "--json"], cwd=PROJECT, capture_output=True, text=True)
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (done.returncode, document["exit_code"], document["version"]) == (exit_code, exit_code, 1), done.stderr
    shared = {name: document.pop(name) for name in TABLES[ENVELOPE] if name in document}
    check_entries(shared, TABLES[ENVELOPE], "document")
    return document, shared.get("error")


@pytest.mark.slow
@needs("vision")
def test_documents_are_as_the_page_describes_them(make_run, tmp_path):
    run, study, empty = make_run("run"), make_run("study"), tmp_path / "empty"
    for name in ("good.png", "broken.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    empty.mkdir()
    of_run, table = ("--model_dir", run), ("synthesize_results.py", "--parent_dir", study)
    search = ("search_hyperparams.py", "--parent_dir", study, "--space", "seed=1,2")
    predict = ("predict.py", *of_run, "--input", tmp_path / "good.png")

    def see(*words, has_error=False, **options):
        document, error = document_of(*words, **options)
        variant = [word for word in words if word in ("--init", "--describe_params", "--compare")]
        kind = "train.py" if "--index" in words else " ".join([words[0], *variant])
        check_entries(document, TABLES[kind], kind)
        assert document and (error is not None) == has_error, words
        return document

    trained = see("train.py", *of_run)
    assert trained["status"] == "finished" and trained["val"] == read_json(run / "metrics_val_best_weights.json")
    assert see("train.py", *of_run) == trained  # it was finished already
    assert see("train.py", "--describe_params")["hyperparameters"][0]["name"] == "task"
    new_run = ("--init", tmp_path / "new", "--data_dir", run.parent / "data")
    assert see("train.py", *new_run)["params"] == read_json(tmp_path / "new/params.json")
    assert see("evaluate.py", *of_run)["metrics"] == read_json(run / "metrics_test_best.json")
    assert see(*search, "--dry_run")["cost"]["num_left"] == 2
    assert [trial["status"] for trial in see(*search, "--array")["trials"]] == ["waiting", "waiting"]
    done = see(*search)
    best = [trial["best"] for trial in done["trials"]]
    assert best == sorted(best, reverse=True) and len(best) == 2 and see(*search, "--status") == done
    assert see(*search, "--dry_run")["cost"] is None and see(*search, "--index", "1")["name"] == "seed_2"
    words = (*search[:-1], "seed=3", "max_retries=0", "--data_dir", empty)
    assert [trial["status"] for trial in see(*words, exit_code=1, has_error=True)["trials"]] == ["failed"]
    runs = see(*table, "--html")["runs"]
    assert sorted(each["name"] for each in runs if each["status"] == "finished") == ["seed_1", "seed_2"]
    see(*table, "--compare", "seed_1", "seed_2")
    for name in ("seed_1", "seed_2"):
        see("evaluate.py", "--model_dir", study / name)
    compared = see(*table, "--compare", "seed_1", "seed_2")
    assert compared["num_examples"] == 16 and any(row["p"] is not None for row in compared["metrics"])
    (study / "seed_1/metrics_val_best_weights.json").write_text("{")
    assert len(see(*table, exit_code=1)["problems"]) == 1
    assert len(see("sanity_check.py", *of_run, "--only", "zero_grad,logits")["findings"]) == 2
    assert see(*predict)["predictions"][0].keys() >= {"id", "prediction", "confidence"}
    assert "error" in see(*predict, tmp_path / "broken.png", exit_code=1, has_error=True)["predictions"][1]
    assert "predictions" not in see(*predict, "--output", tmp_path / "rows.csv")
    assert all(Path(path).exists() for path in see("export.py", *of_run, "--format", "pt2")["files"])


def test_the_selftest_and_the_engines_own_commands_return_what_the_page_says(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("fiveline.sanity.selftest.selftest", lambda params, flags: 5)
    kind = "sanity_check.py --selftest_resume"
    check_entries(sanity_check.main(["--model_dir", str(make_run()), "--selftest_resume"]), TABLES[kind], kind)
    command = new.run
    monkeypatch.setattr(new, "run", lambda folder, *words: "pytest" in words or command(folder, *words))
    words = [str(tmp_path / "mine"), "--task", "my_task", "--like", "tabular"]
    check_entries(new.main(words), TABLES["fiveline.new"], "fiveline.new")
    updated = new.main([words[0], "--update"])
    check_entries(updated, TABLES["fiveline.new"], "fiveline.new")
    assert updated["tasks"] == ["my_task"] and updated["changes"]
    monkeypatch.setitem(publish.TRACKERS, "tensorboard", lambda content: None)
    write_run(tmp_path / "runs", {"learning_rate": 0.1}, val={"accuracy": 0.75})
    published = publish.main([str(tmp_path / "runs"), "--to", "tensorboard"])
    check_entries(published, TABLES["fiveline.publish"], "fiveline.publish")
    assert (published["num_runs"], published["num_new"], published["problems"]) == (1, 1, [])


def test_every_flag_has_a_help_text_and_one_spelling(monkeypatch):
    parsers = {}

    def keep(parser, words):
        parsers[parser.description] = parser
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", keep)
    for command in (*(importlib.import_module(script) for script in SCRIPTS), new, publish):
        with pytest.raises(SystemExit):
            command.main([])
    assert len(parsers) == len(SCRIPTS) + 2
    for parser in parsers.values():
        shown = [each for each in parser._actions if each.help != argparse.SUPPRESS]
        flags = [flag for each in shown for flag in each.option_strings]
        assert all(each.help for each in shown) and "--json" in flags and not any("-" in flag[2:] for flag in flags)
