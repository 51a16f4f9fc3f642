"""What run_script prints, and where: one JSON document with --json, else the log and the errors; signals in a run."""

import json
import os
import signal
import subprocess
import sys

import pytest

from fiveline.record.script import Signals
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


def run(body, *words):
    command = [sys.executable, "-c", SCRIPT.replace("BODY", body), *words]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PROJECT)}, text=True, capture_output=True)


def error(kind, message, **more):
    return {"error": {"type": kind, "message": message}, **more}


@pytest.mark.parametrize(
    ("body", "code", "expected"),
    [
        ("return {'loss': float('nan'), 'name': os.fsdecode(b'\\xff')}", 0, {"loss": None, "name": "\udcff"}),
        ("raise DivergedError('nan')", 3, error("DivergedError", "nan")),
        ("raise with_result(SystemExit(1), {'found': 3})", 1, {"found": 3}),
        ("raise with_result(InputError('no\\nsuch'), {'n': 1})", 2, error("InputError", "no\nsuch", n=1)),
        ("{}['key']", 1, error("KeyError", "'key'")),
        (
            "os.kill(os.getpid(), signal.SIGTERM)",
            128 + signal.SIGTERM,
            error("InterruptedRun", "interrupted by SIGTERM; rerun the same command to continue"),
        ),
        ("new_parser(None).parse_args(['--help'])", 0, {}),
        (
            "new_parser(None).parse_args(['--not_there'])",
            2,
            error("InputError", "unrecognized arguments: --not_there; --help lists the flags"),
        ),
    ],
)
def test_standard_output_holds_one_document_and_nothing_else(body, code, expected):
    done = run(body, "--json")
    assert done.returncode == code and json.loads(done.stdout) == {"version": 1, **expected, "exit_code": code}
    assert sorted(done.stderr.splitlines()[:3]) == PRINTED
    assert ("Traceback" in done.stderr) == ("KeyError" in done.stdout)


def test_the_log_goes_to_standard_output_and_errors_to_standard_error(tmp_path):
    body = f"set_logger({str(tmp_path / 'log')!r}); logging.info('one'); logging.error('two'); logging.info('three')"
    done = run(body)
    assert done.stdout.splitlines()[3:] == ["one", "three"] and done.stderr == "two\n"
    assert len((tmp_path / "log").read_text().splitlines()) == 3
    done = run(body.replace("logging.error", "logging.warning") + "; return {}", "--json")
    assert json.loads(done.stdout) and done.stderr.splitlines()[3:] == ["one", "two", "three"]


@pytest.mark.slow
@pytest.mark.parametrize(("output", "printed"), [("| true", 0), ("> /dev/full", 1), (">&- 2>&- <&-", 0)])
def test_a_run_goes_on_when_its_output_cannot_be_written(tmp_path, output, printed):
    """As in `train.py | head`, on a full disk, and in a closed terminal: the file has all lines, and the reason is
    printed once at most.
    """
    first = SCRIPT.index("    new_parser")
    lines = f"    time.sleep(0.5)\n    set_logger({str(tmp_path / 'log')!r})\n" + 50 * "    logging.info('line')\n"
    (tmp_path / "script.py").write_text(f"import time\n{SCRIPT[:first]}{lines}run_script(main)\n")
    words = f"set -o pipefail; PYTHONPATH={PROJECT} {sys.executable} {tmp_path / 'script.py'} {output}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    log = (tmp_path / "log").read_text().splitlines()
    assert sum(line.endswith("INFO: line") for line in log) == 50
    assert done.returncode == 0 and done.stderr.count("the output cannot be written") == printed, done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_ctrl_c_in_a_notebook_interrupts_the_cell_and_not_the_kernel():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where no script of ours has set its own
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.received == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
