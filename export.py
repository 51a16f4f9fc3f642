"""Hand a trained net on: as a program that runs without this project, with what its user has to know beside it.

    python export.py --model_dir experiments/base_model --format pt2
    python export.py --model_dir experiments/ner --format onnx --output tagger.onnx

    pt2           a graph of torch's operations: `torch.export.load("best.pt2").module()` runs it
    onnx          for onnxruntime and others; needs `pip install -r requirements-export.txt`
    torchscript   for programs that still load it; PyTorch has deprecated it, pt2 is its successor
    safetensors   the weights alone, for code that has the net; needs requirements-export.txt too

Batches may be of any size, and sentences of any length. The program is run in a process of its own, which cannot see
this project, on a split of the data, and its outputs are compared with the net's. If a prediction changes, or an output
differs by more than 1e-4 of the outputs' standard deviation over the split, the exit code is 1 and nothing is kept;
--tolerance accepts more.

Writes `best.<format>` into the run's directory, or --output, and `best.<format>.json` beside it: the inputs by name,
type and shape, how they are made, the classes, and how well the program agrees.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import utils
from evaluate import fetch_trained
from fiveline.device import concatenate
from fiveline import jobs

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader

    from fiveline.serving.interface import Interface

PACKAGES = {"pt2": [], "torchscript": [], "onnx": ["onnx", "onnxscript", "onnxruntime"], "safetensors": ["safetensors"]}
NUM_SAMPLES = 20  # batches, and examples alone, that are looked at to see which sizes vary


def check_installed(format_name: str) -> None:
    """Raise InputError if a package that a format needs is missing."""
    missing = [name for name in PACKAGES[format_name] if importlib.util.find_spec(name) is None]
    if missing:
        raise utils.InputError(
            f"--format {format_name}: needs {', '.join(missing)}; pip install -r requirements-export.txt"
        )


def find_output(model_dir: Path, format_name: str, restore_file: str, output: str | None) -> Path:
    """Return the file to write: --output, a file in it if it is a folder, or else one in the run's directory.

    Raises:
        InputError: there is no such folder, or the name is that of another kind of file
    """
    name = f"{Path(restore_file).name.removesuffix('.pth.tar')}.{format_name}"
    path = model_dir / name if output is None else Path(output)
    if path.is_dir():
        path = path / name
    if path.suffix != f".{format_name}":
        raise utils.InputError(f"--output {output}: expected a folder, or a name that ends in .{format_name}")
    if not path.parent.is_dir():
        flag = "--model_dir" if output is None else "--output"
        raise utils.InputError(f"{flag} {output or model_dir}: there is no folder {path.parent}")
    return path


def fetch_pairs(model: nn.Module, dataloader: DataLoader[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and the net's outputs: of the first examples, each alone, and then of all batches."""
    import torch

    dataset: Any = dataloader.dataset
    alone = (dataset.__getitems__((1, [i])) for i in range(min(NUM_SAMPLES, len(dataset))))
    for inputs, _ in itertools.chain(alone, dataloader):
        with torch.inference_mode():
            yield inputs, model(inputs)


def choose_example(samples: list[tuple[Any, Any]]) -> Any:
    """Return the largest inputs, to follow through the net; of two examples at least: torch takes a 1 for fixed."""
    from fiveline.serving.interface import named

    largest = max((inputs for inputs, _ in samples), key=lambda each: sum(t.numel() for t in named(each, "").values()))
    is_single = len(next(iter(named(largest, "").values()))) == 1
    return concatenate([largest, largest]) if is_single else largest


def make_program(
    format_name: str, model: nn.Module, samples: list[tuple[Any, Any]], sides: tuple[Interface, Interface], path: Path
) -> None:
    """Write a net as a program.

    Raises:
        Stop: the format cannot do this net; says what torch stumbled over
    """
    from fiveline.serving.programs import write_program

    try:
        write_program(format_name, model, choose_example(samples), sides, path)
    except Exception as error:  # torch's exporters have dozens of kinds
        if utils.explain(error) is not None:  # a full disk, say
            raise
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise utils.Stop(
            f"--format {format_name}: this net cannot be exported so ({type(error).__name__}: {told[:300]})"
        ) from error


def check_program(
    format_name: str,
    path: Path,
    sides: tuple[Interface, Interface],
    pairs: Iterator[tuple[Any, Any]],
    class_axis: int | None,
    tolerance: float | None,
) -> dict[str, float]:
    """Return how far a program's outputs are from the net's, in a process of its own.

    Args:
        format_name: as in --format
        path: the program
        sides: its inputs and outputs
        pairs: inputs and the net's outputs
        class_axis: of the outputs
        tolerance: the user's, with which predictions may change; None for the default, with which none may

    Raises:
        Stop: too far, or the program does not run
    """
    from fiveline.serving.verify import TOLERANCE, run_in_fresh_process

    found = run_in_fresh_process(path, format_name, sides[0], pairs, class_axis)
    share, limit = found["largest_difference_as_share"], TOLERANCE if tolerance is None else tolerance
    if share <= limit and (tolerance is not None or not found.get("num_changed")):
        return {**found, "tolerance": limit}
    advice = f"; to accept this, type --tolerance {max(1.5 * share, 1e-9):.2g}" if math.isfinite(share) else ""
    raise utils.Stop(
        f"--format {format_name}: the program's outputs differ from the net's by up to "
        f"{found['largest_difference']:.3g}, {share:.2g} of their standard deviation ({limit:g} is accepted)"
        f"{_changes(found)}; it is not kept{advice}"
    )


