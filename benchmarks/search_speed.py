"""Compare how long a study takes with the same trials run by CS230's way of searching, by Ray Tune and by Optuna.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.search_speed
    python -m benchmarks.search_speed --model_dir experiments/signs --data_dir data/64x64_SIGNS --trials 16

The trials are learning rates of one experiment. Two run at once, on one thread each; with CS230's search, which starts
a new process for each trial, one after the other on two threads. Each search is a whole process. The trials of the
others are the plain loop of benchmarks/peers.py, as the documentation of Ray Tune and Optuna shows it. Every search
leaves a checkpoint of each trial. Works in temporary folders.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import utils
from benchmarks import peers
from benchmarks.timing import PROJECT, new_parser, print_ratios, run_python, take_turns
from fiveline.tasks import fetch_params

NUM_WORKERS = 2
Rates = list[float]


def run_trial(rate: float, params: utils.Params, folder: Path, report: Callable[[float], None] | None = None) -> float:
    """Train with the plain loop; return the accuracy on val.

    Args:
        rate: the learning rate
        params: of all trials
        folder: for the checkpoint
        report: is given the accuracy after each epoch
    """
    params = type(params).from_values({**params.explicit_values(), "learning_rate": rate}, "benchmark")
    folder.mkdir(parents=True, exist_ok=True)
    problem = peers.Problem(params, folder)
    peers.plain(problem, report)
    return peers.score(problem.model, problem.val)


def search_as_cs230(rates: Rates, params: utils.Params, folder: Path) -> None:
    """Run one trial after the other, each in a new process."""
    for rate in rates:
        run_python("-m", "benchmarks.search_speed", "--run", "trial", "--model_dir", str(folder), "--rates", str(rate))


def search_with_ray(rates: Rates, params: utils.Params, folder: Path) -> None:
    """Search with Ray Tune: a process for each trial, two at once."""
    ray, tune = importlib.import_module("ray"), importlib.import_module("ray.tune")

    def trial(config: dict[str, float]) -> None:
        rate = config["learning_rate"]
        run_trial(rate, params, folder / str(rate), lambda accuracy: tune.report({"accuracy": accuracy}))

    ray.init(address="local", num_cpus=NUM_WORKERS)  # never a cluster that happens to run here
    results = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        tune_config=tune.TuneConfig(metric="accuracy", mode="max"),
        run_config=tune.RunConfig(name="trials", storage_path=str(folder)),
        param_space={"learning_rate": tune.grid_search(rates)},
    ).fit()
    assert len(results) == len(rates) and not results.errors, results.errors


def search_with_optuna(rates: Rates, params: utils.Params, folder: Path) -> None:
    """Search with Optuna: two threads of one process."""
    import optuna

    torch.set_num_threads(1)

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_categorical("learning_rate", rates)
        return run_trial(rate, params, folder / str(rate))

    sampler = optuna.samplers.GridSampler({"learning_rate": rates}, seed=230)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=len(rates), n_jobs=NUM_WORKERS)
    assert len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == len(rates)


SEARCHES: dict[str, Callable[[Rates, utils.Params, Path], Any]] = {
    "cs230": search_as_cs230,
    "ray": search_with_ray,
    "optuna": search_with_optuna,
    "trial": lambda rates, params, folder: run_trial(rates[0], params, folder / str(rates[0])),
}


def search_with_ours(rates: Rates, folder: Path) -> None:
    """Search with search_hyperparams.py."""
    space = f"learning_rate={','.join(map(str, rates))}"
    words = ["--parent_dir", str(folder), "--space", space, "--num_workers", str(NUM_WORKERS)]
    run_python("search_hyperparams.py", *words)
    assert len(list(folder.glob("*/best.pth.tar"))) == len(rates)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, or one of the searches that it times."""
    parser = new_parser(__doc__, rounds=3)
    parser.add_argument("--model_dir", type=Path, default="experiments/base_model", help="of a task with classes")
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--num_epochs", type=int, default=2)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--peers", nargs="+", choices=["cs230", "ray", "optuna"], default=["cs230", "ray", "optuna"])
    parser.add_argument("--run", choices=SEARCHES, help="run one search and time nothing")
    parser.add_argument("--rates", type=float, nargs="+", help="with --run: the learning rates")
    args = parser.parse_args(argv)
    params = fetch_params(PROJECT / args.model_dir, utils.with_data_dir([], args.data_dir))
    if args.run:
        SEARCHES[args.run](args.rates, params, args.model_dir)
        return
    rates = [float(f"{10 ** (-4 + 2 * i / max(1, args.trials - 1)):.3g}") for i in range(args.trials)]
    values = {**params.explicit_values(), **peers.SETTINGS, "num_epochs": args.num_epochs}
    values["data_dir"] = str(Path(params.data_dir or "").resolve())

    def run(name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            utils.save_dict_to_json(values, Path(folder, "params.json"))
            if name == "ours":
                search_with_ours(rates, Path(folder))
                return
            words = ["--run", name, "--model_dir", folder, "--rates", *map(str, rates)]
            run_python("-m", "benchmarks.search_speed", *words, PYTHONPATH=str(PROJECT))  # for Ray's processes

    missing = peers.not_installed(args.peers)
    names = [*(name for name in args.peers if name not in missing), "ours"]
    actions = {name: lambda name=name: run(name) for name in names}
    print_ratios(f"{args.trials} trials", take_turns(actions, args.rounds))


if __name__ == "__main__":
    main()
