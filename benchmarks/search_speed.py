"""How long a study takes, next to the same trials with CS230's search, Ray Tune and Optuna.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.search_speed --data_dir data/64x64_SIGNS
    python -m benchmarks.search_speed --data_dir data/64x64_SIGNS --cs230_dir cs230-code-examples/pytorch/vision

16 learning rates, 2 epochs of CS230's net on SIGNS, two at once (CS230's: one after the other). Each search is a
command, timed from outside, the interpreter's start included; the searches take turns. CS230's is its own code, with
nothing changed but the learning rates and the number of epochs, if --cs230_dir holds it; else a loop that works as its
does. For Ray Tune and Optuna a trial is a function with a plain training loop, as their documentation shows it. Every
search leaves a checkpoint of each trial. Exit code 1 if ours takes more than 0.35 of the time of CS230's, is behind Ray
Tune or Optuna, or takes more than 1.15 times half of what its trials spend in their epochs.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate

import utils

PROJECT = Path(__file__).resolve().parent.parent
MOST_OF_CS230, MOST_OF_TRAINING = 0.35, 1.15
NUM_EPOCHS, BATCH_SIZE, NUM_WORKERS = 2, 32, 2
CLASSES = ["0", "1", "2", "3", "4", "5"]
PACKAGES = {"ray": "ray", "optuna": "optuna"}  # search -> what has to be installed
CS230_RATES = "learning_rates = [1e-4, 1e-3, 1e-2]"  # the line of its search that is replaced


def learning_rates(num_trials: int) -> list[float]:
    """Return so many, evenly spread over the range that CS230 searches."""
    return [float(f"{10 ** (-4 + 2 * i / max(1, num_trials - 1)):.3g}") for i in range(num_trials)]


def fetch_batches(split: str, data_dir: Path, num_workers: int) -> Any:
    """Return batches as CS230 makes them: an image is opened whenever it is needed."""
    import torch
    from PIL import Image
    from torchvision import transforms

    is_train = split == "train"
    flip = [transforms.RandomHorizontalFlip()] if is_train else []
    transform = transforms.Compose([transforms.Resize(64), *flip, transforms.ToTensor()])
    paths = sorted((data_dir / f"{split}_signs").glob("*.jpg"))

    class Signs(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return transform(Image.open(paths[index])), int(paths[index].name[0])

    return torch.utils.data.DataLoader(Signs(), BATCH_SIZE, shuffle=is_train, num_workers=num_workers)


def train_plainly(
    learning_rate: float, data_dir: Path, num_workers: int, report: Callable[[float, dict[str, Any]], None]
) -> float:
    """Train CS230's net with a loop as CS230's, and return the accuracy on val.

    Args:
        learning_rate: of Adam
        data_dir: SIGNS
        num_workers: processes that load images
        report: is given the accuracy and the state after each epoch
    """
    import torch

    from model.vision import net
    from model.vision.params import Params

    torch.manual_seed(230)
    params = Params.from_values({"learning_rate": learning_rate}, "benchmark").with_facts({"classes": CLASSES})
    train_batches, val_batches = (fetch_batches(split, data_dir, num_workers) for split in ("train", "val"))
    model = net.Net(params)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    accuracy = 0.0
    for epoch in range(NUM_EPOCHS):
        model.train()
        total = 0.0
        for images, labels in train_batches:
            loss = net.loss_fn(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        model.eval()
        with torch.no_grad():
            hits = [(model(images).argmax(dim=1) == labels).float() for images, labels in val_batches]
        accuracy = torch.cat(hits).mean().item()
        state = {"epoch": epoch + 1, "state_dict": model.state_dict(), "optim_dict": optimizer.state_dict()}
        report(accuracy, state)
    return accuracy


def run_ray(rates: list[float], data_dir: Path, folder: Path) -> None:
    """Search with Ray Tune: a process for each trial, two at once."""
    import torch

    ray, tune = importlib.import_module("ray"), importlib.import_module("ray.tune")

    def train_signs(config: dict[str, float]) -> None:
        def report(accuracy: float, state: dict[str, Any]) -> None:
            with tempfile.TemporaryDirectory() as name:
                torch.save(state, Path(name) / "model.pt")
                tune.report({"accuracy": accuracy}, checkpoint=tune.Checkpoint.from_directory(name))

        train_plainly(config["learning_rate"], data_dir, 0, report)

    ray.init(address="local", num_cpus=NUM_WORKERS)  # never a cluster that happens to run here
    tuner = tune.Tuner(
        tune.with_resources(train_signs, {"cpu": 1}),
        tune_config=tune.TuneConfig(metric="accuracy", mode="max"),
        run_config=tune.RunConfig(name="signs", storage_path=str(folder)),
        param_space={"learning_rate": tune.grid_search(rates)},
    )
    results = tuner.fit()
    assert len(results) == len(rates) and not results.errors, results.errors
    print(results.get_best_result().config)


def run_optuna(rates: list[float], data_dir: Path, folder: Path) -> None:
    """Search with Optuna: two threads of one process."""
    import optuna
    import torch

    torch.set_num_threads(1)

    def objective(trial: optuna.Trial) -> float:
        learning_rate = trial.suggest_float("learning_rate", min(rates), max(rates), log=True)

        def report(accuracy: float, state: dict[str, Any]) -> None:
            torch.save(state, folder / f"{trial.number}.pt")
            trial.report(accuracy, state["epoch"])

        return train_plainly(learning_rate, data_dir, 0, report)

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.GridSampler({"learning_rate": rates}, seed=230)
    )
    study.optimize(objective, n_trials=len(rates), n_jobs=NUM_WORKERS)
    assert len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == len(rates)
    print(study.best_params)


def run_as_cs230(rates: list[float], data_dir: Path, folder: Path) -> None:
    """Search as CS230 does: one trial after the other, each a new process."""
    for rate in rates:
        path = folder / f"learning_rate_{rate}"
        path.mkdir()
        subprocess.run([*_this("trial", data_dir, path), "--rates", str(rate)], check=True)


def run_trial(rates: list[float], data_dir: Path, folder: Path) -> None:
    """Train as CS230's train.py does, with four processes that load images."""
    import torch

    best = 0.0

    def report(accuracy: float, state: dict[str, Any]) -> None:
        nonlocal best
        torch.save(state, folder / "last.pth.tar")
        if accuracy >= best:
            best = accuracy
            shutil.copyfile(folder / "last.pth.tar", folder / "best.pth.tar")

    train_plainly(rates[0], data_dir, 4, report)


