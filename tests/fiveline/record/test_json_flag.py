"""What run_script prints, and where: one JSON document with --json, else the log and the errors."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.support.tasks import PROJECT

SCRIPT = """
import logging, os, signal, sys
from pathlib import Path
from fiveline.record.errors import DivergedError, InputError, with_result
from fiveline.record.log import set_logger
from fiveline.record.script import new_parser, run_script

def main():
    new_parser(None).parse_args()
    os.system("echo a program")
    os.write(1, b"a library\\n")
    print("a script")
    BODY

run_script(main)
"""
PRINTED = ["a library", "a program", "a script"]


def run(body, *words, **streams):
    command = [sys.executable, "-c", SCRIPT.replace("BODY", body), *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PROJECT)}, text=True, **streams)


@pytest.mark.parametrize(
    ("body", "code", "expected"),
    [
        ("return {'loss': float('nan'), 'name': os.fsdecode(b'\\xff')}", 0, {"loss": None, "name": "\udcff"}),
        ("raise InputError('no\\nsuch')", 2, {"error": {"type": "InputError", "message": "no\nsuch"}}),
        ("raise DivergedError('nan')", 3, {"error": {"type": "DivergedError", "message": "nan"}}),
        ("raise with_result(SystemExit(1), {'found': 3})", 1, {"found": 3}),
        (
            "raise with_result(InputError('no'), {'n': 1})",
            2,
            {"n": 1, "error": {"type": "InputError", "message": "no"}},
        ),
        ("{}['key']", 1, {"error": {"type": "KeyError", "message": "'key'"}}),
        ("os.kill(os.getpid(), signal.SIGTERM)", 128 + signal.SIGTERM, None),
        ("new_parser(None).parse_args(['--help'])", 0, {}),
        (
            "new_parser(None).parse_args(['--not_there'])",
            2,
            {"error": {"type": "InputError", "message": "unrecognized arguments: --not_there; --help lists the flags"}},
        ),
    ],
)
def test_standard_output_holds_one_document_and_nothing_else(body, code, expected):
    done = run(body, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document.pop("exit_code"), document.pop("version")) == (code, code, 1)
    if expected is None:
        assert document["error"]["type"] == "InterruptedRun" and "SIGTERM" in document["error"]["message"]
    else:
        assert document == expected
    assert sorted(done.stderr.splitlines()[:3]) == PRINTED
    assert ("Traceback" in done.stderr) == ("KeyError" in done.stdout)


LOG = "set_logger(Path(PLACE) / 'log'); logging.info('one'); logging.error('two'); logging.info('three')"


def test_the_log_goes_to_standard_output_and_errors_to_standard_error(tmp_path):
    body = LOG.replace("PLACE", repr(str(tmp_path)))
    done = run(body)
    assert done.stdout.splitlines()[3:] == ["one", "three"] and done.stderr == "two\n"
    assert len((tmp_path / "log").read_text().splitlines()) == 3
    done = run(body.replace("logging.error", "logging.warning") + "; return {}", "--json")
    assert json.loads(done.stdout) and done.stderr.splitlines()[3:] == ["one", "two", "three"]


@pytest.mark.slow
@pytest.mark.parametrize(("output", "code", "printed"), [("| true", 0, 0), ("> /dev/full", 0, 1)])
def test_a_run_goes_on_when_its_output_cannot_be_written(tmp_path, output, code, printed):
    """As in `train.py | head`, and on a full disk: the file has all lines, and the reason is printed once at most."""
    first = SCRIPT.index("    new_parser")
    lines = (
        f"    time.sleep(0.5)\n    set_logger(Path({str(tmp_path)!r}) / 'log')\n" + 50 * "    logging.info('line')\n"
    )
    (tmp_path / "script.py").write_text(f"import time\n{SCRIPT[:first]}{lines}run_script(main)\n")
    words = f"set -o pipefail; PYTHONPATH={PROJECT} {sys.executable} {tmp_path / 'script.py'} {output}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    log = (tmp_path / "log").read_text().splitlines()
    assert sum(line.endswith("INFO: line") for line in log) == 50
    assert done.returncode == code and done.stderr.count("the output cannot be written") == printed, done.stderr
    assert "Traceback" not in done.stderr
