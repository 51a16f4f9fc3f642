"""A trained run in Python: its table of layers, its inputs, its errors. (test_predict.py compares its predictions.)"""

import re
import shutil

import pytest

import fiveline
import utils
from fiveline.loader import fetch_dataloader
from tests.support.runs import finish
from tests.support.tasks import needs

pytestmark = needs("vision")


@pytest.fixture
def model_dir(make_run):
    return finish(make_run(num_epochs=1))


def layers(run):
    return {line.split()[0]: re.split(r"  +", line) for line in str(run).splitlines()[3:-1]}


def test_print_shows_layers_shapes_weights_and_memory(model_dir, tmp_path):
    run = fiveline.load(model_dir)
    printed, rows = str(run), layers(run)
    assert rows["conv1"] == ["conv1", "Conv2d", "(1, 4, 8, 8)", "40"]  # 4 filters of 3 x 3, and 4 biases
    assert rows["fc2"] == ["fc2", "Linear", "(1, 3)", "51"]
    number = sum(each.numel() for each in run.model.parameters())
    assert sum(int(row[-1].replace(",", "")) for row in rows.values()) == number
    assert f"{number:,} weights, {4 * number / 1e6:.2f} MB" in printed
    assert printed.startswith(f"{model_dir}/best.pth.tar, task vision, on ")
    assert list(rows) == [name for name, module in run.model.named_modules() if not [*module.children()]]
    assert not any(module._forward_hooks for module in run.model.modules()) and not run.model.training
    shutil.rmtree(tmp_path / "data")  # then the shapes are not known
    assert layers(run)["conv1"] == ["conv1", "Conv2d", "40"] and "(1," not in str(run)


def test_a_batch_is_predicted_as_its_rows(model_dir):
    run = fiveline.load(model_dir, "last", device="cpu")
    assert run.path == model_dir / "last.pth.tar" and run.classes == ["0", "1", "2"] and run.params.batch_size == 8
    (inputs, _), *_ = fetch_dataloader("test", model_dir.parent / "data", run.params)
    rows, outputs = run.predict(inputs), run.model(inputs).softmax(dim=1)
    assert [run.classes.index(row["prediction"]) for row in rows] == outputs.argmax(dim=1).tolist()
    assert [row["confidence"] for row in rows] == pytest.approx(outputs.max(dim=1).values.tolist(), abs=1e-6)
    assert run.predict([]) == []


def test_mistakes_are_reported_plainly(model_dir, tmp_path):
    with pytest.raises(utils.InputError, match=r"nix.*: there is no such checkpoint"):
        fiveline.load(tmp_path / "nix")
    run = fiveline.load(str(model_dir))
    with pytest.raises(utils.InputError, match=r"cat\.jpg: there is no such file or folder"):
        run.predict("cat.jpg")
    (tmp_path / "cat.jpg").write_text("no image")
    (row,) = run.predict(tmp_path / "cat.jpg")
    assert list(row) == ["id", "error"] and "not a readable image" in row["error"]
