"""The check of the hyperparameters: are those that somebody set looked at by anything?"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import evaluate
import train
import utils
from fiveline.sanity.context import Batches, Context, FewSteps, Finding
from fiveline.state import fetch_training

PROJECT = Path(__file__).resolve().parents[2]
ROOMS = ("*.py", "model/*.py", "training/*.py", "evaluation/*.py")
NUM_STEPS, NUM_EXAMPLES = 2, 64


def hyperparameters(context: Context) -> Finding:
    """Is each hyperparameter that was set read on the way to the first steps and the first evaluation?"""
    context.once(walk)
    params = context.params
    house = utils.machine_settings(utils.Params)  # how often to save, say: no two steps would read it
    unread = sorted(params.model_fields_set - context.names_read - house - {"task"})
    nowhere = [name for name in unread if name not in _names_in_code(params.task)]
    fields = type(params).model_fields
    # one that has its default does no harm: a file may name them all
    idle = [name for name in unread if name not in nowhere and getattr(params, name) != fields[name].default]
    values = {"unread": unread}
    if nowhere:
        explanation = f"no line of model/{params.task} or of the training reads {', '.join(nowhere)}"
        return Finding(
            "FAIL", explanation, "use it where it was meant, or take it out of params.py and the file", values
        )
    if idle:
        told = ", ".join(f"{name}={getattr(params, name)}" for name in idle)
        advice = "another hyperparameter switches it off: change that one, or leave this one out"
        return Finding("WARN", f"set, but without effect beside the others: {told}", advice, values)
    if warnings := params.warnings():
        return Finding("WARN", "; ".join(warnings), "change one of the two, or leave this one out", values)
    number = len(params.model_fields_set)
    return Finding(
        "PASS", f"all {number} that are set are read", "train.py --describe_params says what each is", values
    )


def walk(context: Context) -> None:
    """Go the way of a run, from the net to the first evaluation, with hyperparameters that note who reads them."""
    params, net = context.watched_params, context.net
    training = fetch_training(context.fetch_model(params), net, params, steps_per_epoch=NUM_STEPS)
    indices = context.choose("train", context.few * NUM_STEPS)
    chosen = [(1, indices[start : start + context.few]) for start in range(0, len(indices), context.few)]
    batches = Batches(context.augmented, chosen, context.device)
    training.begin_epoch()
    train.train(training, batches, FewSteps(NUM_STEPS))  # type: ignore[arg-type]
    val_batches = context.batches("val", context.choose("val", NUM_EXAMPLES), context.few)
    evaluate.evaluate(training.evaluated_model, training.eval_loss_fn, val_batches, training.metrics)
    for _ in range(2):
        training.end_epoch(0.0, 0.0)
    training.is_finished()


@functools.cache
def _names_in_code(task: str) -> frozenset[str]:
    """Return what is read as an attribute anywhere in a task, in training and in evaluation, `params.x` among it."""
    names = set()
    for path in [path for pattern in (*ROOMS, f"model/{task}/*.py") for path in PROJECT.glob(pattern)]:
        if path.name != "params.py":  # there they are declared, and held to one another
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return frozenset(names)
