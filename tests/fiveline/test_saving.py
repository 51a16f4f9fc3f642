"""The progress of an epoch, and the time that a run took."""

import sys

import train
import utils
from tests.support.runs import run_train


def test_a_bar_shows_the_loss_of_a_short_epoch_too(tmp_path, monkeypatch):
    shown = []

    class Bar:
        def __init__(self, disable=False, **_):
            self.n, self.disable, self.close = 0, disable, lambda: None

        def update(self, number):
            self.n += number

        def set_postfix_str(self, text, **_):
            shown.append(text)

    monkeypatch.setattr("fiveline.saving.tqdm", Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run_train(tmp_path / "run", num_epochs=1)  # 13 steps, fewer than save_summary_steps
    assert len(shown) == 13 and all(text.startswith("loss=") for text in shown)


def test_run_json_says_how_long_all_epochs_took(make_run):
    model_dir = make_run()
    train.main(["--model_dir", str(model_dir), "num_epochs=1"])
    train.main(["--model_dir", str(model_dir), "num_epochs=3"])
    rows = utils.read_lines(model_dir / "history.jsonl")
    assert utils.read_json(model_dir / "run.json")["seconds"] == sum(row["seconds"] for row in rows)
