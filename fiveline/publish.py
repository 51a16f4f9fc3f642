"""Write runs into an experiment tracker, from their directories, during or after training.

    python -m fiveline.publish experiments --to trackio
    python -m fiveline.publish experiments/learning_rate --to mlflow --project digits --watch

A tracker gets each run once: its hyperparameters, its history (one step an epoch), its metrics, and the images in its
directory. Publishing again adds only what is new. `published.json` in a run directory says what a tracker has already.
Where a tracker keeps its data is decided by its own settings (WANDB_MODE=offline, MLFLOW_TRACKING_URI, TRACKIO_DIR);
tensorboard's files are written into the run directories. Training knows nothing of trackers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import utils
from fiveline.report.runs import Run, read_runs

RECORD = "published.json"
PAUSE_SECONDS = 5.0  # between two looks at the directories, with --watch
IMAGES = ("*.png", "*.jpg", "*.svg")

Numbers = dict[str, float]


class Trackio:
    """trackio's conventions: a run has a name, and a continued run is resumed by its name."""

    def __init__(self, project: str, run: Run, run_id: str, is_new: bool) -> None:
        import trackio

        self.trackio = trackio
        name = f"{run.name}-{run_id}"  # another run of the same directory is another run
        self.run = trackio.init(
            project=project, name=name, config=run.params, resume="never" if is_new else "must", embed=False
        )

    def log(self, step: int, numbers: Numbers) -> None:
        self.trackio.log(numbers, step=step)

    def finish(self, metrics: Numbers, images: Sequence[Path]) -> None:
        for path in images:
            self.trackio.log({path.stem: self.trackio.Image(str(path))})
        if metrics:
            self.trackio.log(metrics)
        self.trackio.finish()


class Wandb:
    """wandb's conventions: a history by step, and a summary; a run is resumed by its id."""

    def __init__(self, project: str, run: Run, run_id: str, is_new: bool) -> None:
        import wandb

        self.wandb = wandb
        self.run = wandb.init(
            project=project, id=run_id, name=run.name, config=run.params, resume="allow", dir=run.folder
        )

    def log(self, step: int, numbers: Numbers) -> None:
        self.run.log(numbers, step=step)

    def finish(self, metrics: Numbers, images: Sequence[Path]) -> None:
        for path in images:
            self.run.log({path.stem: self.wandb.Image(str(path))})
        self.run.summary.update(metrics)
        self.run.finish()


class Mlflow:
    """mlflow: an experiment for each project, parameters as texts, metrics by step, images as artifacts."""

    def __init__(self, project: str, run: Run, run_id: str, is_new: bool) -> None:
        import mlflow

        self.client = mlflow.MlflowClient()
        experiment = self.client.get_experiment_by_name(project)
        place = experiment.experiment_id if experiment is not None else self.client.create_experiment(project)
        found = self.client.search_runs([place], f"tags.`fiveline.id` = '{run_id}'")
        if found:
            self.run_id = found[0].info.run_id
        else:
            tags = {"mlflow.runName": run.name, "fiveline.id": run_id}
            self.run_id = self.client.create_run(place, tags=tags).info.run_id
            for name, value in run.params.items():
                self.client.log_param(self.run_id, name, value)

    def log(self, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            self.client.log_metric(self.run_id, name, value, step=step)

    def finish(self, metrics: Numbers, images: Sequence[Path]) -> None:
        for name, value in metrics.items():
            self.client.log_metric(self.run_id, name, value)
        for path in images:
            self.client.log_artifact(self.run_id, str(path), "images")
        self.client.set_terminated(self.run_id)


class Tensorboard:
    """TensorBoard's conventions: scalars by step in the run's directory, and its table of hyperparameters."""

    def __init__(self, project: str, run: Run, run_id: str, is_new: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.params = run.params
        self.writer: Any = SummaryWriter(run.folder)

    def log(self, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, metrics: Numbers, images: Sequence[Path]) -> None:
        plain = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in self.params.items()
        }
        if metrics:
            self.writer.add_hparams(plain, metrics, run_name=".")
        for path in images:
            if path.suffix != ".svg":
                import numpy as np
                from PIL import Image

                self.writer.add_image(path.stem, np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
        self.writer.close()


TRACKERS: dict[str, Any] = {"trackio": Trackio, "wandb": Wandb, "mlflow": Mlflow, "tensorboard": Tensorboard}


def publish(run: Run, to: str, project: str) -> int:
    """Write what a tracker does not have yet of a run, and return the number of new epochs."""
    history = read_history(run.path / "history.jsonl")
    if not history and not run.val:
        return 0
    first = json.dumps(history[0] if history else run.params, sort_keys=True)
    run_id = hashlib.sha256(f"{run.path.resolve()} {first}".encode()).hexdigest()[:16]  # --restart makes another run
    path = run.path / RECORD
    published = utils.read_json(path) if path.exists() else {}
    key = f"{to} {project}"
    old = published.get(key, {})
    is_new = old.get("id") != run_id
    num_old = 0 if is_new else old["epochs"]
    metrics = {
        f"{split}/{name}": value
        for split, each in (("best_val", run.val), ("test", run.test))
        for name, value in each.items()
    }
    images = sorted(image for pattern in IMAGES for image in run.path.glob(pattern))
    state = {"id": run_id, "epochs": len(history), "metrics": metrics, "images": [image.name for image in images]}
    if state == old:
        return 0
    tracker = TRACKERS[to](project, run, run_id, is_new)
    for row in history[num_old:]:
        tracker.log(row["epoch"], numbers_of(row))
    tracker.finish(metrics, [image for image in images if is_new or image.name not in old["images"]])
    utils.save_dict_to_json({**published, key: state}, path)
    return len(history) - num_old


def numbers_of(row: Mapping[str, Any]) -> Numbers:
    """Return the numbers of a line of the history: `train/loss`, `val/accuracy`, ... JSON's null was NaN."""
    values = {f"{split}/{name}": value for split in ("train", "val") for name, value in row[split].items()}
    others = {name: row.get(name) for name in ("learning_rate", "examples_per_second", "seconds")}
    return {name: value for name, value in {**values, **others}.items() if value is not None}


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a history; a line that is being written is left for the next time."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("dir", type=Path, help="a run directory, or a folder of run directories")
    parser.add_argument("--to", required=True, choices=sorted(TRACKERS), help="the tracker")
    parser.add_argument("--project", default=None, help="the project in the tracker; default: the name of the folder")
    parser.add_argument("--watch", action="store_true", help="go on until no run is in training")
    args = parser.parse_args(argv)
    if importlib.util.find_spec(args.to) is None:
        raise utils.InputError(f"--to {args.to}: the package is not installed; pip install {args.to}")
    project = args.project or args.dir.resolve().name
    while True:
        runs, problems = read_runs(args.dir)
        if not runs:
            raise utils.InputError(f"{args.dir}: holds no runs; train one first")
        counts = {run.name: publish(run, args.to, project) for run in runs}
        new = {name: count for name, count in counts.items() if count}
        print(f"{args.to}: {len(runs)} runs, {sum(new.values())} new epochs of {len(new)}", flush=True)
        if not args.watch or not any(run.status == "running" for run in runs):
            break
        time.sleep(PAUSE_SECONDS)
    for line in problems:
        print(f"- not read: {line}")


if __name__ == "__main__":
    utils.run_script(main)
