"""Hyperparameters: one typed, bounded, documented class; files and the command line are held to it at once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from fiveline.record.check import check_values
from fiveline.record.effects import idle_settings
from fiveline.record.errors import InputError
from fiveline.record.files import to_json
from fiveline.record.text import parse_file, parse_value

FILE_NAMES = ("params.json", "params.yaml", "params.yml")
MACHINE: dict[str, Any] = {"machine": True}  # settings that do not change what is learnt, only how or where

P = TypeVar("P", bound="Params")


class Params(BaseModel):
    """The hyperparameters that every task has. A task adds its own in `model/<task>/params.py`.

    Every field has a type, bounds, a default and a one-line description. Objects are read-only.

    Example:
        params = Params.from_values({"learning_rate": 3e-4}, source="my notebook")
        params.learning_rate
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    task: str = Field("vision", description="which folder of model/ defines net, data and hyperparameters")
    data_dir: str | None = Field(None, description="the dataset; --data_dir beats it", json_schema_extra=MACHINE)
    seed: int = Field(230, ge=0, lt=2**32, description="decides weights, order, augmentation and dropout")

    learning_rate: float = Field(1e-3, gt=0, description="step size of the optimizer, before the schedule")
    batch_size: int = Field(32, ge=1, description="examples in one optimizer step, over all processes")
    microbatch_size: int | None = Field(
        None, ge=1, description="examples in memory at once: the step of a whole batch, taken in pieces; null for all"
    )
    num_epochs: int = Field(10, ge=1, description="passes over the train split")
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = Field("adam", description="as in torch.optim")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and rmsprop")
    nesterov: bool = Field(False, description="Nesterov momentum; sgd only")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty; decoupled from the gradient in adamw")
    clip_grad_norm: float | None = Field(None, gt=0, description="scale gradients down to this norm, all together")

    schedule: Literal["constant", "cosine", "step", "one_cycle", "plateau"] = Field(
        "constant", description="what becomes of the learning rate"
    )
    warmup_epochs: float | None = Field(
        None, ge=0, description="linear rise of the learning rate; null is 0, for one_cycle 30% of the training"
    )
    schedule_epochs: int = Field(10, ge=1, description="step: epochs between drops; plateau: epochs without a new best")
    schedule_factor: float = Field(0.1, gt=0, lt=1, description="step and plateau: what a drop multiplies the rate by")

    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="evaluate and save weights averaged over about 1 / (1 - ema_decay) steps"
    )

    monitor: str = Field(
        "accuracy",
        description="val metric, or loss, that decides which checkpoint is best; ties go to the lower val loss",
    )
    early_stopping_epochs: int | None = Field(None, ge=1, description="stop after so many epochs without a new best")

    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32",
        description="of the forward pass; the weights stay fp32 (fp16: the loss is scaled)",
        json_schema_extra=MACHINE,
    )
    compile: bool = Field(False, description="let torch.compile make the net faster", json_schema_extra=MACHINE)
    deterministic: bool = Field(
        False,
        description="on a GPU: take the algorithms that give the same bits each time, and stop where there are none",
        json_schema_extra=MACHINE,
    )
    activation_checkpointing: bool = Field(
        False,
        description="less memory, more time: compute the inside of the net's blocks again",
        json_schema_extra=MACHINE,
    )
    num_workers: int = Field(0, ge=0, le=256, description="processes that load data", json_schema_extra=MACHINE)
    fsdp: bool = Field(
        False, description="spread the weights over the processes of torchrun", json_schema_extra=MACHINE
    )
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="longest time between two checkpoints, also within an epoch", json_schema_extra=MACHINE
    )
    detect_anomaly: bool = Field(
        False, description="slow: say which operation made the first NaN gradient", json_schema_extra=MACHINE
    )
    tensorboard: bool = Field(False, description="write the history for TensorBoard as well", json_schema_extra=MACHINE)
    save_summary_steps: int = Field(100, ge=1, description="steps between log lines", json_schema_extra=MACHINE)

    _facts: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _nesterov_needs_sgd(self) -> Params:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov: needs optimizer 'sgd' and a momentum above 0")
        return self

    @model_validator(mode="after")
    def _compiled_nets_save_memory_by_themselves(self) -> Params:
        if self.compile and self.activation_checkpointing:
            raise ValueError("activation_checkpointing: does not go with compile, which saves memory in its own way")
        return self

    @model_validator(mode="after")
    def _spread_weights_go_alone(self) -> Params:
        if self.fsdp and self.microbatch_size is not None:
            raise ValueError("fsdp: does not go with microbatch_size, the processes may differ in their pieces")
        if self.fsdp and self.ema_decay is not None:
            raise ValueError("fsdp: does not go with ema_decay, which averages whole weights")
        if self.fsdp and self.precision == "fp16":
            raise ValueError("fsdp: does not go with precision fp16; bf16 needs no scaling of the loss")
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What the data decides (class names, vocabulary, sizes), from the task's `fetch_facts`; empty until then."""
        return self._facts

    def with_facts(self: P, facts: Mapping[str, Any]) -> P:
        """Return a copy that carries `facts`. They are no hyperparameters: no file sets them, no hash holds them."""
        copy = self.model_copy()
        copy._facts = dict(facts)
        return copy

    @classmethod
    def from_values(cls: type[P], values: Mapping[str, Any], source: str, mistakes: Sequence[str] = ()) -> P:
        """Return the hyperparameters in `values`.

        Args:
            values: name -> value, as read from a file and the command line
            source: what the user should look at, for the message
            mistakes: found already while reading

        Raises:
            InputError: all mistakes of the file at once
        """
        return check_values(cls, values, source, mistakes)

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return one line for each hyperparameter that differs from `other`, machine settings and num_epochs aside."""
        passing = {*machine_settings(type(self)), "num_epochs"}
        mine = self.model_dump(mode="json")
        names = [name for name in mine if name not in passing and mine[name] != other.get(name, _default(self, name))]
        return [f"{name}: {other.get(name, _default(self, name))!r} -> {mine[name]!r}" for name in names]

    def explicit_values(self) -> dict[str, Any]:
        """Return the hyperparameters that somebody set; the others have their defaults."""
        values: dict[str, Any] = self.model_dump(mode="json", include=self.model_fields_set)
        return values

    def warnings(self) -> list[str]:
        """Return one line for each setting that can have no effect beside the others. A task adds its own."""
        return idle_settings(self)

    def has_stopped_early(self, epoch: int, best_epoch: int) -> bool:
        """Return whether a run that is `epoch` epochs old has waited long enough for a new best."""
        return self.early_stopping_epochs is not None and epoch - best_epoch >= self.early_stopping_epochs

    def hash(self) -> str:
        """Return 16 hexadecimal digits that name these hyperparameters, wherever and on whatever machine they run."""
        values = {k: v for k, v in self.model_dump(mode="json").items() if k not in machine_settings(type(self))}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _default(params: Params, name: str) -> Any:
    """The value of a hyperparameter that an older run did not know yet."""
    return type(params).model_fields[name].get_default(call_default_factory=True)


def machine_settings(cls: type[Params]) -> set[str]:
    """Return the names of the hyperparameters that do not change what is learnt."""
    return {name for name, field in cls.model_fields.items() if field.json_schema_extra == MACHINE}


def find_params_file(model_dir: Path) -> Path:
    """Return the params file of a run directory.

    Raises:
        InputError: the directory or the file is missing, or there are two
    """
    if not model_dir.is_dir():
        raise InputError(
            f"{model_dir}: there is no such directory; make it and put a params.json in it (or --model_dir)"
        )
    paths = [model_dir / name for name in FILE_NAMES if (model_dir / name).exists()]  # the reader refuses a pipe
    if not paths:
        raise InputError(
            f"{model_dir}: no params.json and no params.yaml in it; an empty one, {{}}, takes the defaults"
        )
    if len(paths) > 1:
        raise InputError(f"{model_dir}: both {paths[0].name} and {paths[1].name}; remove the one that does not count")
    return paths[0]


def read_values(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a params file, and the mistakes seen on the way.

    Raises:
        InputError: the file is not JSON or YAML at all
    """
    values, mistakes = parse_file(path)
    return _without_nan(values, mistakes)


def read_overrides(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values of `key=value` words from the command line, and the mistakes in them."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            mistakes.append(f"{word!r} is no key=value; write for example learning_rate=3e-4")
            continue
        try:
            values[key] = parse_value(text)
        except InputError as error:
            mistakes.append(f"{word}: {error}")
    return _without_nan(values, mistakes)


def with_data_dir(overrides: Sequence[str], data_dir: str | None) -> list[str]:
    """Return the overrides with --data_dir as one more; it beats all others."""
    return [*overrides, *([f"data_dir={to_json(data_dir)}"] if data_dir else [])]


def _without_nan(values: dict[str, Any], mistakes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Move the numbers that are none to the mistakes."""
    bad = {key: value for key, value in values.items() if isinstance(value, float) and not math.isfinite(value)}
    mistakes = mistakes + [f"{key}: {value} is not a finite number" for key, value in bad.items()]
    return {key: value for key, value in values.items() if key not in bad}, mistakes
