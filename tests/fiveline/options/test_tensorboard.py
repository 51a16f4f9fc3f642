"""TensorBoard's events say what the history says, whatever happened to the run."""

import importlib.util
import json

import pytest

import train
import utils

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="there is no tensorboard; requirements-dev.txt has it"
)


def read_events(model_dir):
    """What TensorBoard itself reads: tag -> [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(model_dir), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_same_as_history(model_dir, epochs):
    history = utils.RunDirectory(model_dir).history()
    assert [row["epoch"] for row in history] == epochs
    events = read_events(model_dir)
    for split in ("train", "val"):
        for name in history[0][split]:
            expected = [(row["epoch"], pytest.approx(row[split][name], rel=1e-6)) for row in history]
            assert events[f"{name}/{split}"] == expected
    assert events["learning_rate"] == [(row["epoch"], pytest.approx(row["learning_rate"])) for row in history]


@needs_tensorboard
def test_events_are_the_history_also_after_a_crash_and_a_restart(make_run):
    model_dir = make_run()
    train.main(["--model_dir", str(model_dir), "tensorboard=true"])
    assert_same_as_history(model_dir, [1, 2])
    # a process that was killed after it had written an epoch and before its checkpoint
    from fiveline.options.tensorboard import Events

    run = utils.RunDirectory(model_dir)
    lost = {**run.history()[-1], "epoch": 3, "val": {**run.history()[-1]["val"], "accuracy": -1.0}}
    run.append_history(lost)
    Events(run, train.fetch_params(model_dir, [])).write([lost])
    assert read_events(model_dir)["accuracy/val"][-1] == (3, -1.0)
    train.main(["--model_dir", str(model_dir), "tensorboard=true", "num_epochs=4"])
    assert_same_as_history(model_dir, [1, 2, 3, 4])
    train.main(["--model_dir", str(model_dir), "--restart", "tensorboard=true", "num_epochs=1"])
    assert_same_as_history(model_dir, [1])
    train.main(["--model_dir", str(model_dir), "--restart", "num_epochs=1"])
    assert list(model_dir.glob("events.*")) == []


@needs_tensorboard
def test_a_run_that_goes_on_with_tensorboard_shows_its_earlier_epochs_too(make_run):
    model_dir = make_run()
    train.main(["--model_dir", str(model_dir), "num_epochs=2"])
    assert list(model_dir.glob("events.*")) == []
    train.main(["--model_dir", str(model_dir), "num_epochs=3", "tensorboard=true"])
    assert_same_as_history(model_dir, [1, 2, 3])


@needs_tensorboard
def test_hyperparameters_are_in_tensorboards_own_table(make_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    model_dir = make_run(learning_rate=0.25)
    train.main(["--model_dir", str(model_dir), "tensorboard=true"])
    events = EventAccumulator(str(model_dir))
    events.Reload()
    data = {}
    for key in ("experiment", "session_start_info", "session_end_info"):
        content = events.SummaryMetadata(f"_hparams_/{key}").plugin_data.content
        data[key] = HParamsPluginData.FromString(content)
    assert data["session_start_info"].session_start_info.hparams["learning_rate"].number_value == 0.25
    assert data["session_start_info"].session_start_info.hparams["optimizer"].string_value == "adam"
    metrics = {info.name.tag for info in data["experiment"].experiment.metric_infos}
    assert {"accuracy/val", "loss/val"} <= metrics
    assert data["session_end_info"].session_end_info.status == 1  # success


def test_without_the_package_one_line_says_how_to_get_it(make_run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    model_dir = make_run()
    with pytest.raises(utils.InputError, match=r"^tensorboard: the package is not installed; pip install tensorboard"):
        train.main(["--model_dir", str(model_dir), "tensorboard=true"])
    assert not (model_dir / "history.jsonl").exists()


def test_run_json_says_how_long_all_epochs_took(make_run):
    model_dir = make_run()
    train.main(["--model_dir", str(model_dir), "num_epochs=1"])
    train.main(["--model_dir", str(model_dir), "num_epochs=3"])
    rows = [json.loads(line) for line in (model_dir / "history.jsonl").read_text().splitlines()]
    assert json.loads((model_dir / "run.json").read_text())["seconds"] == sum(row["seconds"] for row in rows)
