"""Hyperparameters: one typed, bounded, documented class, which files and the command line are checked against."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from fiveline.record.check import check_values

MACHINE: dict[str, Any] = {"machine": True}  # settings that do not change what is learnt, only how or where

FileName = Annotated[str, Field(min_length=1)]
P = TypeVar("P", bound="Params")


class Params(BaseModel):
    """The hyperparameters that every task has; a task adds its own in `model/<task>/params.py`. They are read-only."""

    RENAMED: ClassVar[dict[str, str]] = {}  # old name -> new name, which are read for one release with a warning
    REMOVED: ClassVar[dict[str, str]] = {  # old name -> what to do instead; the value is ignored, with a warning
        "tensorboard": "python -m fiveline.publish DIR --to tensorboard writes the events"
    }

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    task: str = Field("vision", description="which folder of model/ defines net, data and hyperparameters")
    data_dir: str | None = Field(None, description="the dataset; --data_dir overrides it", json_schema_extra=MACHINE)
    seed: int = Field(230, ge=0, lt=2**32, description="decides initial weights, order, augmentation and dropout")
    pretrained: bool | FileName = Field(
        False, description="weights to start from: a file or another run's directory; true: the net's published weights"
    )

    learning_rate: float = Field(1e-3, gt=0, description="step size of the optimizer, before the schedule")
    learning_rate_factors: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description='factors for some weights, by the start of their names: {"conv1": 0.1}; 0 keeps them fixed'
    )
    batch_size: int = Field(32, ge=1, description="examples in one optimizer step, over all processes")
    microbatch_size: int | None = Field(None, ge=1, description="examples on one device at once; null for all")
    num_epochs: int = Field(10, ge=1, description="passes over the train split, or over evaluate_every_steps steps")
    num_steps: int | None = Field(None, ge=1, description="steps of the run, instead of num_epochs")
    evaluate_every_steps: int | None = Field(
        None, ge=1, description="steps of an epoch, which ends with an evaluation; null: one pass over the train split"
    )
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop", "muon"] = Field(
        "adam", description="as in torch.optim; muon: for the matrices of hidden layers, adamw for the other weights"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd and rmsprop")
    beta2: float = Field(0.999, ge=0, lt=1, description="adam and adamw: decay of the mean squared gradient")
    nesterov: bool = Field(False, description="Nesterov momentum; sgd only")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty; decoupled from the gradient in adamw and muon")
    decay_all: bool = Field(True, description="false: no weight_decay for one-dimensional weights (norms, biases)")
    clip_grad_norm: float | None = Field(None, gt=0, description="scale all gradients together down to this norm")

    schedule: Literal["constant", "cosine", "step", "one_cycle", "plateau"] = Field(
        "constant", description="how the learning rate changes"
    )
    warmup_epochs: float | None = Field(
        None, ge=0, description="linear rise of the learning rate; null: 0, or 30% of the run for one_cycle"
    )
    warmup_steps: int | None = Field(None, ge=0, description="warmup in steps, instead of warmup_epochs")
    schedule_epochs: int = Field(10, ge=1, description="step: epochs between drops; plateau: epochs without a new best")
    schedule_factor: float = Field(0.1, gt=0, lt=1, description="step and plateau: each drop multiplies the rate by it")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="evaluate and save weights averaged over about 1 / (1 - ema_decay) steps"
    )
    monitor: str = Field("accuracy", description="val metric, or loss, that decides the best checkpoint")
    early_stopping_epochs: int | None = Field(None, ge=1, description="stop after this many epochs without a new best")

    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32", description="of the forward pass; weights stay fp32 (fp16: loss scaling)", json_schema_extra=MACHINE
    )
    compile: bool = Field(False, description="speed up the net with torch.compile", json_schema_extra=MACHINE)
    deterministic: bool = Field(
        False, description="on a GPU: only algorithms that give the same bits each time", json_schema_extra=MACHINE
    )
    activation_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory", json_schema_extra=MACHINE
    )
    num_workers: int = Field(0, ge=0, le=256, description="processes that load data", json_schema_extra=MACHINE)
    fsdp: bool = Field(False, description="shard the weights over torchrun's processes", json_schema_extra=MACHINE)
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="longest time between two checkpoints, also within an epoch", json_schema_extra=MACHINE
    )
    detect_anomaly: bool = Field(
        False, description="slow: name the operation that made the first NaN gradient", json_schema_extra=MACHINE
    )
    save_summary_steps: int = Field(100, ge=1, description="steps between log lines", json_schema_extra=MACHINE)

    _facts: dict[str, Any] = PrivateAttr(default_factory=dict)
    _old_names: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _check_combinations(self) -> Params:
        no_shards = self.microbatch_size or self.ema_decay or self.precision == "fp16" or self.optimizer == "muon"
        wrong = {
            "nesterov: needs optimizer 'sgd' and a momentum above 0": (
                self.nesterov and not (self.optimizer == "sgd" and self.momentum > 0)
            ),
            "activation_checkpointing: does not go with compile": self.compile and self.activation_checkpointing,
            "fsdp: does not go with microbatch_size, ema_decay, precision fp16 or muon": self.fsdp and no_shards,
            "warmup_steps: give it or warmup_epochs": None not in (self.warmup_steps, self.warmup_epochs),
            f"num_steps={self.num_steps}: expected a multiple of evaluate_every_steps, which must be given": (
                self.num_steps is not None and self.num_steps % (self.evaluate_every_steps or self.num_steps + 1) != 0
            ),
        }
        if any(wrong.values()):
            raise ValueError("; ".join(message for message, is_wrong in wrong.items() if is_wrong))
        if self.num_steps is not None:  # everything else counts in epochs alone
            self.__dict__["num_epochs"] = self.num_steps // (self.evaluate_every_steps or self.num_steps)
            self.model_fields_set.add("num_epochs")
        return self

    facts = property(operator.attrgetter("_facts"), doc="What the data decides, from `fetch_facts`; empty until then.")

    def with_facts(self: P, facts: Mapping[str, Any]) -> P:
        """Return a copy that carries `facts`, which are not hyperparameters: no file sets them, no hash holds them."""
        copy = self.model_copy()
        copy._facts = dict(facts)
        return copy

    @classmethod
    def from_values(cls: type[P], values: Mapping[str, Any], source: str, mistakes: Sequence[str] = ()) -> P:
        """Return the hyperparameters in `values`, as `check_values` does: an InputError lists all mistakes."""
        params = check_values(cls, cls.with_new_names(values), source, mistakes)
        params._old_names = [name for name in values if name in cls.RENAMED or name in cls.REMOVED]
        return params

    @classmethod
    def with_new_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return hyperparameters under the names of this version; where both names are given, the new one counts."""
        kept = [name for name in values if cls.RENAMED.get(name) not in values and name not in cls.REMOVED]
        return {cls.RENAMED.get(name, name): values[name] for name in kept}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return one line for each hyperparameter that differs from `other`, machine settings and num_epochs aside."""
        mine, other = self.model_dump(mode="json"), self.with_new_names(other)
        theirs = {  # what an older run did not know has its default
            name: other.get(name, field.get_default(call_default_factory=True))
            for name, field in type(self).model_fields.items()
            if field.json_schema_extra != MACHINE and name not in ("num_epochs", "num_steps")
        }
        return [f"{name}: {old!r} -> {mine[name]!r}" for name, old in theirs.items() if mine[name] != old]

    def explicit_values(self) -> dict[str, Any]:
        """Return the hyperparameters that were set; the others have their defaults."""
        return self.model_dump(mode="json", include=self.model_fields_set)

    def warnings(self) -> list[str]:
        """Return one line for each setting that can have no effect beside the others. A task adds its own."""
        drops = self.schedule in ("step", "plateau")
        lines = [
            f"{old}: no longer a hyperparameter; remove it. {self.REMOVED[old]}"
            if old in self.REMOVED
            else f"{old}: its name is {self.RENAMED[old]} now; the next release will not read the old one"
            for old in self._old_names
        ]
        if drops and self.schedule_epochs >= self.num_epochs:
            drop = f"with schedule_epochs={self.schedule_epochs} the learning rate never drops"
            lines.append(f"schedule {self.schedule!r}: {drop} in num_epochs={self.num_epochs}")
        lines += idle_unless(self, {"schedule_epochs": drops, "schedule_factor": drops}, "schedule")
        is_adam = self.optimizer in ("adam", "adamw")
        by_optimizer = {"momentum": self.optimizer in ("sgd", "rmsprop"), "beta2": is_adam}
        return [*lines, *idle_unless(self, by_optimizer, "optimizer")]

    def hash(self) -> str:
        """Return 16 hexadecimal digits that name these hyperparameters, wherever and on whatever machine they run."""
        values = self.model_dump(mode="json", exclude=machine_settings(type(self)))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def machine_settings(cls: type[Params]) -> set[str]:
    """Return the names of the hyperparameters that do not change what is learnt."""
    return {name for name, field in cls.model_fields.items() if field.json_schema_extra == MACHINE}


def idle_unless(params: Params, is_used: Mapping[str, bool], decider: str) -> Iterator[str]:
    """Yield a line for each hyperparameter that `decider` makes unused and that has another value than its default."""
    for name, used in is_used.items():
        value, default = getattr(params, name), type(params).model_fields[name].default
        if not used and value != default:
            yield f"{name}={value}: {decider}={getattr(params, decider)} ignores it; leave it out"
