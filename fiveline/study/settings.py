"""The settings of a study: `search.yaml`, or the command line, as one checked object. Imports no torch."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

import utils
from fiveline.study.space import Space
from fiveline.study.space_entries import read_space

FILE_NAME = "search.yaml"
CS230_NAME, CS230_SPACE = "learning_rate", ["learning_rate=1e-4,1e-3,1e-2"]  # CS230's study has no such file


class Settings(BaseModel):
    """How a study searches its space."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    sampler: Literal["grid", "random", "tpe", "gp"] | None = Field(
        None, description="proposes the trials; null is grid for a space of lists, tpe for one with ranges"
    )
    num_trials: int | None = Field(None, ge=1, description="trials in all; null for a whole grid")
    seeds: list[int] = Field([], description="run each trial with each of these seeds")
    pruner: Literal["none", "median", "asha", "hyperband"] = Field("none", description="stops unpromising trials")
    min_epochs: int = Field(1, ge=1, description="epochs that every trial may train before it is pruned")
    max_hours: float | None = Field(None, gt=0, description="stop after this time; rerun the same command to continue")
    max_gigabytes: float | None = Field(None, gt=0, description="limit for checkpoints; the worst are deleted")
    timeout_minutes: float | None = Field(None, gt=0, description="for one trial, each time it is started")
    max_retries: int = Field(2, ge=0, description="how often a trial that crashed or was killed is started again")
    sampler_seed: int = Field(230, ge=0, lt=2**32, description="seed of the sampler's proposals")


def words_for_all_trials(words: Sequence[str], cls: type[utils.Params]) -> list[str]:
    """Return the `key=value` words that set a hyperparameter of every trial, not a setting of the study."""
    names = cls.model_fields.keys() - Settings.model_fields.keys()
    return [word for word in words if word.partition("=")[0] in names]


def read_settings(
    parent_dir: Path, base: utils.Params, space_words: Sequence[str], overrides: Sequence[str]
) -> tuple[Settings, Space]:
    """Return a study's settings and space: of its search.yaml, or of the command line, whose words come first."""
    path = parent_dir / FILE_NAME
    has_file = path.is_file()
    if not has_file and not space_words:
        if parent_dir.resolve().name != CS230_NAME:
            found = f"{parent_dir}: no {FILE_NAME} in it, and no --space"
            raise utils.InputError(f"{found}; state what varies, for example --space learning_rate=1e-4,1e-3")
        space_words = CS230_SPACE
    values, mistakes = utils.read_values(path) if has_file else ({}, [])
    overridden, wrong_words = utils.read_overrides(overrides)
    in_file = values.pop("space", {})
    values.pop("reproducible", None)  # a setting of version 0.1.0
    raw_space, wrong_space = _read_space_words(space_words) if space_words else (in_file, [])
    source = " ".join([*([str(path)] if has_file else []), *(["--space"] if space_words else []), *overrides])
    space, wrong_values = read_space(raw_space, base)
    mistakes = [*mistakes, *wrong_space, *wrong_words, *wrong_values]
    settings = utils.check_values(Settings, {**values, **overridden}, source, mistakes)
    settings = settings.model_copy(update={"sampler": settings.sampler or ("grid" if space.is_finite else "tpe")})
    return utils.check_values(Settings, settings.model_dump(), source, _combined_mistakes(settings, space, base)), space


def _combined_mistakes(settings: Settings, space: Space, base: utils.Params) -> list[str]:
    """Return the mistakes in how the settings, the space and the base go together."""
    mistakes = []
    if settings.sampler == "grid" and not space.is_finite:
        mistakes.append("sampler grid: the space has ranges; give them a step, or lists, or take random or tpe")
    if settings.sampler != "grid" and settings.num_trials is None:
        mistakes.append(f"num_trials: how many? sampler {settings.sampler} has no end; set, for example, num_trials=20")
    if settings.sampler == "gp" and importlib.util.find_spec("scipy") is None:
        mistakes.append("sampler gp: needs scipy, which is not installed; pip install scipy")
    if "seed" in space.names and settings.seeds:
        mistakes.append("seeds: seed is also in the space; remove one of them")
    if settings.seeds:
        mistakes += [line.replace("space: seed", "seeds") for line in read_space({"seed": settings.seeds}, base)[1]]
    if settings.sampler == "grid" and not mistakes:
        mistakes += space.grid_mistakes(base)
    return mistakes


def _read_space_words(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the space that `name=value,value` and `name={low: 1, high: 2}` words describe, and the mistakes."""
    parts = [word.partition("=") for word in words]
    listed = [f"{name}=[{text}]" if name.isidentifier() and eq else name + eq + text for name, eq, text in parts]
    values, wrong = utils.read_overrides(listed)
    twice = [name for name, count in Counter(name for name, _, _ in parts).items() if count > 1]
    return values, [f"--space {line}" for line in wrong] + [f"--space: {name} comes twice" for name in twice]
