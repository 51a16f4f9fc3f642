"""What a study is: `search.yaml`, or the command line, as one checked object. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

import utils
from fiveline.study.space import Space, read_space

FILE_NAMES = ("search.yaml", "search.yml", "search.json")
CS230_NAME, CS230_SPACE = "learning_rate", ["learning_rate=1e-4,1e-3,1e-2"]  # a study of CS230's has no file that says


class Settings(BaseModel):
    """How a study searches, all but its space."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    sampler: Literal["grid", "random", "tpe", "gp", "cmaes"] | None = Field(
        None, description="who proposes trials; null is grid for a space of lists, tpe for one with ranges"
    )
    num_trials: int | None = Field(None, ge=1, description="trials in all; null for a whole grid")
    seeds: list[int] = Field([], description="run each trial with each of these seeds")
    pruner: Literal["none", "median", "asha", "hyperband"] = Field("none", description="who stops hopeless trials")
    min_epochs: int = Field(1, ge=1, description="epochs that every trial may have before it is pruned")
    max_hours: float | None = Field(None, gt=0, description="stop after this time; the same command goes on")
    max_gigabytes: float | None = Field(None, gt=0, description="of checkpoints; the worst trials lose theirs")
    timeout_minutes: float | None = Field(None, gt=0, description="of one trial, each time it is started")
    max_retries: int = Field(2, ge=0, description="how often a trial that crashed or was killed is started again")
    sampler_seed: int = Field(230, ge=0, lt=2**32, description="decides the proposals")
    reproducible: bool = Field(
        False,
        description="the same proposals again, whatever finishes first: a proposal waits for the results that it is "
        "to know, so that processes may idle",
    )


def find_search_file(parent_dir: Path) -> Path | None:
    """Return the study's file, if it has one.

    Raises:
        InputError: there are two
    """
    paths = [parent_dir / name for name in FILE_NAMES if (parent_dir / name).is_file()]
    if len(paths) > 1:
        raise utils.InputError(f"{parent_dir}: both {paths[0].name} and {paths[1].name}; remove one")
    return paths[0] if paths else None


def words_for_all_trials(words: Sequence[str], cls: type[utils.Params]) -> list[str]:
    """Return the `key=value` words that set a hyperparameter of every trial, not a setting of the study."""
    keys = {word: word.partition("=")[0] for word in words}
    return [word for word in words if keys[word] in cls.model_fields and keys[word] not in Settings.model_fields]


def read_settings(
    parent_dir: Path, base: utils.Params, space_words: Sequence[str], overrides: Sequence[str]
) -> tuple[Settings, Space]:
    """Return how the study in a folder searches, and where.

    Args:
        parent_dir: with a search.yaml, perhaps
        base: what the trials have in common
        space_words: `name=value,value` or `name={low: 1, high: 2}`; they take the place of the file's space
        overrides: `key=value` words that beat the file's settings

    Raises:
        InputError: all mistakes at once: unknown keys, hyperparameters that do not exist, values out of their bounds
    """
    path = find_search_file(parent_dir)
    if path is None and not space_words and parent_dir.resolve().name == CS230_NAME:
        space_words = CS230_SPACE
    if path is None and not space_words:
        raise utils.InputError(
            f"{parent_dir}: no search.yaml in it, and no --space; say what varies, for example "
            "--space learning_rate=1e-4,1e-3,1e-2"
        )
    values, mistakes = utils.read_values(path) if path is not None else ({}, [])
    laid_over, more_mistakes = utils.read_overrides(overrides)
    raw_space = values.pop("space", {})
    if space_words:
        raw_space, space_mistakes = _read_space_words(space_words)
        mistakes = mistakes + space_mistakes
    source = " ".join([*([str(path)] if path else []), *(["--space"] if space_words else []), *overrides])
    space, space_mistakes = read_space(raw_space, base)
    settings = utils.check_values(
        Settings, {**values, **laid_over}, source, [*mistakes, *more_mistakes, *space_mistakes]
    )
    return _completed(settings, space, source, base), space


def _completed(settings: Settings, space: Space, source: str, base: utils.Params) -> Settings:
    """Return the settings with the sampler named, once all is known to fit together."""
    mistakes = []
    sampler = settings.sampler or ("grid" if space.is_finite else "tpe")
    if sampler == "grid" and not space.is_finite:
        mistakes.append("sampler grid: the space has ranges; give them a step, or lists, or take random or tpe")
    if sampler != "grid" and settings.num_trials is None:
        mistakes.append(f"num_trials: how many? sampler {sampler} can go on for ever; for example num_trials=20")
    if "seed" in space.names and settings.seeds:
        mistakes.append("seeds: seed is in the space already; give it in one place")
    if len(set(settings.seeds)) != len(settings.seeds):
        mistakes.append(f"seeds: {settings.seeds} has one twice")
    mistakes += [
        line for seed in settings.seeds for line in utils.find_mistakes(type(base), {"seed": seed}, alone=True)
    ]
    if sampler == "grid" and not mistakes:
        mistakes += space.grid_mistakes(base)
    return utils.check_values(Settings, {**settings.model_dump(), "sampler": sampler}, source, mistakes)


def _read_space_words(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the space of `name=value,value` and `name={low: .., high: ..}` words, and the mistakes in them."""
    space: dict[str, Any] = {}
    mistakes: list[str] = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not text.strip() or not name.isidentifier():
            mistakes.append(f"--space {word!r}: expected name=value,value; for example learning_rate=1e-4,1e-3")
            continue
        if name in space:
            mistakes.append(f"--space: {name} comes twice; give all of its values in one")
        bracketed = text if text.lstrip().startswith("{") else f"[{text}]"
        values, wrong = utils.read_overrides([f"{name}={bracketed}"])
        mistakes += [f"--space {each}" for each in wrong]
        space |= values
    return space, mistakes
