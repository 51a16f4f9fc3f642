"""A study: train many runs that differ in some hyperparameters, several at once, and gather them in a table.

    python search_hyperparams.py --parent_dir experiments/learning_rate
    python search_hyperparams.py --parent_dir experiments/mine --space learning_rate=1e-4,1e-3 --space seed=1,2,3
    python search_hyperparams.py --parent_dir experiments/mine --space 'learning_rate={low: 1e-4, high: 0.1, log: true}'
        sampler=tpe num_trials=20 pruner=asha

--parent_dir holds params.json, for all trials, and search.yaml, which states what varies (or --space does). A trial is
a run directory in it, such as `learning_rate_0.001`. Rerun the same command to skip finished trials, continue stopped
ones and retry failed ones. `key=value` sets a setting of search.yaml, or a hyperparameter of all trials.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import synthesize_results
import train
import utils
from fiveline import jobs
from fiveline.study.driver import Driver
from fiveline.study.plan import Plan
from fiveline.study.ray_workers import RayWorkers
from fiveline.study.settings import read_settings, words_for_all_trials
from fiveline.study.trials import Directories, Trial
from fiveline.study.view import View, describe_study, print_cost, print_status, summary
from fiveline.study.workers import LocalWorkers, useful_workers
from fiveline.tasks import fetch_params


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("--parent_dir", default="experiments/learning_rate", help="directory with the base params.json")
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--space", action="append", default=[], metavar="name=value,value", help="what varies")
    parser.add_argument("--num_parallel", type=int, default=None, help="trials at once; default: as many as are useful")
    parser.add_argument("--num_workers", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--dry_run", action="store_true", help="print the trials and estimate their cost; run none")
    parser.add_argument("--status", action="store_true", help="print the progress of the study, also while it runs")
    parser.add_argument("--ray_address", default=None, help="run the trials on a Ray cluster: auto, or HOST:PORT")
    parser.add_argument("--cpus_per_trial", type=int, default=1, help="with Ray: CPUs (threads) per trial; default 1")
    parser.add_argument("--gpus_per_trial", type=float, default=None, help="with Ray: GPUs per trial; default 1 if any")
    parser.add_argument("--array", action="store_true", help="print the trials with their numbers, for a job array")
    parser.add_argument("--index", type=int, default=None, help="run the trial with this number in this process")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override search.yaml and params.json")
    return parser


def make_plan(args: argparse.Namespace) -> Plan:
    """Return the plan that the command line describes, with all mistakes refused before anything starts."""
    parent_dir = Path(args.parent_dir)
    base = fetch_params(parent_dir, [word for word in args.overrides if word.startswith("task=")])
    common = words_for_all_trials(args.overrides, type(base))
    base = fetch_params(parent_dir, common)
    others = [word for word in args.overrides if word not in common]
    settings, space = read_settings(parent_dir, base, args.space, others)
    varied = [*space.names, *(["seed"] if settings.seeds else [])]
    if twice := [word for word in common if word.partition("=")[0] in varied]:
        raise utils.InputError(f"{twice[0]}: the study varies it; set it in the space only")
    if args.num_workers is not None:
        logging.warning("- WARNING: --num_workers is called --num_parallel now; the next release refuses the old name")
        args.num_parallel = args.num_workers
    if args.num_parallel is not None and args.num_parallel < 1:
        raise utils.InputError(f"--num_parallel {args.num_parallel}: expected 1 or more")
    if args.ray_address is None and (args.cpus_per_trial, args.gpus_per_trial) != (1, None):
        raise utils.InputError("--cpus_per_trial, --gpus_per_trial: without --ray_address, they have no effect")
    return Plan(Directories(parent_dir, base, space, settings.seeds), settings)


def run_study(plan: Plan, args: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    """Run the trials on this machine, or on a cluster, print the table, and return the trials."""
    if not hasattr(os, "fork"):
        advice = "run it in WSL, or the trials one by one (--array lists them, --index 0 runs the first)"
        raise utils.InputError(f"a study forks its trials, which Windows cannot do; {advice}")
    parent_dir, view = plan.directories.parent_dir, View()
    with utils.RunDirectory(parent_dir):  # two commands must not run the same study at once
        if plan.directories.others:
            view.note(f"{len(plan.directories.others)} runs in {parent_dir} are outside this space; left alone")
        workers: LocalWorkers | RayWorkers
        if args.ray_address is not None:
            cpus, gpus = args.cpus_per_trial, args.gpus_per_trial
            workers = RayWorkers(args.ray_address, args.num_parallel, train.main, words, cpus, gpus)
        else:
            num_parallel = args.num_parallel or useful_workers(plan.num_trials)
            workers = LocalWorkers(num_parallel, plan.directories.base.task, train.main, words)
        driver = Driver(plan, workers, view)
        driver.run()
    try:
        report_end(plan, driver)
    except (utils.Stop, utils.InterruptedRun) as stop:
        raise utils.with_result(stop, describe_study(plan)) from None
    return describe_study(plan)


def report_end(plan: Plan, driver: Driver) -> None:
    """Print the table and the work that is left; raise a Stop if the study is not complete."""
    trials = plan.all_trials()
    if any(trial.record() for trial in trials):
        with contextlib.suppress(SystemExit):  # files of other runs that cannot be read: it has listed them
            synthesize_results.main(["--parent_dir", str(plan.directories.parent_dir), "--html"])
    if driver.signal or driver.is_out_of_time:
        print(summary([trial.status() for trial in trials], plan.num_trials))
    if driver.signal:
        raise utils.InterruptedRun("the study was interrupted; rerun the same command to continue", driver.signal)
    if driver.is_out_of_time:
        print(f"Reached max_hours ({plan.settings.max_hours:g}). Rerun the same command to continue.")
    if plan.is_exhausted:
        print(f"the space has only {len(plan.trials)} different trials; all of them are done")
    if driver.failed:
        lines = "".join(f"\n  {name}: {reason}" for name, reason in driver.failed.items())
        num_failed = f"{len(driver.failed)} of {plan.num_trials} trials failed"
        raise utils.Stop(f"{num_failed}; rerun the same command to retry them{lines}")
    if driver.elsewhere:
        found = f"{len(driver.elsewhere)} of {plan.num_trials} trials still run elsewhere"
        raise utils.InUseError(f"{found} ({', '.join(driver.elsewhere)}); rerun the same command when they have ended")


def listed(plan: Plan) -> list[Trial]:
    """Return the trials of a plan that is known in advance: a sampler that learns has to see results first."""
    if plan.settings.sampler not in ("grid", "random"):
        advice = "a job array needs trials that are known in advance; use sampler=random or grid, or --ray_address"
        raise utils.InputError(f"sampler {plan.settings.sampler}: {advice}")
    while plan.propose():
        pass
    return plan.all_trials()


def print_array(trials: list[Trial], words: list[str]) -> None:
    """Print the trials with their numbers, and the command for a SLURM job array."""
    for index, trial in enumerate(trials):
        print(index, utils.escaped(trial.name))
    given = shlex.join(["python", Path(__file__).name, *(word for word in words if word != "--array")])
    command = f"{given} --index $SLURM_ARRAY_TASK_ID"
    print(f"for SLURM: sbatch --array=0-{len(trials) - 1} --wrap {shlex.quote(command)}", file=sys.stderr)


def run_one(trials: list[Trial], index: int, words: list[str]) -> dict[str, Any]:
    """Run one trial in this process, for a job array with one trial in each job."""
    if not 0 <= index < len(trials):
        raise utils.InputError(f"--index {index}: the study has trials 0 to {len(trials) - 1}; --array lists them")
    trials[index].make()
    sys.argv = [str(train.__file__), "--model_dir", str(trials[index].path), *words]
    return train.main() or {}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script, and return the trials."""
    args = make_parser().parse_args(argv)
    jobs.refuse("search_hyperparams.py")
    words = ["--data_dir", args.data_dir] if args.data_dir else []
    plan = make_plan(args)
    if args.status:
        print_status(plan)
    elif args.dry_run:
        cost = print_cost(plan, args.num_parallel or useful_workers(plan.num_trials), words)
        return {**describe_study(plan), "cost": cost}
    elif args.array:
        print_array(listed(plan), sys.argv[1:] if argv is None else argv)
    elif args.index is not None:
        return run_one(listed(plan), args.index, words)
    else:
        return run_study(plan, args, words)
    return describe_study(plan)


if __name__ == "__main__":
    utils.run_script(main)