def _changes(found: dict[str, Any]) -> str:
    if "num_changed" not in found:
        return ""
    return f", and {found['num_changed']:,} of {found['num_predictions']:,} predictions change"


def save_weights(model: nn.Module, path: Path) -> dict[str, str]:
    """Write a net's weights, and read them back.

    Raises:
        Stop: they are not the same
    """
    from fiveline.serving.programs import same_weights, write_safetensors

    write_safetensors(model, {"format": "pt"}, path)
    if not same_weights(model, path):
        raise utils.Stop("--format safetensors: what is read back are other weights; the file is not kept")
    return {"weights": "read back, the same to the bit"}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory of the run")
    parser.add_argument("--format", required=True, choices=list(PACKAGES))
    parser.add_argument("--output", default=None, metavar="PATH", help="file, or folder for it; default: the run's")
    parser.add_argument("--restore_file", default="best", help="checkpoint in --model_dir: best, last, or a path")
    parser.add_argument("--split", default="val", choices=["train", "val", "test"], help="what to compare outputs on")
    parser.add_argument("--data_dir", default=None, help="the dataset; default: the one that the run was trained on")
    parser.add_argument(
        "--tolerance", type=float, default=None, metavar="SHARE",
        help="largest difference from the net's outputs to accept, as a share of their standard deviation; "
        "default: 1e-4, and no prediction may change",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the script.

    Raises:
        Stop: for a reason that is told in its message
    """
    args = make_parser().parse_args(argv)
    jobs.refuse("export.py")
    check_installed(args.format)
    if args.tolerance is not None and not 0 <= args.tolerance < math.inf:
        raise utils.InputError(f"--tolerance {args.tolerance}: expected a number from 0, for example 0.001")
    model_dir = Path(args.model_dir)
    output = find_output(model_dir, args.format, args.restore_file, args.output)
    checkpoint_path = utils.checkpoint_path(model_dir, args.restore_file)
    params, _, model = fetch_trained(model_dir, checkpoint_path, utils.with_data_dir([], args.data_dir))
    model.eval()

    from fiveline.loader import fetch_dataloader
    from fiveline.serving.facts import axis_names, gather_facts
    from fiveline.serving.interface import apart, find_class_axis, find_interfaces

    dataloader = fetch_dataloader([args.split], Path(params.data_dir or ""), params, training=False)[args.split]
    samples = list(itertools.islice(fetch_pairs(model, dataloader), 2 * NUM_SAMPLES))
    sides = find_interfaces(samples, axis_names(params))
    if args.format == "onnx":  # whose tensors all have names of their own
        sides = apart(sides)
    with tempfile.TemporaryDirectory() as folder:  # not beside the output: what is left in a run is in train.py's way
        path = Path(folder) / output.name
        verified: dict[str, Any] = {"split": args.split, "num_examples": len(dataloader.dataset)}  # type: ignore[arg-type]
        if args.format == "safetensors":
            verified = save_weights(model, path)
        else:
            make_program(args.format, model, samples, sides, path)
            class_axis = find_class_axis(samples[0][1], dataloader.dataset.__getitems__((1, [0]))[1])  # type: ignore
            pairs = fetch_pairs(model, dataloader)
            verified |= check_program(args.format, path, sides, pairs, class_axis, args.tolerance)
        content = path.read_bytes()
    utils.write_atomically(output, content)
    facts = gather_facts(args.format, output.name, sides, params)
    utils.save_dict_to_json({**facts, "verified": verified}, output.with_name(f"{output.name}.json"))
    if args.format == "torchscript":
        print("- PyTorch has deprecated TorchScript; what can load --format pt2 had better do so", file=sys.stderr)
    told = f"{output}: {len(content):,} bytes, {agreement(verified)}; {output.name}.json says how to use it"
    print(utils.escaped_lines(told))


def agreement(verified: dict[str, Any]) -> str:
    """Return what the check has found, in words."""
    if "largest_difference" not in verified:
        return "read back the same, to the bit"
    return (
        f"as the net on the {verified['num_examples']} examples of {verified['split']} "
        f"(largest difference {verified['largest_difference']:.2g}, "
        f"{verified['largest_difference_as_share']:.2g} of the outputs' standard deviation{_changes(verified)})"
    )


if __name__ == "__main__":
    utils.run_script(main)
