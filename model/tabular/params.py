"""Hyperparameters of rows from CSV files. The defaults classify the digits in data/digits_rows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

import utils
from model.tabular.cells import nfc

# Hyperparameters that only one of the nets looks at: elsewhere, changing one would change nothing.
ONLY_FOR = {"hidden_size": "two_layer", "hidden_sizes": "mlp", "dropout_rate": "mlp", "batch_norm": "mlp"}


class Params(utils.Params):
    """What `experiments/<run>/params.json` may say when its task is `tabular`."""

    task: str = Field("tabular", description="which folder of model/ defines net, data and hyperparameters")
    data_dir: str | None = Field(
        "data/digits_rows", description="the dataset; --data_dir beats it", json_schema_extra=utils.MACHINE
    )
    target: str = Field("digit", min_length=1, description="the column to predict")
    target_type: Literal["classes", "number"] = Field(
        "classes", description="classes: one of the values seen in train; number: a quantity (regression)"
    )
    features: list[str] | None = Field(
        None, min_length=1, description="the columns to predict from; null: all but target and id_column"
    )
    categorical: list[str] | None = Field(
        None, description="the features that are names of things; null: those without a single number in train"
    )
    id_column: str | None = Field(None, description="the column that names each row; null: rows are counted, from 1")
    missing: list[str] = Field(
        ["", "NA", "N/A", "NaN", "nan", "null", "?"], description="what stands in a cell that has no value"
    )
    min_category_count: int = Field(
        1, ge=1, description="categories with fewer rows in train share one slot with the unknown and the missing"
    )
    delimiter: Literal[",", ";", "\t"] = Field(",", description="what stands between two cells")

    val_fraction: float = Field(0.15, gt=0, lt=1, description="share cut off as val where the data has no val.csv")
    test_fraction: float = Field(0.15, gt=0, lt=1, description="share cut off as test where there is only data.csv")
    split_seed: int = Field(230, ge=0, lt=2**32, description="decides which rows are cut off; not the run's seed")

    net: Literal["linear", "two_layer", "mlp"] = Field(
        "two_layer", description="linear: logistic or linear regression; two_layer: one hidden layer; mlp: hidden_sizes"
    )
    hidden_size: int = Field(100, ge=1, description="width of the hidden layer of two_layer")
    hidden_sizes: list[Annotated[int, Field(ge=1)]] = Field(
        [128, 64], min_length=1, description="width of each hidden layer of mlp"
    )
    dropout_rate: float = Field(0.0, ge=0, lt=1, description="share of the hidden features of mlp dropped in training")
    batch_norm: bool = Field(False, description="normalise the hidden features of mlp over the batch")
    linear_layer: Literal["torch", "custom"] = Field(
        "torch", description="torch: nn.Linear; custom: the same by hand, model/tabular/linear.py"
    )

    monitor: str = Field(
        "accuracy", description="val metric, or loss, that decides which checkpoint is best; of a number, rmse"
    )

    @field_validator("target", "id_column")
    @classmethod
    def _in_one_spelling(cls, name: str | None) -> str | None:
        return name and nfc(name)

    @field_validator("features", "categorical")
    @classmethod
    def _all_in_one_spelling(cls, names: list[str] | None) -> list[str] | None:
        return names and [nfc(name) for name in names]

    @model_validator(mode="before")
    @classmethod
    def _monitor_of_a_number(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("target_type") == "number":
            return {"monitor": "rmse", **values}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Params:
        for name, net in ONLY_FOR.items():
            default = type(self).model_fields[name].default
            if getattr(self, name) != default and self.net != net:
                raise ValueError(f"{name}: net {self.net!r} does not look at it; net={net}, or leave it out")
        if self.id_column == self.target:
            raise ValueError(f"id_column: {self.target!r} is the target already")
        columns = self.features or []
        for name in ("features", "categorical"):
            listed = getattr(self, name) or []
            twice = sorted({column for column in listed if listed.count(column) > 1})
            if twice:
                raise ValueError(f"{name}: {twice[0]!r} is in the list twice")
            for role in ("target", "id_column"):
                if getattr(self, role) in listed:
                    raise ValueError(f"{name}: {getattr(self, role)!r} is the {role}; take it out of the list")
        strangers = [column for column in self.categorical or [] if columns and column not in columns]
        if strangers:
            raise ValueError(f"categorical: {strangers[0]!r} is not in features; add it there, or take it out here")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction: together with test_fraction it leaves nothing to train on")
        return self

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the outputs; known once the data is, and only where target_type says so."""
        names: list[str] = self.facts["classes"]
        return names
