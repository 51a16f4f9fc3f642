"""The plan of a study in this process, and what a trial leaves when it ends, without any training."""

import json

import utils
from fiveline.study.plan import Plan
from fiveline.study.settings import read_settings
from fiveline.study.trials import Directories
from fiveline.tasks import DEFAULT_TASK, fetch_params
from tests.support.tasks import need


def make_plan(parent_dir, *space_words, base=None, **settings):
    need((base or {}).get("task", DEFAULT_TASK))
    parent_dir.mkdir(exist_ok=True)
    if base is not None or not (parent_dir / "params.json").exists():
        (parent_dir / "params.json").write_text(json.dumps(base or {}))
    params = fetch_params(parent_dir)
    overrides = [f"{key}={utils.to_json(value, indent=None)}" for key, value in settings.items()]
    settings, space = read_settings(parent_dir, params, space_words, overrides)
    return Plan(Directories(parent_dir, params, space, settings.seeds), settings)


def finish_trial(trial, value=0.5, status="finished", epochs=None, best_epoch=None, best_loss=None):
    """Write what a run would."""
    epochs = trial.params.num_epochs if epochs is None else epochs
    record = {
        "status": status, "params": trial.params.model_dump(mode="json"), "best": value,
        "best_loss": best_loss, "epochs": epochs,
        "best_epoch": epochs if best_epoch is None else best_epoch, "lower_is_better": [],
    }  # fmt: skip
    (trial.path / "run.json").write_text(json.dumps(record))
    rows = [{"epoch": epoch + 1, "val": {"accuracy": value}, "seconds": 1.0} for epoch in range(epochs)]
    (trial.path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
