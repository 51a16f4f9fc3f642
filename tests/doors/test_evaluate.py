"""Scores: exact for any batch size, equal to independent implementations, with intervals and a row for each example."""

import math
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch

import evaluate
import train
import utils
from fiveline.metrics import MetricSums
from fiveline.report.scores import ExampleScores, write_report
from fiveline.serving import trained
from model.vision import net
from tests.support.data import read_csv, refusal
from tests.support.runs import run_train, stopped


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch on the digits, good enough to be wrong now and then."""
    settings = {"dropout_rate": 0.0, "shift": 0, "batch_size": 32, "learning_rate": 1e-3, "num_epochs": 1}
    return run_train(tmp_path_factory.mktemp("evaluate") / "run", **settings)


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, without the scores of test."""
    return shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*_test_*"))


def facts_of(*classes):
    return SimpleNamespace(facts={"classes": list(classes)})


def tables_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".csv")}


def test_metrics_do_not_depend_on_the_batch_size_and_equal_scikit_learns_on_the_saved_predictions(run):
    found, contents = [], []
    for batch_size in (7, 7, 270):
        evaluate.main(["--model_dir", str(run), f"batch_size={batch_size}"])
        found.append(utils.read_json(run / "metrics_test_best.json"))
        contents.append(tables_of(run))
    assert contents[0] == contents[1]  # the same command writes the same files
    assert found[2].pop("loss") == pytest.approx(found[0]["loss"], rel=1e-6)
    assert found[2] == {name: found[0][name] for name in found[2]}
    rows, values = read_csv(run / "predictions_test_best.csv"), found[0]
    labels, predicted = [row["label"] for row in rows], [row["prediction"] for row in rows]
    assert len(rows) == 270 and len({row["id"] for row in rows}) == 270
    assert values["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted), abs=1e-12)
    scores = sklearn.metrics.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    assert [values[f"macro_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(scores[:3], abs=1e-12)
    assert values["loss"] == pytest.approx(np.mean([float(row["loss"]) for row in rows]), rel=1e-6)
    per_class = read_csv(run / "per_class_test_best.csv")
    expected = sklearn.metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for column, values in zip(("precision", "recall", "f1", "examples"), expected, strict=True):
        assert [float(row[column]) for row in per_class] == pytest.approx(values.tolist())


def test_any_split_and_checkpoint_can_be_scored_in_order(run, capsys):
    evaluate.main(["--model_dir", str(run), "--split", "val", "--restore_file", "last"])
    history = utils.read_lines(run / "history.jsonl")[-1]["val"]
    assert utils.read_json(run / "metrics_val_last.json") == pytest.approx(history, rel=1e-6)
    evaluate.main(["--model_dir", str(run), "--split", "train", "batch_size=300"])
    rows = read_csv(run / "predictions_train_best.csv")
    assert [row["id"] for row in rows] == [f"train[{i}]" for i in range(1258)]
    assert "Confusion matrix" in capsys.readouterr().out


def test_scores_of_another_run_s_checkpoint_are_not_taken_for_the_run_s_own(run, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "best"  # its `weights` on val: metrics_val_best_weights?
    for folder in (ours, theirs):
        shutil.copytree(run, folder)
    (theirs / "last.pth.tar").rename(theirs / "weights.pth.tar")
    before = tables_of(ours)
    evaluate.main(["--model_dir", str(ours), "--restore_file", str(theirs / "best.pth.tar")])
    evaluate.main(["--model_dir", str(ours), "--split", "val", "--restore_file", "../best/weights"])
    kinds = ("metrics_{}.json", "predictions_{}.csv", "per_class_{}.csv", "scored_{}.json")
    new = {kind.format(name) for kind in kinds for name in ("test_of_best_best", "val_of_best_weights")}
    after = tables_of(ours)
    assert after.keys() - before.keys() == new and after.items() >= before.items()
    (tmp_path / "link").symlink_to(ours)  # of a run by another path, they are its own
    evaluate.main(["--model_dir", str(tmp_path / "link"), "--restore_file", str(ours / "last.pth.tar")])
    assert (ours / "metrics_test_last.json").exists()


def test_hyperparameters_that_it_was_not_trained_with_are_refused(run):
    evaluate.main(["--model_dir", str(run), "batch_size=50", "microbatch_size=5", "precision=fp32"])
    before = tables_of(run)
    for word in ("normalize=train", "image_size=12", "learning_rate=0.5", "monitor=loss"):
        with pytest.raises(utils.InputError, match=rf"with {word}: a checkpoint is scored with .*{word[:5]}.* -> "):
            evaluate.main(["--model_dir", str(run), word])
    assert tables_of(run) == before


def test_scores_do_not_outlive_the_best_weights_that_they_are_of(copy):
    evaluate.main(["--model_dir", str(copy)])
    evaluate.main(["--model_dir", str(copy), "--split", "val", "--restore_file", "last"])
    before, scores = (copy / "best.pth.tar").read_bytes(), sorted(path.name for path in copy.glob("*_test_best.*"))
    train.main(["--model_dir", str(copy), "num_epochs=1"])  # finished: nothing is done, and nothing goes
    assert sorted(path.name for path in copy.glob("*_test_best.*")) == scores and len(scores) == 5
    train.main(["--model_dir", str(copy), "num_epochs=2"])
    assert (copy / "best.pth.tar").read_bytes() != before
    assert not list(copy.glob("*_test_best.*"))  # else the table would show them beside the new weights' val metrics
    assert (copy / "metrics_val_last.json").exists() and (copy / "metrics_val_best_weights.json").exists()


def test_what_breaks_the_contract_is_named(tmp_path):
    for returned in (torch.tensor(0.5), (1, 2, 3), torch.tensor([1.0, 2.0])):
        sums = MetricSums({"my_accuracy": lambda outputs, labels, returned=returned: returned})
        message = refusal(sums.add, torch.ones(2, 3), torch.tensor([0, 1]), torch.tensor(1.0))
        assert "metric 'my_accuracy' returned" in message and "expected a numerator and a denominator" in message
    serve = SimpleNamespace(predictions=lambda *_: [{}] * 4)  # a row for each token, for example
    message = refusal(trained.fetch_predictions, serve, None, None, utils.Params(), 2)
    assert message.startswith("predictions: returned 4 rows for a batch of 2; expected one for each")
    scores = ExampleScores(net.loss_fn, {})
    scores.add(torch.randn(3, 2), torch.tensor([0, 1, 1]), [{"label": 0, "prediction": 1}] * 3)
    message = refusal(write_report, tmp_path, "test_best", scores, facts_of("cat", "dog"))
    assert "label 0 and the prediction 1; expected two of the names" in message
    assert "the dataloader is empty" in refusal(evaluate.evaluate, torch.nn.Linear(2, 3), net.loss_fn, [], net.metrics)


def test_a_segmentation_is_reported_by_class_without_a_confusion_matrix(tmp_path):
    generator = torch.Generator().manual_seed(4)
    outputs = torch.randn(6, 3, 4, 4, generator=generator)
    labels = torch.randint(0, 3, (6, 4, 4), generator=generator)
    labels[0], labels[1, :2] = -100, -100  # nothing of one mask is known, and half of another

    def iou(outputs, labels):
        pairs = torch.stack([outputs.argmax(1), labels])[:, labels != -100]
        is_class = torch.nn.functional.one_hot(pairs, 3).bool()
        return is_class.all(0).sum(0), is_class.any(0).sum(0)

    loss_fn, of_two = torch.nn.functional.cross_entropy, lambda outputs, labels: (torch.ones(2), torch.ones(2))
    sums, scores = MetricSums({"iou": iou}), ExampleScores(loss_fn, {"macro_iou": iou, "of_two": of_two})
    sums.add(outputs, labels, loss_fn(outputs, labels))
    scores.add(outputs, labels, [{"label": mask.tolist(), "prediction": mask.tolist()} for mask in labels])
    assert all(math.isfinite(end) for ends in scores.intervals.values() for end in ends)
    scores.values = sums.result()
    report = write_report(tmp_path, "test_best", scores, facts_of("road", "car", "sky"))
    rows, scored = read_csv(tmp_path / "per_class_test_best.csv"), labels != -100
    expected = sklearn.metrics.jaccard_score(labels[scored], outputs.argmax(1)[scored], average=None)
    assert [row.pop("class") for row in rows] == ["road", "car", "sky"] and rows[0].keys() == {"iou"}
    assert [float(row["iou"]) for row in rows] == pytest.approx(expected.tolist())
    assert "iou" in report and "Confusion" not in report


@pytest.mark.parametrize("batch_size", [1, 3])
def test_numbers_that_the_loss_leaves_out_have_no_share_in_it_and_minus_100_may_be_a_number(batch_size):
    """Depth maps with holes, sequences of numbers that are padded, tags of which some were not asked for."""
    outputs, labels = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(5))
    labels[:2], labels[3, 1:] = -100.0, -100.0
    sums, scores = MetricSums({}), ExampleScores(loss_of_known := lambda a, b: (a - b)[b != -100].square().mean(), {})
    for batch in zip(outputs.split(batch_size), labels.split(batch_size), strict=True):
        sums.add(*batch, loss_of_known(*batch))
        scores.add(*batch, [{}] * batch_size)
    expected = sklearn.metrics.mean_squared_error(labels[labels != -100], outputs[labels != -100])
    low, high = scores.intervals["loss"]
    assert sums.result()["loss"] == pytest.approx(expected, rel=1e-6) and low < expected < high
    sums, labels = MetricSums({}), torch.tensor([-100.0, 3.0])  # degrees
    for batch in (labels, labels[:1]):
        sums.add(torch.zeros(len(batch)), batch, batch.square().mean())
    assert sums.result()["loss"] == pytest.approx((2 * 100**2 + 3**2) / 3)


def test_shares_of_all_examples_and_of_a_resample_are_scikit_learns():
    """Classes that occur nowhere are left out of macro scores."""
    generator = torch.Generator().manual_seed(3)
    for size in (1, 2, 5, 12) * 5:
        labels, predicted, chosen = (torch.randint(0, end, (size,), generator=generator) for end in (4, 4, size))
        scores = ExampleScores(net.loss_fn, net.metrics)
        scores.add(torch.nn.functional.one_hot(predicted, 6).float(), labels, [{} for _ in labels])
        for which in (torch.arange(size), chosen):
            expected = sklearn.metrics.f1_score(labels[which], predicted[which], average="macro", zero_division=0)
            assert scores.shares()["macro_f1"].of(which.numpy()).value() == pytest.approx(expected, abs=1e-12)


def save_new_best(folder):
    """Replace the best checkpoint, as training does."""
    state = utils.read_checkpoint(folder / "best.pth.tar")
    with utils.RunDirectory(folder).replacing_best():
        utils.write_checkpoint({**state, "epoch": state["epoch"] + 1}, folder / "best.pth.tar")


def test_no_scores_stay_beside_a_best_that_is_saved_while_they_are_computed_or_written(copy, monkeypatch):
    def score_while_the_run_goes_on(*args, score=trained.score_examples):
        save_new_best(copy)
        return score(*args)

    with monkeypatch.context() as patch:
        patch.setattr(trained, "score_examples", score_while_the_run_goes_on)
        message = stopped(copy, main=evaluate.main)
    assert "best.pth.tar was replaced by a run while it was scored" in message and "rerun the same command" in message
    assert not list(copy.glob("*_test_best.*"))
    training = threading.Thread(target=save_new_best, args=[copy])

    def write_while_the_run_goes_on(*args, write=write_report):
        training.start()
        training.join(timeout=0.5)  # without a lock, the new best is there now, and these scores would stay beside it
        return write(*args)

    monkeypatch.setattr("fiveline.report.scores.write_report", write_while_the_run_goes_on)
    before = utils.read_checkpoint(copy / "best.pth.tar")["epoch"]
    evaluate.main(["--model_dir", str(copy)])
    training.join()
    assert utils.read_checkpoint(copy / "best.pth.tar")["epoch"] == before + 1
    assert not list(copy.glob("*_test_best.*"))


def test_classes_that_a_reader_of_macro_scores_must_know_of_are_named(tmp_path):
    outputs, labels = torch.eye(5)[[0, 0, 1, 3]], torch.tensor([0, 0, 1, 2])  # 2 and 3 are mistaken, 4 is nowhere
    scores = ExampleScores(net.loss_fn, net.metrics)
    names = ["cat", "dog", "cow", "hen", "pig"]
    rows = [{"label": names[i], "prediction": names[j]} for i, j in zip(labels, outputs.argmax(1), strict=True)]
    scores.add(outputs, labels, rows)
    report = write_report(tmp_path, "test_best", scores, facts_of(*names))
    assert "in neither labels nor predictions, so they are left out of macro scores: pig\n" in report
    assert "without a single hit, so that the intervals of macro scores may miss the truth: cow, hen\n" in report
    assert [row["f1"] for row in read_csv(tmp_path / "per_class_test_best.csv")] == ["1.0", "1.0", "0.0", "0.0", ""]
