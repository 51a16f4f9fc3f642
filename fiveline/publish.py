"""Write runs into an experiment tracker, from their directories, during or after training.

    python -m fiveline.publish experiments --to trackio
    python -m fiveline.publish experiments/learning_rate --to mlflow --project digits --watch

A tracker gets each run's hyperparameters, history (one step per epoch), metrics, and pictures of its worst mistakes on
test. Publishing again adds only new entries. Writes `published.json` into each run directory. docs/trackers.md says
where each tracker keeps its data. Training itself needs no tracker.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib.util
import io
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import utils
from fiveline.report.predictions import PREDICTIONS, read_details
from fiveline.report.runs import Run, is_number, read_history, read_runs

RECORD = "published.json"
SUFFIX = ".published"  # ends the names of our events for TensorBoard; other events are not removed


class Content(NamedTuple):
    """The part of a run that a tracker gets."""

    project: str
    group: str | None  # the folder of the run within the published one, such as the study of a trial
    run: Run
    id: str
    num_published: int  # epochs that the tracker has, as published.json says
    epochs: list[dict[str, Any]]  # `epoch`, from 1, and numbers such as `train/loss`
    metrics: dict[str, float]  # scores of the best weights: `best_val/accuracy`, `test/accuracy`, ...
    pictures: dict[str, tuple[str, Any]]  # name -> caption, PIL image


def to_trackio(new: Content) -> None:
    """Find the run by its name; log metrics and pictures at the last epoch."""
    import trackio

    name, known = f"{new.run.name} {new.id[:6]}", dict[str, Any]()
    options: dict[str, Any] = {"resume": "allow", "embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    run = trackio.init(new.project, name, new.group, config=new.run.params, **options)
    for logged in trackio.SQLiteStorage.get_logs(new.project, name):  # none if another machine keeps the data
        known |= logged
    for row in new.epochs:
        if row["epoch"] > known.get("epoch", new.num_published):
            run.log(row, step=row["epoch"])
    more: dict[str, Any] = {name: value for name, value in new.metrics.items() if known.get(name) != value}
    for name, (caption, picture) in new.pictures.items():
        if known.get(name, {}).get("caption") != caption:
            more[name] = trackio.Image(picture, caption)
    if more:
        run.log(more, step=len(new.epochs))
    trackio.finish()


def to_wandb(new: Content) -> None:
    """Find the run by its id; metrics and pictures are its summary. Offline, a folder with the whole run is written."""
    import wandb

    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, reinit="finish_previous")
    options: dict[str, Any] = {"resume": "allow", "settings": settings}
    run = wandb.init(project=new.project, id=new.id, name=new.run.name, group=new.group, **options)
    run.config.update(new.run.params, allow_val_change=True)
    for row in new.epochs:
        if run.offline or row["epoch"] >= run.starting_step:
            run.log(row, step=row["epoch"])
    images = {name: wandb.Image(picture, caption=caption) for name, (caption, picture) in new.pictures.items()}
    run.summary.update({**new.metrics, **images})
    run.finish(exit_code=int(new.run.status in ("diverged", "failed")))
    folder = Path(run.dir).parent
    for path in folder.parent.glob(f"offline-run-*-{new.id}"):
        if path != folder:
            shutil.rmtree(path)


def to_mlflow(new: Content) -> None:
    """Find the run by its tag `fiveline.id`, in the experiment of the project's name; pictures are artifacts."""
    import mlflow

    client, tags = mlflow.MlflowClient(), {"fiveline.id": new.id}
    experiment = client.get_experiment_by_name(new.project)
    place = experiment.experiment_id if experiment is not None else client.create_experiment(new.project)
    found = client.search_runs([place], f"tags.`fiveline.id` = '{new.id}'")
    run = found[0] if found else client.create_run(place, tags=tags, run_name=new.run.name)
    known, run_id, now = run.data.metrics, run.info.run_id, int(1000 * time.time())
    for name in new.run.params.keys() - run.data.params.keys():  # mlflow refuses to change one
        client.log_param(run_id, name, new.run.params[name])
    later = [row for row in new.epochs if row["epoch"] > known.get("epoch", 0)]
    for row in [*later, {name: value for name, value in new.metrics.items() if known.get(name) != value}]:
        epoch = row.get("epoch", len(new.epochs))
        client.log_batch(run_id, [mlflow.entities.Metric(name, value, now, epoch) for name, value in row.items()])
    for name, (_, picture) in new.pictures.items():
        client.log_image(run_id, picture, artifact_file=f"{name}.png")
    if new.pictures:
        client.log_dict(run_id, {name: new.pictures[name][0] for name in new.pictures}, "mistakes/captions.json")
    ends = {"running": "RUNNING", "diverged": "FAILED", "failed": "FAILED", "interrupted": "KILLED", "stale": "KILLED"}
    client.set_terminated(run_id, ends.get(new.run.status, "FINISHED"))


