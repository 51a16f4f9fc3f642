"""What a tracker's own reader finds is what the run directory says, however often and whenever a run is published."""

import json
import signal
import struct
import subprocess
import sys

import pytest

import evaluate
import train
import utils
from fiveline import publish
from tests.support.data import read_csv, refusal
from tests.support.results import write_run


def sorted_out(points):
    """Return name -> the (step, value) of each point, and the captions of pictures, from (name, step, value)."""
    curves, captions = {}, set()
    for name, step, value in points:
        if isinstance(value, dict):
            captions |= {value["caption"]} if "caption" in value else set()
        else:
            curves.setdefault(name, []).append((step, value))
    return curves, captions


def read_trackio(folder, project, model_dir):
    import trackio

    found = {}
    for run in trackio.Api().runs(project):
        rows = trackio.SQLiteStorage.get_logs(project, run.name)
        points = ((name, row["step"], row[name]) for row in rows for name in row if name not in ("step", "timestamp"))
        found[run.name] = (run.config, *sorted_out(points))
    return found


def read_wandb(folder, project, model_dir):
    from wandb.proto import wandb_internal_pb2

    found = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, position, parts, config, points, summary = path.read_bytes(), 7, b"", {}, [], {}
        while position + 7 <= len(data):  # LevelDB's log format: records in blocks of 32 KiB
            if 32768 - position % 32768 < 7:
                position += 32768 - position % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", data, position)
            parts += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # a whole record, or the last part of one
                record, parts = wandb_internal_pb2.Record.FromString(parts), b""
                for item in [*record.config.update, *record.run.config.update]:
                    config[item.key] = json.loads(item.value_json)
                items = [(item.key or item.nested_key[0], item) for item in record.history.item]
                points += [(key, record.history.step.num, json.loads(item.value_json)) for key, item in items]
                for item in record.summary.update:
                    summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
        last = max(step for _, step, _ in points)
        points += [
            (name, last, summary[name]) for name in summary if name.startswith(("best_val/", "test/", "mistakes"))
        ]
        found[path.stem] = (config, *sorted_out(points))
    return found


def read_mlflow(folder, project, model_dir):
    import mlflow

    client, found = mlflow.MlflowClient(), {}
    for run in client.search_runs([client.get_experiment_by_name(project).experiment_id]):
        run_id, captions = run.info.run_id, {}
        points = [(name, each.step, each.value) for name in run.data.metrics
                  for each in client.get_metric_history(run_id, name)]  # fmt: skip
        if paths := {each.path for each in client.list_artifacts(run_id, "mistakes")}:
            captions = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/mistakes/captions.json")
            assert {f"{name}.png" for name in captions} < paths
        found[run_id] = (run.data.params, sorted_out(points)[0], set(captions.values()))
    return found


def read_tensorboard(folder, project, model_dir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(model_dir), size_guidance={"scalars": 0})
    events.Reload()
    experiment, start, end = (
        HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{key}").plugin_data.content)
        for key in ("experiment", "session_start_info", "session_end_info")
    )
    assert end.session_end_info.status == 1  # success
    metrics = {info.name.tag for info in experiment.experiment.metric_infos}
    assert {"accuracy/best_val", "loss/best_val"} <= metrics <= {*events.Tags()["scalars"]}
    values = start.session_start_info.hparams.items()
    params = {name: getattr(value, value.WhichOneof("kind")) for name, value in values}
    tags = {"/".join(reversed(tag.split("/"))): tag for tag in events.Tags()["scalars"]}
    points = ((name, event.step, event.value) for name, tag in tags.items() for event in events.Scalars(tag))
    return {model_dir: (params, sorted_out(points)[0], {tag.partition(" ")[2] for tag in events.Tags()["images"]})}


READERS = {"trackio": read_trackio, "wandb": read_wandb, "mlflow": read_mlflow, "tensorboard": read_tensorboard}


@pytest.fixture
def tracker(request, tmp_path, monkeypatch):
    """Return the name of a tracker that keeps its data in `tmp_path`; skip where it is not installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    pytest.importorskip(request.param)
    return request.param


def assert_published(tracker, folder, model_dir, num_runs=1):
    """Compare what the tracker's own reader finds with the files of the run directory; return the captions it has."""
    history = utils.read_lines(model_dir / "history.jsonl")
    found = READERS[tracker](folder, "digits", model_dir)
    assert len(found) == num_runs
    seconds = pytest.approx(history[0]["seconds"], rel=1e-6)  # which run it is
    [(params, curves, captions)] = [each for each in found.values() if each[1]["seconds"][0][1] == seconds]
    for name in ("learning_rate", "batch_size", "num_channels"):
        assert float(params[name]) == utils.read_json(model_dir / "run.json")["params"][name]
    expected = {name: [row[name] for row in history] for name in ("epoch", "learning_rate", "seconds")}
    for split in ("train", "val"):
        expected |= {f"{split}/{name}": [row[split][name] for row in history] for name in history[0][split]}
    for name, values in expected.items():
        assert [step for step, _ in curves[name]] == [row["epoch"] for row in history], name
        assert [value for _, value in curves[name]] == pytest.approx(values, rel=1e-6), name
    for split, file in (("best_val", "metrics_val_best_weights"), ("test", "metrics_test_best")):
        for name, value in utils.read_json(model_dir / f"{file}.json").items():
            points = curves[f"{split}/{name}"]  # at the epochs at which it had changed
            assert points[-1][1] == pytest.approx(value, rel=1e-6)
            assert len(points) == len(set(points))
    return captions


