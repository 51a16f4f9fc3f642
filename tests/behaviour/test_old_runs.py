"""Runs and a study that were written before the redesign: they load, evaluate and appear in tables.

They are in tests/support/old_runs, written by commit a4b74ee on the data that ships with the project.
"""

import shutil

import pytest

import evaluate
import search_hyperparams
import synthesize_results
import train
import utils
from tests.support.runs import PROJECT, read_state
from tests.support.tasks import need, task_of

OLD = PROJECT / "tests/support/old_runs"


@pytest.fixture
def old(tmp_path):
    """Return a function that copies an old directory."""

    def copy(name):
        need(task_of(OLD / name))
        shutil.copytree(OLD / name, tmp_path / name)
        return tmp_path / name

    return copy


@pytest.mark.parametrize("name", ["images", "tokens"])
def test_an_old_checkpoint_is_scored_as_it_was(old, name):
    folder = old(name)
    expected = utils.read_json(folder / "metrics_test_best.json")
    (folder / "metrics_test_best.json").unlink()
    evaluate.main(["--model_dir", str(folder)])
    assert utils.read_json(folder / "metrics_test_best.json") == pytest.approx(expected, rel=1e-4)
    evaluate.main(["--model_dir", str(folder), "--split", "val"])
    val, then = (utils.read_json(folder / f"metrics_val_best{end}.json") for end in ("", "_weights"))
    assert val == pytest.approx(then, rel=1e-4)


def test_an_old_run_that_would_continue_in_another_order_is_refused(old, capsys):
    folder = old("images")
    before = (folder / "last.pth.tar").read_bytes()
    train.main(["--model_dir", str(folder)])
    assert "is finished: 2 epochs" in capsys.readouterr().out
    with pytest.raises(utils.InputError, match=r"last\.pth\.tar: .*older version.*--restart"):
        train.main(["--model_dir", str(folder), "num_epochs=3"])
    assert (folder / "last.pth.tar").read_bytes() == before
    train.main(["--model_dir", str(folder), "num_epochs=3", "--restart"])
    assert read_state(folder)["epoch"] == 3


def test_the_weights_of_an_old_run_start_a_new_one(old, tmp_path):
    source, folder = old("images"), tmp_path / "new"
    folder.mkdir()
    shutil.copy(source / "params.json", folder)
    train.main(["--model_dir", str(folder), "--restore_file", str(source / "best.pth.tar"), "num_epochs=1"])
    assert read_state(folder)["epoch"] == 1


def test_an_old_study_is_in_the_table_and_goes_on(old, capfd):
    parent_dir = old("rows_study")
    synthesize_results.main(["--parent_dir", str(parent_dir)])
    table = capfd.readouterr().out
    assert "learning_rate_0.01 " in table and "0.9554" in table and "0.71" in table
    search_hyperparams.main(["--parent_dir", str(parent_dir), "--space", "learning_rate=0.01,0.001"])
    assert "0.9554" in capfd.readouterr().out
    for trial in ("learning_rate_0.01", "learning_rate_0.001"):  # neither was trained again
        kept = OLD / "rows_study" / trial / "best.pth.tar"
        assert (parent_dir / trial / "best.pth.tar").read_bytes() == kept.read_bytes()
