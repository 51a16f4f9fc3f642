"""Train one run.

    python train.py                                          the embedded example, experiments/base_model
    python train.py --model_dir experiments/x learning_rate=3e-4
    python train.py --task vision --describe_params          all hyperparameters
    torchrun --standalone --nproc_per_node 2 train.py ...    two processes, the same steps

Reads `params.json` (or .yaml) in --model_dir and writes beside it: `last.pth.tar`, `best.pth.tar`, `history.jsonl`,
`metrics_val_*_weights.json`, `run.json` and `train.log`. The same command continues a stopped run.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import utils
from evaluate import evaluate
from fiveline.device import Signals, concatenate, detach, fetch_device, pieces, to_device
from fiveline.jobs import processes
from fiveline.metrics import Loss, count_scored
from fiveline.tasks import DEFAULT_TASK, fetch_params, fetch_params_class

if TYPE_CHECKING:  # torch takes a second to import: main() does so after it has checked the command line and the params
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    from fiveline.saving import Keeper
    from fiveline.state import Training


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Loss, train_batch: Any, labels_batch: torch.Tensor
) -> tuple[Any, torch.Tensor]:
    """Take one step: the five lines that everything else here is built around.

    Returns:
        the outputs, batch first, and the loss, scalar
    """
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
    """Take the step of `train_step` with about `microbatch_size` examples in memory at once, in fp16 too.

    Each piece's loss counts as much as it has scored labels, so the gradient is that of the whole batch. (Batch norm
    sees the pieces alone: with it, the step is a slightly different one.) In fp16, where small gradients would be
    zero, the scaler multiplies the loss and divides the gradients again; a step whose gradients are too large for
    fp16 is left out, and the scale is halved.

    Returns:
        the outputs of the whole batch, batch first, and its loss, scalar
    """
    num_scored = count_scored(labels_batch)
    output_pieces: list[Any] = []
    loss, is_counted = num_scored * 0.0, False
    optimizer.zero_grad()
    for train_piece, labels_piece in pieces((train_batch, labels_batch), microbatch_size):
        output_piece = model(train_piece)
        output_pieces.append(detach(output_piece))
        num_scored_piece = count_scored(labels_piece)
        # else there is no mean to take; not asked of a whole batch, because to ask is to wait for the device
        if microbatch_size >= len(labels_batch) or num_scored_piece > 0:
            loss_piece = loss_fn(output_piece, labels_piece) * num_scored_piece / num_scored
            scaler.scale(loss_piece).backward()
            loss, is_counted = loss + loss_piece.detach(), True

    if is_counted or processes.world_size() > 1:  # the others of a job may have something to learn from
        scaler.unscale_(optimizer)  # before the step, in which gradients are clipped
        scaler.step(optimizer)
        scaler.update()
    return concatenate(output_pieces), loss


def train(training: Training, dataloader: DataLoader[Any], keeper: Keeper) -> dict[str, float]:
    """Train for one epoch, or for what is left of it.

    Args:
        training: model, optimizer, schedule, loss and metrics, and how far the epoch is
        dataloader: of (inputs, labels), set to where the epoch is
        keeper: saves between two steps

    Returns:
        the epoch's metrics over all train batches, each as it was when it was trained on, and `examples_per_second`

    Raises:
        DivergedError: a loss or a gradient is not finite
        InterruptedRun: a signal came; the state is saved
    """
    from fiveline.options.progress import Progress

    model, params, sums, device = training.model, training.params, training.sums, training.device
    job_batch = training.global_batch  # None in one process
    is_cpu = device.type == "cpu"
    model.train()
    batches = iter(dataloader)
    training.restore_generators()  # after the iterator is made: making it may draw random numbers
    with Progress(len(dataloader), training.step, params.save_summary_steps) as progress:
        for batch in keeper.watched(batches):
            train_batch, labels_batch = batch if is_cpu else to_device(batch, device)
            is_counted = job_batch is None or job_batch.begin(batch)
            objects = (model, training.optimizer, training.loss_fn, train_batch, labels_batch)
            num_examples = labels_batch.size(0)
            microbatch_size = params.microbatch_size or num_examples
            if microbatch_size >= num_examples and not training.scaler.is_enabled():
                output_batch, loss = train_step(*objects)
            else:
                output_batch, loss = train_step_in_pieces(*objects, microbatch_size, training.scaler)
            training.schedule.step()
            training.step += 1
            if is_counted:
                sums.add(output_batch, labels_batch, loss)

            if job_batch is None:
                training.watch.look(loss, labels_batch)
            else:
                training.watch.look(job_batch.loss)
            if progress.step(num_examples):
                training.watch.check(sums.mean_loss())
                progress.show(sums.mean_loss())
    metrics = sums.result()
    training.watch.check(metrics["loss"])
    return {**metrics, "examples_per_second": progress.examples_per_second}


def train_and_evaluate(
    training: Training,
    train_dataloader: DataLoader[Any],
    val_dataloader: DataLoader[Any],
    run: utils.RunDirectory,
) -> None:
    """Train to the last epoch, evaluating after each and keeping the last and the best checkpoint.

    Args:
        training: new, or loaded from a checkpoint
        train_dataloader: of (inputs, labels), from `fetch_dataloader` or your own
        val_dataloader: of (inputs, labels)
        run: where to write

    Raises:
        DivergedError: a loss or a gradient is not finite; the checkpoints from before stay
        InterruptedRun: SIGINT or SIGTERM; the state is saved
        OtherRunError: the directory holds a run that has got further
    """
    from fiveline.record.start import check_nothing_is_lost
    from fiveline.saving import Keeper

    params = training.params
    check_nothing_is_lost(run, training.epoch)
    with Signals() as signals, Keeper(run, training, signals) as keeper:
        while not training.is_finished():
            epoch = training.epoch + 1
            logging.info(f"Epoch {epoch}/{params.num_epochs}")
            enter_epoch(train_dataloader, training)

            train_metrics = train(training, train_dataloader, keeper)
            speed = train_metrics.pop("examples_per_second")
            logging.info(f"- Train metrics: {utils.format_metrics(train_metrics)}")
            val_batches = keeper.watched(val_dataloader)
            val_metrics = evaluate(training.evaluated_model, training.eval_loss_fn, val_batches, training.metrics)
            training.watch.check(val_metrics["loss"])  # what the epoch's last step did shows here first
            logging.info(f"- Eval metrics : {utils.format_metrics(val_metrics)}")

            row = {
                "epoch": epoch,
                "train": train_metrics,
                "val": val_metrics,
                "learning_rate": training.schedule.rate(training.schedule.num_steps - len(train_dataloader)),
                "examples_per_second": speed,
                "seconds": training.elapsed(),
            }
            is_best = training.end_epoch(val_metrics[params.monitor], val_metrics["loss"])
            if is_best:
                logging.info(f"- Found new best {params.monitor}")
            keeper.end_epoch(row, is_best)
    if training.stopped_early():
        logging.info(f"Stopped early: no new best {params.monitor} for {params.early_stopping_epochs} epochs")
        if params.schedule == "step" and training.epoch <= params.schedule_epochs:
            logging.warning(f"- WARNING: the learning rate never dropped: schedule_epochs is {params.schedule_epochs}")


def enter_epoch(dataloader: DataLoader[Any], training: Training) -> None:
    """Set the train loader to where the run is in its epoch; one that cannot be set begins the epoch anew.

    Args:
        dataloader: of `fetch_dataloader`, whose order is known in advance; or any other, of a notebook for one
        training: its epoch, and the steps of the next one that are done
    """
    sampler: Any = getattr(dataloader, "batch_sampler", None)
    if hasattr(sampler, "set_position"):
        sampler.set_position(training.epoch + 1, training.step)
    elif training.step:
        logging.warning("- WARNING: this loader cannot be entered amid an epoch, which begins anew")
        training.schedule.num_steps -= training.step
        training.step, training.generators = 0, None
    training.begin_epoch()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory that holds params.json")
    parser.add_argument(
        "--restore_file", default=None, help="start from the weights of this checkpoint: best, or a path"
    )
    parser.add_argument("--restart", action="store_true", help="begin anew; the run before goes with the first save")
    parser.add_argument("--disable-cuda", action="store_true", help="compute on the CPU although there is a GPU")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, mps; default: cuda where there is one")
    parser.add_argument("--tensorboard", action="store_true", help="as tensorboard=true: events for TensorBoard, too")
    parser.add_argument("--task", default=None, help="as task=NAME; with --describe_params, the task to describe")
    parser.add_argument("--describe_params", action="store_true", help="print a task's hyperparameters and stop")
    parser.add_argument("--profile", type=int, metavar="N", help="trace N steps, and print where their time goes")
    parser.add_argument("--selftest_resume", action="store_true", help="does a run of yours survive kills, to the bit?")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="hyperparameters that beat the file's")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the script.

    Raises:
        Stop: for a reason that is told in its message
    """
    args = make_parser().parse_args(argv)
    if args.describe_params:
        from tabulate import tabulate

        print(
            tabulate(
                utils.describe(fetch_params_class(args.task or DEFAULT_TASK)), headers="keys", disable_numparse=True
            )
        )
        return
    if args.profile is not None and args.profile < 1:
        raise utils.InputError(f"--profile {args.profile}: expected the number of steps to trace, 1 or more")
    flags = {"tensorboard=true": args.tensorboard, f"task={args.task}": args.task is not None}
    overrides = [*args.overrides, *(word for word, is_given in flags.items() if is_given)]
    params = fetch_params(Path(args.model_dir), utils.with_data_dir(overrides, args.data_dir))
    if args.selftest_resume:
        from fiveline.sanity.selftest import selftest

        processes.refuse("--selftest_resume")
        selftest(params, ["--device", str(fetch_device(args.device, args.disable_cuda))])
        return
    with (
        utils.RunDirectory(Path(args.model_dir), is_writer=processes.rank() == 0) as run,
        contextlib.ExitStack() as job,
    ):
        utils.import_quickly("torch")
        from fiveline.options.profile import profiled
        from fiveline.options.set_up import set_up
        from fiveline.record.start import Start, find_start

        start = find_start(run, params, args.restore_file, args.restart) if run.is_writer else Start()
        job.enter_context(processes.joined())
        start = processes.from_first(start)
        if start.is_finished:
            run.finish(params)
            if run.is_writer:
                print(utils.escaped_lines(start.told(run.path, params)))
            return
        utils.set_logger(run.path / "train.log", logging.INFO if run.is_writer else logging.ERROR)
        for line in [*start.warnings, *(f"- WARNING: {line}" for line in params.warnings())]:
            logging.warning(line)
        with run.recorded(params, restore_file=args.restore_file), processes.naming_the_lost():
            device = fetch_device(args.device, args.disable_cuda)
            training, dataloaders = set_up(params, run, start, device)
            is_profiled = args.profile and run.is_writer
            profile = profiled(training, args.profile, run) if is_profiled else contextlib.nullcontext()
            with training.watch.naming_operations(params.detect_anomaly), profile:
                train_and_evaluate(training, dataloaders["train"], dataloaders["val"], run)


if __name__ == "__main__":
    utils.run_script(main, processes.is_first_to_say)
