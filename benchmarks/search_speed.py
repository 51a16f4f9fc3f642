"""Compare how long a study takes with the same trials run by CS230's way of searching, and by Optuna.

    python -m benchmarks.search_speed
    python -m benchmarks.search_speed --model_dir experiments/signs --data_dir data/64x64_SIGNS --trials 16

The trials are learning rates of one experiment. Two run at once, on one thread each; with CS230's search, which starts
a new process for each trial, one after the other on all threads. Each search is a whole process. A trial of the others
is the plain loop of benchmarks/peers.py. Every search leaves a checkpoint of each trial. Works in temporary folders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch

import utils
from benchmarks.peers import Problem, benchmark_values, plain, run_with, score
from benchmarks.timing import PROJECT, new_parser, print_ratios, run_python, take_turns
from fiveline.tasks import fetch_params

NUM_WORKERS = 2
Rates = list[float]


def run_trial(rates: Rates, params: utils.Params, folder: Path) -> float:
    """Train with the plain loop at the first of the learning rates; return the accuracy on val."""
    params = type(params).from_values({**params.explicit_values(), "learning_rate": rates[0]}, "benchmark")
    trial_dir = folder / str(rates[0])
    trial_dir.mkdir()
    problem = Problem(params, trial_dir)
    plain(problem)
    return score(problem.model, problem.val)


def search_as_cs230(rates: Rates, params: utils.Params, folder: Path) -> None:
    """Run one trial after the other, each in a new process."""
    for rate in rates:
        run_python("-m", "benchmarks.search_speed", "--run", "trial", "--rates", str(rate), "--model_dir", str(folder))


def search_with_optuna(rates: Rates, params: utils.Params, folder: Path) -> None:
    """Search with Optuna: two threads of one process."""
    torch.set_num_threads(1)
    sampler = optuna.samplers.GridSampler({"learning_rate": rates}, seed=230)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(
        lambda trial: run_trial([trial.suggest_categorical("learning_rate", rates)], params, folder),
        n_trials=len(rates),
        n_jobs=NUM_WORKERS,
    )


SEARCHES: dict[str, Callable[[Rates, utils.Params, Path], Any]] = {
    "cs230": search_as_cs230, "optuna": search_with_optuna, "trial": run_trial
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, or one of the searches that it times."""
    parser = new_parser(__doc__, rounds=3)
    parser.add_argument("--model_dir", type=Path, default="experiments/base_model", help="of a task with classes")
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--num_epochs", type=int, default=2, help="epochs of each trial")
    parser.add_argument("--trials", type=int, default=8, help="number of trials")
    parser.add_argument("--run", choices=SEARCHES, help="run one search, in --model_dir, and time nothing")
    parser.add_argument("--rates", type=float, nargs="+", help="with --run: the learning rates")
    args = parser.parse_args(argv)
    params = fetch_params(PROJECT / args.model_dir, utils.with_data_dir([], args.data_dir))
    if args.run:
        SEARCHES[args.run](args.rates, params, args.model_dir)
        return
    values = benchmark_values(params, args.num_epochs)
    rates = [f"{10 ** (-4 + 2 * i / max(1, args.trials - 1)):.3g}" for i in range(args.trials)]
    words = ["search_hyperparams.py", "--space", f"learning_rate={','.join(rates)}", "--num_parallel", str(NUM_WORKERS)]
    actions = {
        "CS230's search": lambda: run_with(
            values, "-m", "benchmarks.search_speed", "--run", "cs230", "--rates", *rates
        ),
        "Optuna": lambda: run_with(values, "-m", "benchmarks.search_speed", "--run", "optuna", "--rates", *rates),
        "ours": lambda: run_with(values, *words, flag="--parent_dir"),
    }
    print_ratios(f"{args.trials} trials", take_turns(actions, args.rounds))


if __name__ == "__main__":
    main()