def to_tensorboard(new: Content) -> None:
    """Write all events again, into the run directory, with the table of hyperparameters."""
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    def tag(name: str) -> str:  # loss/train, so that TensorBoard shows it beside loss/val
        return "/".join(reversed(name.split("/", 1)))

    for path in new.run.path.glob(f"events.out.tfevents.*{SUFFIX}"):
        path.unlink()
    # purge_step: an open TensorBoard drops the values that it has read from the deleted files
    writer: Any = SummaryWriter(new.run.model_dir, purge_step=0, filename_suffix=SUFFIX)
    for row in [*new.epochs, new.metrics]:
        for name, value in row.items():
            writer.add_scalar(tag(name), value, row.get("epoch", len(new.epochs)))
    params = {k: v if isinstance(v, bool | int | float | str) else json.dumps(v) for k, v in new.run.params.items()}
    summaries = hparams(params, {tag(name): 0.0 for name in new.metrics})
    for summary in summaries[: 2 if new.run.status == "running" else 3]:  # the third says that the run has ended
        writer.file_writer.add_summary(summary)
    for name, (caption, picture) in new.pictures.items():
        writer.add_image(f"{name} {caption}", np.asarray(picture.convert("RGB")), len(new.epochs), dataformats="HWC")
    writer.close()


TRACKERS = {"trackio": to_trackio, "wandb": to_wandb, "mlflow": to_mlflow, "tensorboard": to_tensorboard}


def publish(run: Run, args: argparse.Namespace, project: str, problems: list[str]) -> bool:
    """Write the entries of a run that a tracker lacks, and return whether there were any."""
    num_problems, history = len(problems), read_history(run, problems)
    if len(problems) > num_problems or not (history or run.val):
        return False
    # The first epoch has its seconds, so a run that was started over with --restart is another run.
    run_id = _digest([run.path.resolve().name, history[0] if history else run.params])
    key, path, predictions = f"{args.to} {project}", run.path / RECORD, run.path / PREDICTIONS
    record = utils.read_json(path) if path.exists() else {}
    old = record[key] if record.get(key, {}).get("id") == run_id else {}
    predicted = predictions.stat().st_mtime_ns if predictions.exists() else None
    digest = _digest([history, run.status, run.params, run.val, run.test, predicted, args.pictures])
    if old.get("digest") == digest:
        return False
    epochs, metrics = [_numbers(row) for row in history], _numbers({"best_val": run.val, "test": run.test})
    pictures, group = read_pictures(run, args.pictures, problems), run.name.rpartition("/")[0] or None
    TRACKERS[args.to](Content(project, group, run, run_id, old.get("epochs", 0), epochs, metrics, pictures))
    utils.save_dict_to_json({**record, key: {"id": run_id, "epochs": len(epochs), "digest": digest}}, path)
    return True


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a row and of the dicts in it, as `train/loss`."""
    named: dict[str, Any] = {}
    for part, value in row.items():
        named |= {f"{part}/{name}": v for name, v in value.items()} if isinstance(value, dict) else {part: value}
    finite = [name for name in named if is_number(named[name]) and math.isfinite(named[name])]
    return {re.sub(r"[^\w.\-: /]", "_", name): named[name] for name in finite}  # mlflow refuses other characters


def read_pictures(run: Run, number: int, problems: list[str]) -> dict[str, tuple[str, Any]]:
    """Return pictures of the worst mistakes on test, as results.html shows them; empty for other data."""
    from PIL import Image

    details, pictures = read_details([run] if number else [], problems), {}
    for rank, row in enumerate(details["runs"].get(0, {"worst": []})["worst"][:number], start=1):
        place = row.get("input")  # None if the data is gone
        if place is not None and "image" in details["inputs"][place]:
            data = base64.b64decode(details["inputs"][place]["image"].partition(",")[2])  # of a data URL
            picture = Image.open(io.BytesIO(data))
            pictures[f"mistakes/{rank}"] = f"{row['id']}: {row['label']}, predicted {row['prediction']}", picture
    return pictures


def publish_all(args: argparse.Namespace) -> dict[str, Any]:
    """Publish every run, and return the entries that --json prints."""
    if not args.dir.is_dir():
        raise utils.InputError(f"{args.dir}: there is no such directory; give a run directory, or a folder of them")
    runs, problems = read_runs(args.dir)
    if not runs and not args.watch:
        raise utils.InputError(f"{args.dir}: no runs in it yet; train.py --model_dir {args.dir}/NAME makes one")
    folder = args.dir.resolve().parent if [run.path for run in runs] == [args.dir] else args.dir.resolve()
    project = args.project or folder.name
    with contextlib.redirect_stdout(sys.stderr):  # what the tracker prints
        num_new = sum([publish(run, args, project, problems) for run in runs])
    if num_new or not args.watch:
        print(f"{args.to}: {num_new} of {len(runs)} runs had something new", flush=True)
    return {"tracker": args.to, "project": project, "num_runs": len(runs), "num_new": num_new, "problems": problems}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command."""
    parser = utils.new_parser(__doc__)
    add = parser.add_argument
    add("dir", type=Path, help="a run directory, or a folder with runs at any depth")
    add("--to", required=True, choices=sorted(TRACKERS), help="the tracker")
    add("--project", default=None, help="the project in the tracker; default: the name of the folder with the runs")
    add("--pictures", default=8, type=int, metavar="N", help="pictures of the worst mistakes per run; 0 for none")
    add("--watch", action="store_true", help="keep publishing while runs are trained, until Ctrl-C")
    args = parser.parse_args(argv)
    if importlib.util.find_spec(args.to) is None:
        raise utils.InputError(f"--to {args.to}: the package is not installed; pip install {args.to}")
    with contextlib.suppress(KeyboardInterrupt):
        while args.watch:
            publish_all(args)
            time.sleep(5)
    result = publish_all(args)  # after Ctrl-C, for the last epochs
    for line in result["problems"]:
        print(f"skipped: {line}", file=sys.stderr)
    if result["problems"]:
        raise utils.with_result(SystemExit(1), result)
    return result


if __name__ == "__main__":
    utils.run_script(main)