SEARCHES = {"ray": run_ray, "optuna": run_optuna, "cs230": run_as_cs230, "trial": run_trial}
TITLES = {"ours": "ours", "cs230": "CS230's search", "ray": "Ray Tune, 2 workers", "optuna": "Optuna, n_jobs=2"}


def _this(search: str, data_dir: Path, folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "benchmarks.search_speed", "--data_dir", str(data_dir), "--run", search, str(folder)
    ]  # fmt: skip


def command_for(search: str, args: argparse.Namespace, rates: list[float], folder: Path) -> tuple[list[str], Path]:
    """Return a search's command line and the folder to run it in, with what it needs put into its own folder."""
    data_dir, words = Path(args.data_dir).resolve(), ",".join(map(str, rates))
    if search == "ours":
        utils.save_dict_to_json({"num_epochs": NUM_EPOCHS, "batch_size": BATCH_SIZE}, folder / "params.json")
        return [
            sys.executable, "search_hyperparams.py", "--parent_dir", str(folder), "--data_dir", str(data_dir),
            "--space", f"learning_rate={words}", "--num_workers", str(NUM_WORKERS),
        ], PROJECT  # fmt: skip
    if search == "cs230" and args.cs230_dir:
        code = folder / "code"
        shutil.copytree(args.cs230_dir, code)
        script = (code / "search_hyperparams.py").read_text(encoding="utf-8")
        if CS230_RATES not in script:
            raise utils.InputError(f"{args.cs230_dir}/search_hyperparams.py: expected the line {CS230_RATES!r} in it")
        (code / "search_hyperparams.py").write_text(script.replace(CS230_RATES, f"learning_rates = {rates}"), "utf-8")
        path = code / "experiments" / "learning_rate" / "params.json"
        params = json.loads(path.read_text(encoding="utf-8")) | {"num_epochs": NUM_EPOCHS, "batch_size": BATCH_SIZE}
        path.write_text(json.dumps(params), encoding="utf-8")
        return [sys.executable, "search_hyperparams.py", "--data_dir", str(data_dir)], code
    return [*_this(search, data_dir, folder), "--rates", words], PROJECT


