"""Settings that can have no effect beside the others: a schedule that never drops, a warm-up that never ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def idle_settings(params: Any) -> list[str]:
    """Return one line for each common hyperparameter that is set in vain.

    Args:
        params: hyperparameters of any task
    """
    return [*_idle_schedule(params), *_idle_beside(params)]


def _idle_schedule(params: Any) -> Iterator[str]:
    epochs, patience = params.num_epochs, params.early_stopping_epochs
    drop = f"schedule {params.schedule!r}: with schedule_epochs={params.schedule_epochs} the learning rate never drops"
    if params.schedule == "step" and params.schedule_epochs >= epochs:
        advice = f"take {epochs - 1} or less" if epochs > 1 else "take another schedule"
        yield f"{drop} in num_epochs={epochs}; {advice}"
    if params.schedule == "plateau" and params.schedule_epochs >= epochs - 1:  # the first epoch is always a new best
        advice = f"take {epochs - 2} or less" if epochs > 2 else "take another schedule"
        yield f"{drop} in num_epochs={epochs}; {advice}"
    elif params.schedule == "plateau" and patience is not None and params.schedule_epochs >= patience:
        yield f"{drop}: early_stopping_epochs={patience} comes first; schedule_epochs must be lower"
    if params.warmup_epochs and params.warmup_epochs >= epochs:
        yield f"warmup_epochs={params.warmup_epochs:g}: the learning rate is still rising after num_epochs={epochs}"
    if patience is not None and patience >= epochs - 1:
        advice = f"take {epochs - 2} or less" if epochs > 2 else "leave it out"
        yield f"early_stopping_epochs={patience}: never stops a run of num_epochs={epochs}; {advice}"


def _idle_beside(params: Any) -> Iterator[str]:
    drops = params.schedule in ("step", "plateau")
    yield from idle_unless(params, {"schedule_epochs": drops, "schedule_factor": drops}, "schedule")
    yield from idle_unless(params, {"momentum": params.optimizer in ("sgd", "rmsprop")}, "optimizer")
    pieces = params.microbatch_size
    if pieces is not None and pieces >= params.batch_size:
        yield f"microbatch_size={pieces}: cuts nothing unless it is below batch_size={params.batch_size}"


def idle_unless(params: Any, is_used: Mapping[str, bool], decider: str) -> Iterator[str]:
    """Yield a line for each hyperparameter that is not used, and has another value than its default.

    Args:
        params: hyperparameters of any task
        is_used: by name
        decider: the hyperparameter that decides it
    """
    for name, used in is_used.items():
        value, default = getattr(params, name), type(params).model_fields[name].default
        if not used and value != default:
            yield f"{name}={value}: {decider}={getattr(params, decider)} does not look at it; leave it out"
