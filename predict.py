"""Label new inputs with a checkpoint: images, sentences, rows of a CSV file, as many as there are.

    python predict.py --model_dir experiments/my_photos --input photos/ more/cat.jpg
    python predict.py --model_dir experiments/ner --input sentences.txt --output tags.jsonl
    python predict.py --model_dir experiments/tabular_digits --input rows.csv > predictions.csv

What stands in --input is a folder of images (at any depth) or image files, text files of one sentence a line, its
tokens separated by spaces (`-`: standard input), column files of one token a line as for training (their tags are
ignored), or CSV files with the columns of the train split, the target not needed. Inputs are made ready by the code
that does so for evaluate.py.

Writes one row an input, in order, with the same columns as CSV and as JSON lines: `id`; for sentences `tokens`, one for
each tag of the prediction; `prediction`; `confidence` where there are classes; `lower` and `upper` where numbers are
predicted and evaluate.py has been run on the test split (90% of new examples lie between them, on average over test
splits, if they are like the test split); with --probabilities, `probability_<class>` for each class; and `error` where
an input is broken: the others are predicted all the same, and the exit code is 1. Probabilities have 6 significant
digits, and only a probability of exactly 1 is written as 1: 0.9999997 becomes 0.999999.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import utils
from evaluate import fetch_trained
from fiveline.device import fetch_device, to_device, tune_cpu
from fiveline import jobs
from fiveline.serving.intervals import fetch_margin
from fiveline.serving.output import SUFFIXES, rounded, to_lines, write_lines

if TYPE_CHECKING:
    from torch import nn

    from fiveline.serving.unlabelled import UnlabelledBatch


def predict(
    model: nn.Module, net: Any, batches: Iterable[UnlabelledBatch], params: utils.Params, with_all: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield a row for each input: its `id`, and what the task says of it, or the `error` that it could not be read for.

    Args:
        model: on its device
        net: the task's module
        batches: from `fetch_unlabelled`
        params: with facts
        with_all: whether to add the probability of each class
    """
    import torch

    from fiveline.nets import fetch_predictions, fetch_probabilities

    device = next(model.parameters()).device
    model.eval()
    for batch in batches:
        predicted: Iterator[dict[str, Any]] = iter(())
        if batch.inputs is not None:
            with torch.inference_mode():
                outputs = model(to_device(batch.inputs, device))
                outputs = to_device(outputs, torch.device("cpu"))
                num_read = len(batch.ids) - len(batch.errors)
                rows = fetch_predictions(net, outputs, batch.labels, params, num_read)
                if with_all:
                    every = fetch_probabilities(net, outputs, batch.labels, params)
                    rows = [{**row, **more} for row, more in zip(rows, every, strict=True)]
                predicted = iter(rows)
        for position, name in enumerate(batch.ids):
            if position in batch.errors:
                yield {"id": name, "error": batch.errors[position]}
            else:
                row = {key: value for key, value in next(predicted).items() if key not in ("label", "loss")}
                yield {"id": name, **batch.shown.get(position, {}), **rounded(row)}


