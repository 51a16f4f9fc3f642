"""Train one run.

    python train.py                                          the shipped example, experiments/base_model
    python train.py --model_dir experiments/x learning_rate=3e-4
    python train.py --init experiments/x --data_dir D        write experiments/x/params.json for new data
    python train.py --task my_task --describe_params         all hyperparameters
    torchrun --standalone --nproc_per_node 2 train.py ...    two processes, the same steps

Reads `params.json` (or .yaml) in --model_dir and writes beside it: `last.pth.tar`, `best.pth.tar`, `history.jsonl`,
`metrics_val_*_weights.json`, `run.json` and `train.log`. Rerun the same command to continue a stopped run.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import utils
from evaluate import evaluate
from fiveline import jobs
from fiveline.device import concatenate, detach, fetch_device, pieces
from fiveline.metrics import Loss, count_scored
from fiveline.report.runs import describe_run
from fiveline.suggest import write_params
from fiveline.tasks import DEFAULT_TASK, Task, fetch_params, fetch_params_class

if TYPE_CHECKING:  # importing torch takes a second: main() imports it after checking the command line and the params
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    from fiveline.saving import Saver
    from fiveline.state import State, Step


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Loss, train_batch: Any, labels_batch: torch.Tensor
) -> tuple[Any, torch.Tensor]:
    """Take one step: the five lines that the whole project is built around. Return the outputs and the scalar loss."""
    output_batch = model(train_batch)  # compute model output
    loss = loss_fn(output_batch, labels_batch)  # calculate loss

    optimizer.zero_grad()  # clear previous gradients
    loss.backward()  # compute gradients of all variables wrt loss

    optimizer.step()  # perform updates using calculated gradients
    return output_batch, loss


def train_step_in_pieces(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Loss,
    train_batch: Any,
    labels_batch: torch.Tensor,
    microbatch_size: int,
    scaler: torch.amp.GradScaler,
) -> tuple[Any, torch.Tensor]:
    """Take the step of `train_step` in pieces of about `microbatch_size` examples, to save memory; also for fp16.

    Each piece's loss is weighted by the piece's share of the scored labels, so the gradients add up to the gradient of
    the whole batch. (But batch norm normalises each piece alone.) In fp16, small gradients would become zero: the
    scaler scales up the loss, scales down the gradients, and skips a step if a gradient is not finite.
    """
    output_pieces: list[Any] = []
    num_scored = count_scored(labels_batch)
    loss = 0.0 * num_scored
    optimizer.zero_grad()
    for train_piece, labels_piece in pieces((train_batch, labels_batch), microbatch_size):
        output_piece = model(train_piece)
        num_scored_piece = count_scored(labels_piece)
        # if all labels of a piece are -100, its mean loss is NaN: replace them by 0, so that the piece adds 0. If all
        # labels of the whole batch are -100, the loss stays NaN, as in train_step
        labels_piece = labels_piece.where((num_scored_piece > 0) | (num_scored == 0), 0)
        loss_piece = loss_fn(output_piece, labels_piece) * num_scored_piece / num_scored
        scaler.scale(loss_piece).backward()
        output_pieces.append(detach(output_piece))
        loss = loss + loss_piece.detach()

    scaler.unscale_(optimizer)  # before the step, because the step clips the gradients
    scaler.step(optimizer)
    scaler.update()
    return concatenate(output_pieces), loss


def train(
    state: State, dataloader: DataLoader[Any], loss_fn: Loss, saver: Saver, step: Step = train_step
) -> dict[str, float]:
    """Train for an epoch, or for the rest of it. Return its metrics, which score each batch before its update."""
    state.model.train()
    for train_batch, labels_batch in saver.saving_between(state.start_epoch(dataloader)):
        output_batch, loss = step(state.model, state.optimizer, loss_fn, train_batch, labels_batch)
        state.sums.add(output_batch, labels_batch, loss)
        state.step += 1
    return state.sums.result()


def train_and_evaluate(
    state: State,
    train_dataloader: DataLoader[Any],
    val_dataloader: DataLoader[Any],
    task: Task,
    saver: Saver,
    step: Step = train_step,
) -> None:
    """Train to the last epoch, evaluate after each one, and keep the last and the best checkpoint."""
    while not state.is_finished():
        logging.info(f"Epoch {state.epoch + 1}/{state.params.num_epochs}")
        train_metrics = train(state, train_dataloader, task.train_loss_fn, saver, step)
        state.check_loss(train_metrics["loss"])
        logging.info(f"- Train metrics: {utils.format_metrics(train_metrics)}")

        val_batches = saver.saving_between(state.start_validation(val_dataloader))
        val_metrics = evaluate(state.net_to_evaluate, task.loss_fn, val_batches, task.metrics, state.new_sums())
        state.check_loss(val_metrics["loss"])  # the last step may have diverged; no train metric shows it
        logging.info(f"- Eval metrics : {utils.format_metrics(val_metrics)}")
        saver.end_epoch(train_metrics, val_metrics)
    if utils.has_stopped_early(state.params, state.epoch, state.best_epoch):
        logging.info(f"Stopped early: no new best {state.params.monitor} for {state.epoch - state.best_epoch} epochs")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory that holds params.json")
    parser.add_argument("--restore_file", default=None, help="start from the weights of a checkpoint: best, or a path")
    parser.add_argument("--init", metavar="DIR", help="write DIR/params.json with values that suit --data_dir")
    parser.add_argument("--restart", action="store_true", help="start over; the old run is kept until the first save")
    utils.add_device_flags(parser)
    parser.add_argument("--task", default=None, help="same as task=NAME; with --describe_params, the task to describe")
    parser.add_argument("--describe_params", action="store_true", help="print a task's hyperparameters and exit")
    parser.add_argument("--profile", type=int, metavar="N", help="trace N steps, and print where their time goes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="hyperparameters that override the file's")
    return parser


def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    """Run the script, and return the run; raise Stop for a mistake, with a message for the user."""
    args = make_parser().parse_args(argv)
    if args.describe_params:
        from tabulate import tabulate

        rows = utils.describe(fetch_params_class(args.task or DEFAULT_TASK))
        print(tabulate(rows, headers="keys", disable_numparse=True))
        return {"hyperparameters": rows}
    overrides = args.overrides if args.task is None else [*args.overrides, f"task={args.task}"]
    overrides = utils.with_data_dir(overrides, args.data_dir)
    if args.init is not None:
        return {"model_dir": args.init, "params": write_params(Path(args.init), overrides)}
    params = fetch_params(Path(args.model_dir), overrides)
    with utils.RunDirectory(Path(args.model_dir), is_writer=jobs.rank() == 0) as run:
        train_run(params, run, args)
    return describe_run(run.path) if run.is_writer else None


def train_run(params: utils.Params, run: utils.RunDirectory, args: argparse.Namespace) -> None:
    """Build the run that the hyperparameters describe, and train it from its last checkpoint to the end."""
    utils.import_quickly("torch")
    from fiveline.options.set_up import fetch_step, set_up, switched_on
    from fiveline.record.script import Signals
    from fiveline.record.start import find_start
    from fiveline.saving import Saver

    start = find_start(run, params, args.restore_file, args.restart) if run.is_writer else None
    with jobs.joined() as job:
        start = job.broadcast(start)
        if start.is_finished:
            run.finish(params)
            if run.is_writer:
                print(utils.escaped_lines(start.summary(run.path, params)))
            return
        utils.set_logger(run.path / "train.log", logging.INFO if run.is_writer else logging.ERROR)
        for line in [*start.warnings, *(f"- WARNING: {line}" for line in params.warnings())]:
            logging.warning(line)
        with run.recorded(params, restore_file=args.restore_file), jobs.explaining_lost_process():
            device = fetch_device(args.device, args.disable_cuda, job.local_rank)
            state, dataloaders, task = set_up(params, run, start, device, job)
            step = fetch_step(state, train_step, train_step_in_pieces)  # arguments: fiveline/ must not import train.py
            with (
                Signals(second_signal_ends=job.world_size == 1) as signals,
                switched_on(state, run, args.profile),
                Saver(run, state, signals) as saver,
            ):
                train_and_evaluate(state, dataloaders["train"], dataloaders["val"], task, saver, step)


if __name__ == "__main__":
    utils.run_script(main, jobs.reports_first)
