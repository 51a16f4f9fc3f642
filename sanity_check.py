"""Find silent bugs before the long run: in the data, the net, the loss, the metrics, the hyperparameters.

    python sanity_check.py --model_dir experiments/base_model
    python sanity_check.py --model_dir experiments/x --only leaks,gradients learning_rate=3e-4
    python sanity_check.py --model_dir experiments/x --json > findings.json
    python sanity_check.py --model_dir experiments/x --selftest_resume

Prints PASS, WARN or FAIL for each check, the finding, and what to do about it. Writes nothing into --model_dir. The
exit code is 1 if a check fails. --selftest_resume instead kills a copy of the run again and again, and checks that the
killed copy ends with the same bits as an undisturbed copy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evaluate
import train
import utils
from fiveline import jobs
from fiveline.device import fetch_device, seed_everything
from fiveline.sanity import Finding
from fiveline.tasks import fetch_params

if TYPE_CHECKING:
    import torch

    from fiveline.sanity.context import Context


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory that holds params.json")
    parser.add_argument("--only", default=None, metavar="NAMES", help="run only these checks: leaks,gradients")
    parser.add_argument("--selftest_resume", action="store_true", help="check that a killed run ends in the same bits")
    utils.add_device_flags(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="hyperparameters that override the file's")
    return parser


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script, and return the findings; raise Stop for a mistake, with a message for the user."""
    args = make_parser().parse_args(argv)
    jobs.refuse("sanity_check.py")
    params = fetch_params(Path(args.model_dir), utils.with_data_dir(args.overrides, args.data_dir))

    utils.import_quickly("torch")
    device = fetch_device(args.device, args.disable_cuda)
    if args.selftest_resume:
        from fiveline.sanity.selftest import selftest

        return {"model_dir": args.model_dir, "num_kills": selftest(params, ["--device", str(device)])}
    checks = choose(args.only)
    context = fetch_context(params, device)
    rows = []
    for group, check in checks:
        finding = look(check, context)
        rows.append({"group": group, "check": check.__name__, **vars(finding)})
        advice = f"\n{' ' * 23}-> {finding.advice}" if finding.advice else ""
        print(utils.escaped_lines(f"{finding.status}  {check.__name__:15}  {finding.explanation}{advice}"), flush=True)
    statuses = [row["status"] for row in rows]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in ("PASS", "WARN", "FAIL"))
    print(utils.escaped_lines(f"{counts}; nothing was written to {args.model_dir}"))
    result = {"model_dir": args.model_dir, "findings": rows}
    if "FAIL" in statuses:
        raise utils.with_result(SystemExit(1), result)
    return result


def choose(only: str | None) -> list[tuple[str, Callable[[Context], Finding]]]:
    """Return (group, check) for each check that `only` names, all for None; raise InputError for an unknown name."""
    from fiveline.sanity import data, evaluation, first_steps, hyperparameters, leaks, short_training, tokens

    groups: dict[str, list[Callable[[Context], Finding]]] = {  # in the order in which a person would look
        "the data": [data.input_scale, data.label_counts, leaks.leaks, tokens.visible_answers, data.augmentation],
        "the hyperparameters": [hyperparameters.hyperparameters],
        "the first steps": [
            first_steps.initial_loss,
            first_steps.logits,
            tokens.token_order,
            first_steps.gradients,
            first_steps.zero_grad,
            first_steps.overfit_batch,
        ],
        "a short training": [short_training.baseline, hyperparameters.learning_rate, short_training.labels_fit],
        "the evaluation": [
            evaluation.eval_mode,
            evaluation.own_example,
            evaluation.repeatable,
            evaluation.batch_size,
            evaluation.unscored_labels,
        ],
    }
    known = {check.__name__: (group, check) for group, checks in groups.items() for check in checks}
    names = list(known) if only is None else [name.strip() for name in only.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise utils.InputError(f"--only: unknown check {unknown[0]!r}; there are: {', '.join(known)}")
    return [known[name] for name in names]


def fetch_context(params: utils.Params, device: torch.device) -> Context:
    """Return the run to look at, which is trained and evaluated by the functions of train.py and evaluate.py."""
    from fiveline.sanity.context import Context

    return Context(params, device, (train.train_step, train.train_step_in_pieces), evaluate.evaluate)


def look(check: Callable[[Context], Finding], context: Context) -> Finding:
    """Make one check. The random numbers do not depend on earlier checks; an exception is a failure of the check."""
    seed_everything(context.params.seed)
    try:
        return check(context)
    except Exception as error:
        reason = str(utils.explain(error) or error).strip().partition("\n")[0]
        advice = "train.py may stop there as well; its traceback names the line"
        return Finding("FAIL", f"stopped by {type(error).__name__}: {reason}", advice)


if __name__ == "__main__":
    utils.run_script(main)
