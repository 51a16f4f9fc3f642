"""Where a run begins: what a directory holds decides it."""

import pytest

import evaluate
import train
import utils


def age(path):
    """Make a checkpoint one of a version that cut batches in another way."""
    state = utils.read_checkpoint(path)
    assert state.pop("batches") == "balanced"
    utils.write_checkpoint(state, path)


@pytest.fixture
def old_run(make_run):
    """A run of two epochs that an older version trained."""
    folder = make_run()
    train.main(["--model_dir", str(folder)])
    for path in folder.glob("*.pth.tar"):
        age(path)
    return folder


def test_a_run_of_an_older_version_is_not_continued_but_evaluated(old_run):
    before = {path: path.read_bytes() for path in old_run.glob("*.pth.tar")}
    with pytest.raises(utils.InputError) as caught:
        train.main(["--model_dir", str(old_run), "num_epochs=3"])
    message = str(caught.value)
    assert message.startswith(f"{old_run / 'last.pth.tar'}: ") and "this run of 2 epochs cannot be continued" in message
    assert all(word in message for word in ("evaluate.py", "--restart", "another --model_dir", "--restore_file"))
    assert {path: path.read_bytes() for path in old_run.glob("*.pth.tar")} == before
    evaluate.main(["--model_dir", str(old_run)])
    assert utils.read_json(old_run / "metrics_test_best.json")


def test_a_finished_run_of_an_older_version_is_reported_as_finished(old_run, capsys):
    train.main(["--model_dir", str(old_run)])
    assert "is finished: 2 epochs" in capsys.readouterr().out


def test_what_the_refusal_of_an_older_run_offers_works(old_run, make_run):
    other = make_run("other", num_epochs=1)
    train.main(["--model_dir", str(other), "--restore_file", str(old_run / "last.pth.tar")])
    assert utils.read_checkpoint(other / "last.pth.tar")["batches"] == "balanced"
    train.main(["--model_dir", str(old_run), "--restart", "num_epochs=3"])
    assert utils.read_checkpoint(old_run / "last.pth.tar")["epoch"] == 3