def time_search(search: str, args: argparse.Namespace, rates: list[float]) -> tuple[float, float]:
    """Run a search in a folder of its own; return its seconds, and those that its trials spent in epochs, if ours.

    Raises:
        Stop: it failed
    """
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        command, directory = command_for(search, args, rates, Path(name))
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        environment["PYTHONPATH"] = str(PROJECT) if directory == PROJECT else ""  # Ray's processes need it
        start = time.perf_counter()
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise utils.Stop(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        rows = [row for path in Path(name).glob("*/history.jsonl") for row in utils.read_lines(path)]
        if search == "ours" and len(rows) != len(rates) * NUM_EPOCHS:
            raise utils.Stop(f"expected {len(rates)} trials of {NUM_EPOCHS} epochs, found {len(rows)} epochs")
        return seconds, sum(row["seconds"] for row in rows)


def measure(args: argparse.Namespace) -> bool:
    """Let the searches take turns, print the table, and return whether all is as it should be."""
    rates = learning_rates(args.trials)
    searches = list(dict.fromkeys(["ours", *args.peers.split(",")]))
    unknown = [search for search in searches if search not in TITLES]
    if unknown or args.trials < 1 or args.rounds < 1:
        raise utils.InputError(
            f"--peers {args.peers} --trials {args.trials} --rounds {args.rounds}: expected peers among "
            f"{', '.join(name for name in TITLES if name != 'ours')}, and 1 or more trials and rounds"
        )
    missing = [each for each in searches if each in PACKAGES and not importlib.util.find_spec(PACKAGES[each])]
    times: dict[str, list[float]] = {search: [] for search in searches if search not in missing}
    training = []
    for _ in range(args.rounds):
        for search in random.sample(list(times), len(times)):
            whole, in_epochs = time_search(search, args, rates)
            times[search].append(whole)
            print(f"{search}: {whole:.1f} s", file=sys.stderr, flush=True)
            if search == "ours":
                training.append(in_epochs / NUM_WORKERS)
    seconds = {search: statistics.median(values) for search, values in times.items()}
    seconds["half"] = statistics.median(training)
    ratios = {search: seconds["ours"] / value for search, value in seconds.items()}
    titles = {**TITLES, "half": "half of the time in our trials' epochs"}
    if args.cs230_dir is None:
        titles["cs230"] = "a search that works as CS230's"
    rows = [[titles[search], f"{value:.1f}", f"{ratios[search]:.2f}"] for search, value in seconds.items()]
    rows += [[titles[search], "not installed (benchmarks/requirements.txt)", ""] for search in missing]
    print(tabulate(rows, headers=[f"{args.trials} trials", "seconds", "ours / it"], disable_numparse=True))
    limits = {"cs230": MOST_OF_CS230, "ray": 1.0, "optuna": 1.0, "half": MOST_OF_TRAINING}
    return all(ratios[search] <= limit for search, limit in limits.items() if search in ratios)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, or one of the searches that it times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/64x64_SIGNS", help="SIGNS, as CS230's build_dataset.py leaves it")
    parser.add_argument("--cs230_dir", default=None, help="a copy of cs230-code-examples/pytorch/vision")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1, help="each search runs so often; the median counts")
    parser.add_argument("--peers", default="cs230,ray,optuna", help="that ours is compared with")
    parser.add_argument("--folder", default=None, help="where the trials are kept meanwhile; default: the system's")
    parser.add_argument("--run", nargs=2, metavar=("SEARCH", "FOLDER"), help="run one search and time nothing")
    parser.add_argument("--rates", help="of that search")
    args = parser.parse_args(argv)
    if args.run:
        SEARCHES[args.run[0]]([float(word) for word in args.rates.split(",")], Path(args.data_dir), Path(args.run[1]))
    elif not measure(args):
        sys.exit(1)


if __name__ == "__main__":
    utils.run_script(main)
