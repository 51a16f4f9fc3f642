"""Hyperparameters of rows from CSV files. The defaults classify the digits in data/digits_rows."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

import utils

# Hyperparameters that only one net reads: with another net, changing one would change nothing.
ONLY_FOR = {"hidden_size": "two_layer", "hidden_sizes": "mlp", "dropout_rate": "mlp", "batch_norm": "mlp"}

Column = Annotated[str, Field(min_length=1), AfterValidator(lambda name: unicodedata.normalize("NFC", name))]


class Params(utils.Params):
    """The keys of `experiments/<run>/params.json` for the task `tabular`."""

    task: str = Field("tabular", description="which folder of model/ defines net, data and hyperparameters")
    data_dir: str | None = Field("data/digits_rows", description="the data's folder", json_schema_extra=utils.MACHINE)
    target: Column = Field("digit", description="the column to predict")
    target_type: Literal["classes", "number"] = Field("classes", description="classes, or a number (regression)")
    features: list[Column] | None = Field(None, min_length=1, description="columns to predict from; null: all others")
    categorical: list[Column] | None = Field(None, description="columns of categories; null: all without a number")
    id_column: Column | None = Field(None, description="the column that names each row; null: rows are counted, from 1")
    missing: list[str] = Field(["", "NA", "N/A", "NaN", "nan", "null", "?"], description="cells that have no value")
    min_category_count: int = Field(1, ge=1, description="categories with fewer rows in train count as unknown")
    delimiter: Literal[",", ";", "\t"] = Field(",", description="the character between two cells")

    val_fraction: float = Field(0.15, gt=0, lt=1, description="share that becomes val if the data has no val.csv")
    test_fraction: float = Field(0.15, gt=0, lt=1, description="share that becomes test if there is only data.csv")
    split_seed: int = Field(230, ge=0, lt=2**32, description="decides the rows of each split, whatever `seed` is")

    net: Literal["linear", "two_layer", "mlp"] = Field("two_layer", description="0, 1 or more hidden layers")
    hidden_size: int = Field(100, ge=1, description="width of the hidden layer of two_layer")
    hidden_sizes: list[Annotated[int, Field(ge=1)]] = Field([128, 64], min_length=1, description="hidden widths in mlp")
    dropout_rate: float = Field(0.0, ge=0, lt=1, description="share of the hidden features of mlp dropped in training")
    batch_norm: bool = Field(False, description="normalise the hidden features of mlp over the batch")
    linear_layer: Literal["torch", "custom"] = Field("torch", description="custom: the Linear written in net.py")
    monitor: str = Field("accuracy", description="val metric or loss that decides the best weights; rmse for a number")

    @model_validator(mode="before")
    @classmethod
    def _monitor_rmse(cls, values: Any) -> Any:
        is_number = isinstance(values, dict) and values.get("target_type") == "number"
        return {"monitor": "rmse", **values} if is_number else values

    @model_validator(mode="after")
    def _fits_together(self) -> Params:
        for name, net in ONLY_FOR.items():
            if getattr(self, name) != type(self).model_fields[name].default and self.net != net:
                raise ValueError(f"{name}: net {self.net!r} does not look at it; net={net}, or leave it out")
        for name, listed in (("features", self.features or []), ("categorical", self.categorical or [])):
            for column in listed:
                if listed.count(column) > 1:
                    raise ValueError(f"{name}: {column!r} is in the list twice")
                if column in (self.target, self.id_column):
                    raise ValueError(f"{name}: {column!r} is the target or the id_column; take it out of the list")
                if self.features and column not in self.features:
                    raise ValueError(f"{name}: {column!r} is not in features; add it there, or take it out here")
        if self.id_column == self.target:
            raise ValueError(f"id_column: {self.target!r} is the target already")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction: together with test_fraction it leaves nothing to train on")
        return self

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the outputs; only where target_type is classes."""
        return self.facts["classes"]
