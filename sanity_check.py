"""Find the silent bugs before the long run: in the data, the net, the loss, the metrics, the hyperparameters.

    python sanity_check.py --model_dir experiments/base_model
    python sanity_check.py --model_dir experiments/x --only leaks,gradients learning_rate=3e-4
    python sanity_check.py --model_dir experiments/x --json > findings.json

Says of each check PASS, WARN or FAIL, what it saw and what to do about it. Reads what train.py would read, begins as it
would begin, and writes nothing into --model_dir. Exit code 1 where something fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import utils
from fiveline import jobs
from fiveline.device import fetch_device, seed_everything, tune_cpu
from fiveline.tasks import fetch_params

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fiveline.sanity.context import Context, Finding

WIDTH = 15  # of the names of the checks


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory that holds params.json")
    parser.add_argument("--only", default=None, metavar="NAMES", help="these checks: leaks,gradients for example")
    parser.add_argument("--json", action="store_true", help="print the findings, with their numbers, as JSON")
    parser.add_argument("--disable-cuda", action="store_true", help="compute on the CPU although there is a GPU")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, mps; default: cuda where there is one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="hyperparameters that beat the file's")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the script.

    Raises:
        Stop: for a reason that is told in its message
    """
    args = make_parser().parse_args(argv)
    jobs.refuse("sanity_check.py")
    params = fetch_params(Path(args.model_dir), utils.with_data_dir(args.overrides, args.data_dir))

    utils.import_quickly("torch")
    from fiveline.torch_private import put_off_dynamo

    put_off_dynamo()
    from fiveline.sanity.context import Context

    checks = choose(args.only)
    start = time.monotonic()
    tune_cpu()  # as in training
    context = Context(params, fetch_device(args.device, args.disable_cuda))
    findings = {}
    for check in checks:
        findings[check.__name__] = finding = look(check, context)
        if not args.json:
            indent = " " * (WIDTH + 6)
            lines = f"{finding.status}  {check.__name__:{WIDTH}}  {finding.explanation}\n{indent}  -> {finding.advice}"
            print(utils.escaped_lines(lines), flush=True)
    if args.json:
        rows = [{"check": name, **vars(finding)} for name, finding in findings.items()]
        print(utils.to_json({"model_dir": args.model_dir, "findings": rows}))
    else:
        counts = [
            f"{sum(f.status == status for f in findings.values())} {status}" for status in ("PASS", "WARN", "FAIL")
        ]
        told = f"{', '.join(counts)} in {time.monotonic() - start:.0f} s; nothing was written to {args.model_dir}"
        print(utils.escaped_lines(told))
    if any(finding.status == "FAIL" for finding in findings.values()):
        sys.exit(1)


def choose(only: str | None) -> Sequence[Callable[[Context], Finding]]:
    """Return the checks to make.

    Args:
        only: their names, with commas between them; None for all

    Raises:
        InputError: there is no such check
    """
    from fiveline.sanity.checks import CHECKS

    known = {check.__name__: check for check in CHECKS}
    names = list(known) if only is None else [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        found = f"unknown check {unknown[0]!r}" if unknown else "no check is named"
        raise utils.InputError(f"--only: {found}; there are: {', '.join(known)}")
    return [known[name] for name in names]


def look(check: Callable[[Context], Finding], context: Context) -> Finding:
    """Make one check, from the same random numbers whatever was checked before.

    A check that stumbles has found something: train.py would stumble as well.
    """
    from fiveline.sanity.context import Finding

    seed_everything(context.params.seed)
    try:
        return check(context)
    except Exception as error:
        reason = str(utils.explain(error) or error).strip().partition("\n")[0]
        told = f"stopped by {type(error).__name__}: {reason}"
        return Finding("FAIL", told, "train.py may stop there as well; its traceback names the line")


if __name__ == "__main__":
    utils.run_script(main)