class Tally:
    """Counts rows as they pass, and puts the interval beside each predicted number.

    Args:
        margin: half of the intervals' width; None for none
    """

    def __init__(self, margin: float | None) -> None:
        self.margin = margin
        self.num_rows = self.num_broken = self.num_without_interval = 0

    def pass_on(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows.

        Raises:
            InputError: there is none
        """
        for row in rows:
            self.num_rows += 1
            self.num_broken += "error" in row
            if isinstance(row.get("prediction"), float):
                self.num_without_interval += self.margin is None
                row.update(lower=None, upper=None)
                if self.margin is not None:  # 10 digits: more than float32 has, and 0.1 + 0.2 is 0.3
                    low, high = row["prediction"] - self.margin, row["prediction"] + self.margin
                    row.update(lower=float(f"{low:.10g}"), upper=float(f"{high:.10g}"))
            yield row
        if self.num_rows == 0:  # said here, while an --output of before is still untouched
            raise utils.InputError("--input: nothing in it to predict for")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory of the run")
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help="files or folders to predict for")
    parser.add_argument("--output", default=None, metavar="FILE", help=".csv or .jsonl; default: CSV on the terminal")
    parser.add_argument("--probabilities", action="store_true", help="write the probability of each class as well")
    parser.add_argument("--restore_file", default="best", help="checkpoint in --model_dir: best, last, or a path")
    parser.add_argument("--batch_size", type=int, default=None, help="inputs at a time; default: the run's")
    parser.add_argument(
        "--data_dir", default=None, help="the dataset of a checkpoint of CS230, which does not hold its own classes"
    )
    parser.add_argument("--disable-cuda", action="store_true", help="compute on the CPU although there is a GPU")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, mps; default: cuda where there is one")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the script.

    Raises:
        Stop: for a reason that is told in its message
    """
    args = make_parser().parse_args(argv)
    jobs.refuse("predict.py")
    if args.output is None and getattr(sys.stdout, "name", "") == os.devnull:  # closed: `>&-`
        raise utils.InputError("standard output is closed, and the predictions would be lost; give --output FILE")
    paths = [Path(word) for word in args.input]
    for path in paths:
        check_input(path)
    output = None if args.output is None else check_output(Path(args.output), paths)
    model_dir = Path(args.model_dir)
    checkpoint_path = utils.checkpoint_path(model_dir, args.restore_file)
    overrides = [] if args.batch_size is None else [f"batch_size={args.batch_size}"]
    utils.set_logger(None)
    params, net, model = fetch_trained(model_dir, checkpoint_path, utils.with_data_dir(overrides, args.data_dir))

    from fiveline.options.forward import prepare
    from fiveline.serving.unlabelled import fetch_unlabelled

    batches = fetch_unlabelled(paths, params)
    tune_cpu()  # as in evaluation
    model = prepare(model, params, fetch_device(args.device, args.disable_cuda))
    tally = Tally(fetch_margin(checkpoint_path, model_dir))
    rows = tally.pass_on(predict(model, net, batches, params, args.probabilities))
    write_lines(to_lines(rows, ".csv" if output is None else output.suffix), output)
    if output is not None:
        print(utils.escaped_lines(f"- wrote {output} ({tally.num_rows:,} rows)"), file=sys.stderr)
    if tally.num_without_interval:
        command = f"python evaluate.py --model_dir {model_dir} --restore_file {args.restore_file}"
        print(utils.escaped_lines(f"- no intervals: {command} finds out how wide they are"), file=sys.stderr)
    if tally.num_broken:
        raise utils.Stop(f"{tally.num_broken} of {tally.num_rows} inputs are broken; `error` in their rows says how")


def check_input(path: Path) -> None:
    """Check an --input: a file, a folder, `-`, or what a shell passes on as `<(command)`.

    Raises:
        InputError: there is no such file, or it is a pipe or a device, which may have no end
    """
    if str(path) == "-":
        return
    if not path.exists():
        raise utils.InputError(f"--input {path}: there is no such file or folder")
    is_passed_on = path.is_fifo() and path.parent in (Path("/dev/fd"), Path("/proc/self/fd"))
    if not path.is_dir() and not is_passed_on:
        utils.check_regular(path)


def check_output(path: Path, inputs: Sequence[Path]) -> Path:
    """Return --output.

    Raises:
        InputError: its name does not say how to write it, it is in no folder, or it is what is read
    """
    if path.suffix not in SUFFIXES:
        raise utils.InputError(f"--output {path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise utils.InputError(f"--output {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise utils.InputError(f"--output {path}: this is a folder; expected the name of a file")
    if path.exists() and any(each.exists() and each.samefile(path) for each in inputs):
        raise utils.InputError(f"--output {path}: it is an --input too, and would be replaced; take another name")
    return path


if __name__ == "__main__":
    utils.run_script(main)