@pytest.mark.slow
@pytest.mark.parametrize("tracker", list(READERS), indirect=True)
def test_a_run_is_published_once_also_after_a_kill_and_its_numbers_are_ours(tracker, make_run, tmp_path, capsys):
    model_dir = make_run(learning_rate=1e-5)
    record = model_dir / publish.RECORD

    def publish_it(*scripts):
        for main, *words in scripts:
            main(["--model_dir", str(model_dir), *words])
        capsys.readouterr()
        publish.main([str(tmp_path), "--to", tracker, "--project", "digits"])
        return capsys.readouterr().out

    assert "1 of 1 runs" in publish_it((train.main,))
    before = record.read_bytes()
    assert "1 of 1 runs" in publish_it((train.main, "num_epochs=3"), (evaluate.main,))
    record.write_bytes(before)  # killed between logging and writing published.json; then the same command again
    assert "1 of 1 runs" in publish_it()
    captions = assert_published(tracker, tmp_path, model_dir)
    rows = read_csv(model_dir / "predictions_test_best.csv")
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    assert captions <= {f"{row['id']}: {row['label']}, predicted {row['prediction']}" for row in wrong}
    assert len(captions) == min(8, len(wrong)) > 0
    assert "0 of 1 runs" in publish_it()
    record.unlink()
    publish_it()
    assert assert_published(tracker, tmp_path, model_dir) == captions
    publish_it((train.main, "--restart", "num_epochs=1"), (evaluate.main,))
    assert_published(tracker, tmp_path, model_dir, num_runs=1 if tracker == "tensorboard" else 2)


def test_runs_without_an_epoch_and_unreadable_histories_are_left_out_and_named(tmp_path, monkeypatch, capsys):
    written = []
    monkeypatch.setitem(publish.TRACKERS, "tensorboard", written.append)
    row = {"epoch": 1, "train": {"loss": 0.5, "f1 (ä)": 0.1}, "val": {"loss": None}, "seconds": 2.0}
    for name in ("study/begun", "study/good", "study/torn"):
        write_run(tmp_path / name, {"learning_rate": 0.1}, status="running")
    (tmp_path / "study/good/history.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row)[:20])
    (tmp_path / "study/good/predictions_test_best.csv").write_text("id,label,prediction,loss\n1,a,b,0.5\n")
    (tmp_path / "study/torn/history.jsonl").write_text("{}\n{}\n")
    write_run(tmp_path / "cs230", val={"accuracy": 0.75, "loss": float("nan")})
    (tmp_path / "cs230/params.json").write_text('{"learning_rate": 0.5}')
    with pytest.raises(SystemExit):
        publish.main([str(tmp_path), "--to", "tensorboard"])
    output = capsys.readouterr()
    assert output.out == "tensorboard: 2 of 4 runs had something new\n"
    assert "torn" in output.err and "epoch" in output.err
    old, good = written
    assert (old.run.params, old.epochs, old.metrics) == ({"learning_rate": 0.5}, [], {"best_val/accuracy": 0.75})
    assert (good.run.name, good.group, good.project) == ("study/good", "study", tmp_path.name)
    assert good.pictures == {}  # the data is gone
    assert good.epochs == [{"epoch": 1, "train/loss": 0.5, "train/f1 _ä_": 0.1, "seconds": 2.0}]


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(publish.importlib.util, "find_spec", lambda name: None)
    message = refusal(publish.main, [str(tmp_path), "--to", "wandb"])
    assert message == "--to wandb: the package is not installed; pip install wandb"


@pytest.mark.slow
def test_watch_publishes_the_epochs_of_a_run_that_is_trained_and_the_last_one_after_ctrl_c(make_run, tmp_path, project):
    pytest.importorskip("tensorboard")
    model_dir = make_run(num_epochs=2)
    command = [sys.executable, "-m", "fiveline.publish", str(model_dir), "--to", "tensorboard", "--watch"]
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True)
    try:
        train.main(["--model_dir", str(model_dir), "num_epochs=1"])
        assert process.stdout.readline() == "tensorboard: 1 of 1 runs had something new\n"
        train.main(["--model_dir", str(model_dir)])
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    finally:
        process.kill()
        process.stdout.close()
    _, curves, _ = read_tensorboard(tmp_path, "", model_dir)[model_dir]
    assert curves["epoch"] == [(1, 1.0), (2, 2.0)]
