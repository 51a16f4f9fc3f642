"""Export a trained net as a program that runs without this project, and write a JSON file that describes it.

    python export.py --model_dir experiments/base_model --format pt2
    python export.py --model_dir experiments/my_texts --format onnx --output tagger.onnx

    pt2           a graph of torch's operations: `torch.export.load("best.pt2").module()` runs it
    onnx          for onnxruntime and others; needs `pip install -r requirements-export.txt`
    torchscript   for programs that still load it; PyTorch has deprecated it
    safetensors   the weights alone, for code that has the net; also needs requirements-export.txt

Batches may have any size, and sentences any length. The program is run in a separate process, which cannot import
this project, on a split of the data, and its outputs are compared with the net's. If a prediction changes, or an output
differs by more than 1e-4 of the outputs' standard deviation over the split, the exit code is 1 and the program is not
kept; --tolerance accepts a larger share, and changed predictions.

Writes `best.<format>` into the run's directory, or --output, and `best.<format>.json` beside it: the inputs by name,
type and shape, how to make them, the classes, and how well the program agrees with the net.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import utils
from fiveline import jobs
from fiveline.device import concatenate, map_tensors, tensors_of
from fiveline.serving.output import check_writable
from fiveline.serving.trained import fetch_trained
from fiveline.tasks import fetch_serve

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader

PACKAGES = {"pt2": [], "torchscript": [], "onnx": ["onnx", "onnxscript", "onnxruntime"], "safetensors": ["safetensors"]}
NUM_SAMPLES = 20  # batches, and single examples, that show which sizes vary


def check_installed(format_name: str) -> None:
    """Raise InputError if a package that a format needs is missing."""
    missing = ", ".join(name for name in PACKAGES[format_name] if importlib.util.find_spec(name) is None)
    if missing:
        raise utils.InputError(f"--format {format_name}: needs {missing}; pip install -r requirements-export.txt")


def find_outputs(model_dir: Path, format_name: str, restore_file: str, output: Path | None) -> tuple[Path, Path]:
    """Return the paths of the program and of its JSON file, from --output or the run's directory; check both."""
    name = f"{Path(restore_file).name.removesuffix('.pth.tar')}.{format_name}"
    path = output or model_dir / name
    path = path / name if path.is_dir() else path
    if path.suffix != f".{format_name}":
        raise utils.InputError(f"--output {output}: expected a folder, or a name that ends in .{format_name}")
    facts_path = path.with_name(f"{path.name}.json")
    check_writable(facts_path)  # the longer name of the two
    return path, facts_path


def fetch_pairs(model: nn.Module, dataloader: DataLoader[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and the net's outputs: for the first examples, each alone, and then for all batches."""
    import torch

    dataset: Any = dataloader.dataset
    alone = (dataset.__getitems__([i]) for i in range(min(NUM_SAMPLES, len(dataset))))
    for inputs, _ in itertools.chain(alone, dataloader):
        with torch.inference_mode():
            yield inputs, model(inputs)


def choose_example(samples: list[tuple[Any, Any]]) -> Any:
    """Return the largest inputs, to trace the net with; two examples at least, because torch fixes a size of 1."""
    from torch import Tensor

    largest = max((inputs for inputs, _ in samples), key=lambda inputs: sum(t.numel() for t in tensors_of(inputs)))
    largest = map_tensors(Tensor.clone, largest)  # of a view, torch would also fix the sizes of the tensor behind it
    return concatenate([largest, largest]) if len(tensors_of(largest)[0]) == 1 else largest


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = utils.new_parser(__doc__)
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory of the run")
    parser.add_argument("--format", required=True, choices=list(PACKAGES), help="what to write; see above")
    parser.add_argument("--output", type=Path, metavar="PATH", help="file or folder to write; default: the run's")
    parser.add_argument("--restore_file", default="best", help="checkpoint in --model_dir: best, last, or a path")
    parser.add_argument("--split", default="val", choices=["train", "val", "test"], help="what to compare outputs on")
    parser.add_argument("--data_dir", default=None, help="the dataset; default: the one that the run was trained on")
    parser.add_argument(
        "--tolerance", type=float, metavar="SHARE", help="accept a larger difference than 1e-4; see above"
    )
    return parser


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script, and return its files; raise Stop for a mistake, or if the program computes something else."""
    args = make_parser().parse_args(argv)
    jobs.refuse("export.py")
    check_installed(args.format)
    if args.tolerance is not None and not 0 <= args.tolerance < math.inf:
        raise utils.InputError(f"--tolerance {args.tolerance}: expected a number from 0, for example 0.001")
    model_dir = Path(args.model_dir)
    checkpoint_path = utils.checkpoint_path(model_dir, args.restore_file)
    output, facts_path = find_outputs(model_dir, args.format, args.restore_file, args.output)
    params, _, model = fetch_trained(model_dir, checkpoint_path, utils.with_data_dir([], args.data_dir))

    from fiveline.loader import fetch_dataloader
    from fiveline.serving.interface import find_class_axis, find_interfaces, gather_facts
    from fiveline.serving.programs import to_program, to_safetensors
    from fiveline.serving.verify import check_program, in_words

    dataloader = fetch_dataloader(args.split, Path(params.data_dir or ""), params)
    dataset: Any = dataloader.dataset
    samples = list(itertools.islice(fetch_pairs(model, dataloader), 2 * NUM_SAMPLES))
    described = getattr(fetch_serve(params.task), "describe_inputs", lambda params: {"facts": params.facts})(params)
    sides = find_interfaces(samples, described.get("axes", {}))
    facts = gather_facts(output.name, samples[0][0], sides, params, described)
    if args.format == "safetensors":
        content = to_safetensors(model)
        agreement = "the weights of the checkpoint"
        verified: dict[str, Any] = {"weights": agreement}
    else:
        content = to_program(args.format, model, choose_example(samples), sides)
        class_axis = find_class_axis(samples[0][1], dataset.__getitems__([0])[1])  # both of the first example
        found = check_program(content, output.name, fetch_pairs(model, dataloader), class_axis, args.tolerance)
        verified = {"split": args.split, "num_examples": len(dataset), **found}
        agreement = (
            f"on the {len(dataset)} examples of {args.split}, its outputs differ from the net's {in_words(found)}"
        )
    utils.write_atomically(output, content)
    utils.save_dict_to_json({**facts, "verified": verified}, facts_path)
    if args.format == "torchscript":
        print("- PyTorch has deprecated TorchScript; prefer --format pt2 or onnx where you can", file=sys.stderr)
    print(utils.escaped_lines(f"{output}: {len(content):,} bytes; {agreement}; {output.name}.json says how to use it"))
    result = {"model_dir": str(model_dir), "checkpoint": str(checkpoint_path), "format": args.format}
    return {**result, "verified": verified, "files": [str(output), str(facts_path)]}


if __name__ == "__main__":
    utils.run_script(main)
