"""Label any number of new inputs with a checkpoint: images, sentences, rows of a CSV file.

    python predict.py --model_dir experiments/my_photos --input photos/ more/cat.jpg
    python predict.py --model_dir experiments/my_texts --input sentences.txt --output tags.jsonl
    python predict.py --model_dir experiments/my_rows --input rows.csv > predictions.csv
    python predict.py --model_dir experiments/my_language_model --input prompt.txt --temperature 0.5

--input takes folders of images (at any depth) and image files; text files with one sentence per line, tokens separated
by spaces (`-`: standard input); column files with one token per line as for training (their tags are ignored); or CSV
files with the columns of the train split, with or without the target. A run that predicts the next token of a
text continues the text of each file; --max_new_tokens, --temperature, --top_k and --seed are for such a run.

Writes one row for each input, in order, with the same columns as CSV and as JSON lines: `id`; for sentences `tokens`,
one for each tag of the prediction; `prediction`; for classes `confidence`; for numbers `lower` and `upper`, once
evaluate.py has scored the test split (90% of new examples lie between them, on average over test splits, if they are
like the test split); with --probabilities, `probability_<class>` for each class; and `error` if an input is broken. The
other inputs are still predicted, and the exit code is 1. Probabilities have 6 significant digits, and one below
1 is never rounded up to 1.
"""

from __future__ import annotations

import argparse
import collections
import sys
from pathlib import Path
from typing import Any

import utils
from fiveline import jobs
from fiveline.device import fetch_device
from fiveline.serving import generating
from fiveline.serving.output import check_output, counted, fetch_margin, with_intervals, write_rows
from fiveline.serving.trained import fetch_trained, predict
from fiveline.serving.unlabelled import check_input, fetch_unlabelled
from fiveline.tasks import fetch_serve


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory of the run")
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help="files or folders to predict for")
    parser.add_argument("--output", default=None, metavar="FILE", help=".csv or .jsonl; default: CSV on the terminal")
    parser.add_argument("--probabilities", action="store_true", help="also write the probability of each class")
    parser.add_argument("--restore_file", default="best", help="checkpoint in --model_dir: best, last, or a path")
    parser.add_argument("--batch_size", type=int, default=None, help="inputs at a time; default: the run's")
    parser.add_argument(
        "--data_dir", default=None, help="the dataset; only for a checkpoint of CS230, which does not hold its classes"
    )
    for name, (kind, _, words) in generating.SETTINGS.items():
        parser.add_argument(f"--{name}", type=kind, help=words)
    utils.add_device_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script, and return the rows or their file.

    Raises:
        Stop: a mistake in the arguments or inputs, or some inputs are broken
    """
    args = make_parser().parse_args(argv)
    jobs.refuse("predict.py")
    paths, output = [Path(word) for word in args.input], None if args.output is None else Path(args.output)
    for path in paths:
        check_input(path)
    if paths.count(Path("-")) > 1:
        raise utils.InputError("--input: standard input can be read only once; write `-` once")
    if output is not None:
        check_output(output, paths)
    model_dir = Path(args.model_dir)
    checkpoint_path = utils.checkpoint_path(model_dir, args.restore_file)
    overrides = [] if args.batch_size is None else [f"batch_size={args.batch_size}"]
    utils.set_logger(None)
    params, _, model = fetch_trained(model_dir, checkpoint_path, utils.with_data_dir(overrides, args.data_dir))

    from fiveline.options.forward import prepare

    serve = fetch_serve(params.task)
    model = prepare(model, params, fetch_device(args.device, args.disable_cuda))
    generator = generating.fetch_generator(serve, model, params, args)
    if generator is not None:
        rows = generating.continue_prompts(generator, paths, shown=output is None and not args.json)
        if rows is None:
            return {}  # everything is printed
    else:
        rows = predict(model, serve, fetch_unlabelled(paths, serve, params), params, args.probabilities)
        rows = with_intervals(rows, fetch_margin(checkpoint_path, model_dir))
    result: dict[str, Any] = {"model_dir": str(model_dir), "checkpoint": str(checkpoint_path)}
    counts: collections.Counter[str] = collections.Counter()
    if args.json and output is None:
        result["predictions"] = list(counted(rows, counts))
    else:
        write_rows(counted(rows, counts), output)
    result |= {"num_rows": counts["rows"], "num_broken": counts["broken"], "files": [args.output] if output else []}
    if output is not None:
        print(utils.escaped_lines(f"- wrote {output} ({counts['rows']:,} rows)"), file=sys.stderr)
    if counts["without_interval"]:
        command = f"python evaluate.py --model_dir {model_dir} --restore_file {args.restore_file}"
        print(utils.escaped_lines(f"- no intervals: {command} measures their width"), file=sys.stderr)
    if counts["broken"]:
        stop = utils.Stop(f"{counts['broken']} of {counts['rows']} inputs are broken; see `error` in their rows")
        raise utils.with_result(stop, result)
    return result


if __name__ == "__main__":
    utils.run_script(main)
