"""Score a checkpoint on a split, with exact metrics.

    python evaluate.py --model_dir experiments/base_model
    python evaluate.py --model_dir experiments/base_model --split val --restore_file last

Writes into the run directory: `metrics_<split>_<checkpoint>.json`, `predictions_<split>_<checkpoint>.csv` with a row
for each example, `shares_<split>_<checkpoint>.npz` with each metric's numerator and denominator for each example,
`per_class_<split>_<checkpoint>.csv` if the task has classes, `scored_<split>_<checkpoint>.json` with the checkpoint's
checksum, and `evaluate.log`. If the checkpoint belongs to another run, the file names contain the name of that run:
`metrics_test_of_other_run_best.json`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import utils
from fiveline import jobs
from fiveline.device import fetch_device, moved
from fiveline.metrics import Loss, Metrics, MetricSums

if TYPE_CHECKING:
    import torch
    from torch import nn


def fetch_outputs(model: nn.Module, dataloader: Iterable[Any]) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield (outputs, labels) of each batch, with the model in eval mode and no graph built."""
    import torch

    model.eval()
    for data_batch, labels_batch in moved(dataloader, next(model.parameters()).device):
        with torch.inference_mode():
            output_batch = model(data_batch)
        yield output_batch, labels_batch


def evaluate(
    model: nn.Module, loss_fn: Loss, dataloader: Iterable[Any], metrics: Metrics, sums: MetricSums | None = None
) -> dict[str, float]:
    """Return the metrics over all batches by name, the loss last; in a job, `sums` adds up over the processes."""
    import torch

    sums = MetricSums(metrics) if sums is None else sums
    for output_batch, labels_batch in fetch_outputs(model, dataloader):
        with torch.inference_mode():
            sums.add(output_batch, labels_batch, loss_fn(output_batch, labels_batch))
    return sums.result()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("--data_dir", default=None, help="the dataset; default: the one that the run was trained on")
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory of the run")
    parser.add_argument("--restore_file", default="best", help="checkpoint in --model_dir: best, last, or a path")
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="which examples to score")
    utils.add_device_flags(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a hyperparameter: batch_size=256")
    return parser


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script, and return the scores; raise Stop for a mistake, with a message for the user."""
    args = make_parser().parse_args(argv)
    jobs.refuse("evaluate.py")
    model_dir = Path(args.model_dir)
    checkpoint_path = utils.checkpoint_path(model_dir, args.restore_file)
    overrides = utils.with_data_dir(args.overrides, args.data_dir)
    checksum = utils.checksum(checkpoint_path)  # before it is loaded: a run that is training may replace it later
    from fiveline.serving.trained import fetch_trained, score_examples

    params, task, model = fetch_trained(model_dir, checkpoint_path, overrides)
    from fiveline.loader import fetch_dataloader
    from fiveline.options.forward import prepare
    from fiveline.report.scores import save_scores

    data_dir = Path(params.data_dir or "")
    utils.set_logger(model_dir / "evaluate.log")
    logging.info(f"Evaluating {checkpoint_path} on {args.split} of {data_dir}")
    device = fetch_device(args.device, args.disable_cuda)
    with utils.blaming_checkpoint(checkpoint_path, "facts"):
        dataloader = fetch_dataloader(args.split, data_dir, params, device=device)
    scores = score_examples(fetch_outputs(prepare(model, params, device), dataloader), dataloader.dataset, task, params)
    logging.info(f"- Eval metrics : {utils.format_metrics(scores.values)}")
    source = {"checkpoint": str(checkpoint_path), "sha256": checksum, "data_dir": str(data_dir)}
    name = utils.scores_name(args.split, checkpoint_path, model_dir)
    report, entries = save_scores(model_dir, name, source, scores, params)
    print(utils.escaped_lines(report))  # last, because a pipe to `head` may close early
    return {"model_dir": str(model_dir), "split": args.split, **source, **entries}


if __name__ == "__main__":
    utils.run_script(main)
