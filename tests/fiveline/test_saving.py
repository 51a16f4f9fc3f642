"""The progress of an epoch."""

import sys

from tests.support.runs import run_train


def test_a_bar_shows_the_loss_of_a_short_epoch_too(tmp_path, monkeypatch):
    shown = []

    class Bar:
        def __init__(self, **_):
            self.n, self.close = 0, lambda: None

        def update(self, number):
            self.n += number

        def set_postfix_str(self, text, **_):
            shown.append(text)

    monkeypatch.setattr("fiveline.saving.tqdm", Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run_train(tmp_path / "run", num_epochs=1)  # 13 steps, fewer than save_summary_steps
    assert len(shown) == 13 and all(text.startswith("loss=") for text in shown)
