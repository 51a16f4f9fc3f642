"""Each silent bug is planted, and the check of its name must find it; on the shipped experiments nothing is found."""

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import Field

import evaluate
import model.vision.data_loader
import model.vision.net
import model.vision.params
import sanity_check
import train
import utils
from fiveline.sanity import guesses, leaks, rate, short_training
from fiveline.sanity.survey import normalised
from fiveline.tasks import fetch_params
from tests.support.tasks import need, needs, task_of

ThreeConvNet = model.vision.net.ThreeConvNet
CPU = torch.device("cpu")
SHIPPED = ["base_model", "ner", "tabular_digits", "tabular_diabetes"]


def fetch_context(folder, *words):
    return sanity_check.fetch_context(fetch_params(folder, words), CPU)


def checks_of(names):
    """Return the checks of these names, with commas between them; None for all."""
    return [check for _, check in sanity_check.choose(names)]


@pytest.fixture
def make_context(project):
    """Return a function that reads a shipped experiment, small, with words laid over its params."""

    def make(experiment="base_model", *words):
        folder = project / "experiments" / experiment
        need(task_of(folder))
        small = ["num_channels=8"] if experiment == "base_model" else []
        data_dir = fetch_params(folder).data_dir
        return fetch_context(folder, f"data_dir={project / data_dir}", *small, *words)

    return make


@pytest.fixture
def find(make_context):
    """Return a function that makes one check of an experiment."""

    def check(name, *words, experiment="base_model"):
        return sanity_check.look(checks_of(name)[0], make_context(experiment, *words))

    return check


def change_datasets(monkeypatch, change, module=model.vision.data_loader):
    """Let `change(split, dataset)` at every dataset of a task."""
    original = module.fetch_dataset

    def fetch_dataset(split, data_dir, params):
        dataset = original(split, data_dir, params)
        change(split, dataset)
        return dataset

    monkeypatch.setattr(module, "fetch_dataset", fetch_dataset)


def change_images(monkeypatch, change, splits=("train", "val", "test")):
    """Let `change(images)` at all images of these splits."""

    def wrap(split, dataset):
        fetch = dataset.__getitems__
        if split in splits:
            dataset.__getitems__ = lambda indices: (change((batch := fetch(indices))[0]), batch[1])

    change_datasets(monkeypatch, wrap)


def change_net(monkeypatch, change, cls=ThreeConvNet):
    """Let `change(net)` at every net that is made."""
    original = cls.__init__

    def init(self, params):
        original(self, params)
        with torch.no_grad():
            change(self)

    monkeypatch.setattr(cls, "__init__", init)


def change_forward(monkeypatch, before=lambda s: s, after=lambda s: s, cls=ThreeConvNet):
    original = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, s: after(original(self, before(s))))


def assert_found(finding, *words, status="FAIL"):
    assert finding.status == status, finding
    assert "stopped by" not in finding.explanation, finding
    for word in words:
        assert word in finding.explanation, finding
    assert finding.advice or status == "PASS"


# --- no false alarm


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=[pytest.mark.slow] if name in SHIPPED[:2] else []) for name in SHIPPED]
)
def test_a_shipped_experiment_is_free_of_alarms(experiment, project, capsys):
    folder = project / "experiments" / experiment
    need(task_of(folder))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    data_dir = str(project / fetch_params(folder).data_dir)
    sanity_check.main(["--model_dir", str(folder), "--data_dir", data_dir, "--json", "--device", "cpu"])
    found = json.loads(capsys.readouterr().out)["findings"]
    assert {row["check"]: row["status"] for row in found} == {check.__name__: "PASS" for check in checks_of(None)}, (
        found
    )
    assert all(row["explanation"] and not row["advice"] for row in found)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "words",
    [
        ["net=mnist"],
        ["label_smoothing=0.4", "class_weights=balanced"],
        pytest.param(
            ["optimizer=sgd", "learning_rate=0.05", "schedule=step", "schedule_epochs=3"], marks=pytest.mark.slow
        ),
        pytest.param(
            ["optimizer=rmsprop", "learning_rate=1e-3", "momentum=0.5", "batch_size=5", "clip_grad_norm=0.5"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["normalize=train", "jitter=0.3", "ema_decay=0.9", "microbatch_size=8", "early_stopping_epochs=3"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["precision=bf16", "schedule=plateau", "schedule_epochs=3"], marks=pytest.mark.slow),
    ],
)
def test_other_settings_raise_no_alarm(make_context, words):
    context = make_context("base_model", *words)
    names = (
        "input_scale,label_counts,augmentation,hyperparameters,initial_loss,logits,gradients,zero_grad,overfit_batch"
    )
    names += ",baseline,learning_rate,eval_mode,own_example,repeatable,batch_size"
    found = {check.__name__: sanity_check.look(check, context) for check in checks_of(names)}
    assert {name: finding for name, finding in found.items() if finding.status != "PASS"} == {}


# --- the data


def test_inputs_that_are_not_normalised_are_found(find, monkeypatch):
    change_images(monkeypatch, lambda images: images * 255)
    assert_found(find("input_scale"), "not normalised")


def test_a_split_that_is_scaled_otherwise_is_found(find, monkeypatch):
    change_images(monkeypatch, lambda images: images / 10, ["val"])
    assert_found(find("input_scale", "normalize=train"), "val has mean")


def test_inputs_that_are_not_finite_are_found(find, monkeypatch):
    change_images(monkeypatch, lambda images: images * float("nan"))
    assert_found(find("input_scale"), "NaN")


def write_digits(project, folder, change):
    """Write the digits again, after `change(train, val)` on their arrays."""
    folder.mkdir()
    splits = {name: dict(np.load(project / f"data/digits/{name}.npz")) for name in ("train", "val", "test")}
    change(splits["train"], splits["val"])
    for name, arrays in splits.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return f"data_dir={folder}"


def test_a_class_that_val_lacks_is_found(find, project, tmp_path):
    def without_threes(train, val):
        keep = val["labels"] != 3
        val.update(images=val["images"][keep], labels=val["labels"][keep])

    words = write_digits(project, tmp_path / "data", without_threes)
    assert_found(find("label_counts", words), "1 of 10 classes are not in val: 3", status="WARN")


def test_labels_of_which_none_is_scored_are_found(find, monkeypatch):
    def ignore(split, dataset):
        dataset.labels = torch.full_like(dataset.labels, -100)

    change_datasets(monkeypatch, ignore)
    assert_found(find("label_counts"), "all labels of train are -100")


def test_tags_are_called_by_their_names(find, project, tmp_path):
    shutil.copytree(project / "data/ner_small", tmp_path / "ner")
    path = tmp_path / "ner/val/labels.txt"
    path.write_text(path.read_text().replace("B-PER", "O").replace("I-PER", "O"))
    found = find("label_counts", f"data_dir={tmp_path / 'ner'}", experiment="ner")
    assert_found(found, "are not in val: B-PER, I-PER", status="WARN")


def test_rare_classes_are_found(find, project, tmp_path):
    def mostly_zeros(train, val):
        keep = (train["labels"] == 0) | (np.arange(len(train["labels"])) < 10)
        train.update(images=train["images"][keep], labels=train["labels"][keep])
        val.update(images=train["images"], labels=train["labels"])

    words = write_digits(project, tmp_path / "data", mostly_zeros)
    finding = find("label_counts", words)
    assert finding.status == "WARN"


def leak(number, noise):
    def change(train, val):
        copies = train["images"][:number].astype(int) + noise
        val["images"][:number] = np.clip(copies, 0, 255).astype(np.uint8)
        val["labels"][:number] = train["labels"][:number]

    return change


def test_examples_in_two_splits_are_found(find, project, tmp_path):
    finding = find("leaks", write_digits(project, tmp_path / "data", leak(30, noise=0)))
    assert_found(finding, "30 exactly, of 269 examples of val (example val[0])")
    assert finding.values["val"]["examples"] == [f"val[{i}]" for i in range(30)]


def test_examples_that_are_nearly_in_two_splits_are_found(find, project, tmp_path):
    noise = np.random.default_rng(0).integers(-2, 3, size=(30, 8, 8))
    noise[:, 0, 0] = 3  # none is as it was
    finding = find("leaks", write_digits(project, tmp_path / "data", leak(30, noise)))
    assert_found(finding, "30 nearly, of 269 examples of val", status="WARN")


def test_sentences_and_rows_in_two_splits_are_found(find, project, tmp_path):
    shutil.copytree(project / "data/ner_small", tmp_path / "ner")
    names = ("sentences.txt", "labels.txt")
    for name in names:
        lines = (tmp_path / "ner/train" / name).read_text().splitlines()
        val = (tmp_path / "ner/val" / name).read_text().splitlines()
        shout = [line.upper() if name == names[0] else line for line in lines[10:15]]
        (tmp_path / "ner/val" / name).write_text("\n".join([*lines[:5], *shout, *val]) + "\n")
    finding = find("leaks", f"data_dir={tmp_path / 'ner'}", experiment="ner")
    assert_found(finding, "5 exactly and 5 nearly, of 100 examples of val")

    lines = (project / "data/digits_rows/train.csv").read_text().splitlines()
    shutil.copytree(project / "data/digits_rows", tmp_path / "rows")
    (tmp_path / "rows/test.csv").write_text("\n".join(lines[:41]) + "\n")
    finding = find("leaks", f"data_dir={tmp_path / 'rows'}", experiment="tabular_digits")
    assert_found(finding, "40 exactly, of 40 examples of test")


def test_sentences_are_compared_without_case_punctuation_and_numbers():
    first, second = "On 12 May , Anna left Hexby .", "on 13 may anna left hexby"
    assert normalised(first.split(" ")) == normalised(second.split(" "))
    assert normalised(["Yes", ",", "of", "course"]) == ""


def test_augmentation_on_val_is_found(find, monkeypatch):
    change_images(monkeypatch, lambda images: images + 0.1 * torch.rand(images.shape), ["val"])
    assert_found(find("augmentation"), "val is not the same when it is read twice")


def test_labels_changed_by_augmentation_are_found(find, monkeypatch):
    original = model.vision.data_loader.ImageDataset.set_epoch

    def set_epoch(self, epoch):
        original(self, epoch)
        self.labels = self.labels if epoch == 1 else (self.labels + 1) % 10

    monkeypatch.setattr(model.vision.data_loader.ImageDataset, "set_epoch", set_epoch)
    assert_found(find("augmentation"), "64 labels of 64 train examples change")


def test_augmentation_that_is_the_same_in_each_epoch_is_found(find, monkeypatch):
    module, original = model.vision.data_loader, model.vision.data_loader.epoch_draws
    monkeypatch.setattr(module, "epoch_draws", lambda seed, epoch, *rest: original(seed, 1, *rest))
    assert_found(find("augmentation"), "the same in each epoch", status="WARN")


# --- the hyperparameters


def test_a_hyperparameter_that_nothing_reads_is_found(find, monkeypatch):
    class WithMixup(model.vision.params.Params):
        mixup: float = Field(0.0, ge=0, description="share of two images that are mixed")

    monkeypatch.setattr(model.vision.params, "Params", WithMixup)
    assert_found(find("hyperparameters", "mixup=0.2"), "no line", "mixup")
    assert find("hyperparameters").status == "PASS"


def test_a_hyperparameter_that_is_read_no_more_is_found(find, monkeypatch):
    original = model.vision.net.train_loss_fn
    unsmoothed = model.vision.params.Params()
    monkeypatch.setattr(model.vision.net, "train_loss_fn", lambda params: original(unsmoothed))
    assert_found(find("hyperparameters", "label_smoothing=0.1"), "label_smoothing=0.1", status="WARN")


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        (["momentum=0.5"], "momentum=0.5"),
        (["momentum=0.9"], None),
        (["schedule_epochs=3"], "schedule_epochs=3"),
        (["schedule=step", "schedule_epochs=3"], None),
        (["net=mnist", "split_seed=3"], "split_seed=3"),
        (["early_stopping_epochs=3", "tensorboard=true", "checkpoint_minutes=3", "save_summary_steps=7"], None),
    ],
)
def test_a_hyperparameter_that_another_switches_off_is_found(find, words, idle):
    finding = find("hyperparameters", *words)
    if idle is None:
        assert finding.status == "PASS", finding
    else:
        assert_found(finding, idle, status="WARN")


# --- the first steps


def test_a_last_layer_that_begins_too_large_is_found(find, monkeypatch):
    change_net(monkeypatch, lambda net: net.fc2.weight.mul_(50))
    assert_found(find("initial_loss"), "with all classes equally likely it is 2.303")


@needs("tabular")
def test_targets_that_are_not_standardised_are_found(find, monkeypatch):
    tabular = importlib.import_module("model.tabular.net")
    original = tabular.loss_fn
    monkeypatch.setattr(tabular, "loss_fn", lambda outputs, labels: original(outputs, labels * 77 + 152))
    assert_found(find("initial_loss", experiment="tabular_diabetes"), "far from 0", status="WARN")


def test_softmax_before_cross_entropy_is_found(find, monkeypatch):
    change_forward(monkeypatch, after=lambda s: s.softmax(dim=1))
    assert_found(find("logits"), "softmax is applied twice")
    assert find("overfit_batch").status != "PASS"


def test_log_softmax_before_cross_entropy_does_no_harm(find, monkeypatch):
    change_forward(monkeypatch, after=lambda s: s.log_softmax(dim=1))
    assert find("logits").status == "PASS"


def test_dead_relus_are_found(find, monkeypatch):
    change_net(monkeypatch, lambda net: net.fcbn1.bias.fill_(-100))
    assert_found(find("gradients"), "the gradient is 0: conv1.weight")


@needs("tabular")
@pytest.mark.parametrize(("number", "status"), [(60, "FAIL"), (35, "WARN"), (10, "PASS")])
def test_a_share_of_dead_relus_is_found(find, monkeypatch, number, status):
    cls = importlib.import_module("model.tabular.net").TwoLayerNet
    change_net(monkeypatch, lambda net: net.linear1.bias[:number].fill_(-100), cls)
    finding = find("gradients", "hidden_size=100", experiment="tabular_digits")
    assert finding.status == status, finding
    assert status == "PASS" or f"{number}% of the units of linear1.weight" in finding.explanation


def test_a_detached_branch_is_found(find, monkeypatch):
    change_net(monkeypatch, lambda net: net.bn2.register_forward_hook(lambda *args: args[2].detach()))
    assert_found(find("gradients"), "no gradient at all: conv1.weight, conv1.bias, bn1.weight", "(8 of 18 weights)")


def test_weights_that_begin_at_zero_are_no_dead_ones(find, monkeypatch):
    change_net(monkeypatch, lambda net: net.fc2.weight.zero_())  # nothing before it gets a gradient in the first step
    assert find("gradients").status == "PASS"


@needs("tabular")
def test_gradients_that_explode_are_found(find, monkeypatch):
    net = importlib.import_module("model.tabular.net").TwoLayerNet
    change_forward(monkeypatch, before=lambda x: x * 1e6, cls=net)
    assert_found(find("gradients", experiment="tabular_digits"), "exploding")


def without_zero_grad(model, optimizer, loss_fn, train_batch, labels_batch):
    output_batch = model(train_batch)
    loss = loss_fn(output_batch, labels_batch)
    loss.backward()
    optimizer.step()
    return output_batch, loss


def with_a_late_zero_grad(model, optimizer, loss_fn, train_batch, labels_batch):
    output_batch = model(train_batch)
    loss = loss_fn(output_batch, labels_batch)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return output_batch, loss


def test_a_forgotten_zero_grad_is_found(find, monkeypatch):
    monkeypatch.setattr(train, "train_step", without_zero_grad)
    assert_found(find("zero_grad"), "the second gradient on the same batch is 2.00 times the first")


def test_a_zero_grad_in_the_wrong_place_is_found(find, monkeypatch):
    monkeypatch.setattr(train, "train_step", with_a_late_zero_grad)
    assert_found(find("zero_grad"), "without gradients")


def test_a_net_that_does_not_see_its_inputs_is_found(find, monkeypatch):
    change_forward(monkeypatch, before=torch.zeros_like)
    assert_found(find("overfit_batch"), "of the loss is left")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["learning_rate=10"], "FAIL"),
        (["optimizer=sgd", "learning_rate=100"], "FAIL"),
        (["learning_rate=1e-8"], "WARN"),
        (["learning_rate=1e-3"], "PASS"),
    ],
)
def test_a_learning_rate_out_of_range_is_found(find, words, status):
    finding = find("learning_rate", *words)
    assert finding.status == status, finding
    assert len(finding.values["rates"]) == len(finding.values["losses"]) > 20


def test_the_range_test_is_the_same_each_time(make_context):
    first, second = (rate.range_test(make_context()) for _ in range(2))
    assert first == second


def test_the_curve_has_its_lowest_bar_where_the_loss_is_least():
    curve = rate.bars([3.0] * 40 + [1.0] * 20 + [5.0] * 4)
    assert curve[0] == curve[10] and "▁" in curve[15:22] and curve[-1] == "█"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["learning_rate=3e-3"], "PASS", "is in the advised range"),
        (["learning_rate=4e-2"], "PASS", "is usable, but above the advised range"),
        (["learning_rate=5e-4"], "PASS", "is usable, but below the advised range"),
        (["learning_rate=0.2"], "WARN", "is high"),
    ],
)
def test_the_advice_on_the_learning_rate_never_contradicts_the_verdict(find, words, status, said):
    finding = find("learning_rate", *words)
    assert (finding.status, said in finding.explanation) == (status, True), finding
    low, high = rate.advised_range(finding.values)
    mine = float(words[0].partition("=")[2])
    assert (low <= mine <= high) == ("in the advised range" in finding.explanation)
    assert f"{low:.1e} to {high:.1e}" in (finding.explanation if status == "PASS" else finding.advice)


@pytest.mark.slow
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize(
    ("experiment", "metric", "worst"),
    [
        ("base_model", "accuracy", 0.97),  # with other rates: 0.985 to 0.993
        ("ner", "f1", 0.72),  # 0.73 to 0.84; 0.70 at 0.05, 0.18 at 0.3
        ("tabular_digits", "accuracy", 0.96),
        ("tabular_digits_linear", "accuracy", 0.93),  # 0.937 to 0.97; 0.92 at 0.3
        ("tabular_diabetes", "r2", 0.38),  # 0.39 to 0.49; 0.01 at 0.3
    ],
)
def test_both_ends_of_the_advised_range_train_well(project, tmp_path, experiment, metric, worst, end):
    """The range is read off 120 steps; a whole run at either end of it must come near the best."""
    folder = project / "experiments" / experiment
    need(task_of(folder))
    data_dir = f"data_dir={project / fetch_params(folder).data_dir}"
    curve = rate.range_test(fetch_context(folder, data_dir))
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(folder / "params.json", run)
    words = [data_dir, f"learning_rate={rate.advised_range(curve)[end]}"]
    train.main(["--model_dir", str(run), "--device", "cpu", *words])
    assert json.loads((run / "metrics_val_best_weights.json").read_text())[metric] > worst


# --- labels


BY_HEART = "a few examples can be learnt by heart, but nothing holds on others"


def shuffled(labels):
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("splits", "change", "words"),
    [
        pytest.param(("train", "val", "test"), shuffled, BY_HEART, marks=pytest.mark.slow),
        pytest.param(("train",), shuffled, BY_HEART, marks=pytest.mark.slow),
        (("val",), shuffled, "nothing holds on val"),
        (("val",), lambda labels: labels.roll(1), "shifted by one"),
        pytest.param(("train", "val", "test"), lambda labels: labels.roll(1), "shifted by one", marks=pytest.mark.slow),
    ],
    ids=["all", "train", "val", "val shifted", "all shifted"],
)
def test_labels_of_other_inputs_are_found(find, monkeypatch, splits, change, words):
    def mix(split, dataset):
        if split in splits:
            dataset.labels = change(dataset.labels)

    change_datasets(monkeypatch, mix)
    assert_found(find("labels_fit"), words)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["ner", "tabular_digits", "tabular_diabetes"])
def test_labels_of_other_inputs_are_found_in_every_task(find, monkeypatch, experiment):
    task = experiment.partition("_")[0]
    need(task)
    module = importlib.import_module(f"model.{task}.data_loader")

    def mix(_, dataset):
        if task == "tabular":
            dataset.tensors = dataset.tensors[0], shuffled(dataset.tensors[1])
        else:
            dataset._labels = shuffled(torch.cat(list(dataset._labels))).split(dataset.lengths)

    change_datasets(monkeypatch, mix, module)
    assert_found(find("labels_fit", experiment=experiment), "nothing holds on others")


def test_two_classes_swapped_in_val_are_found(find, monkeypatch):
    def swap(split, dataset):
        if split == "val":
            threes, eights = dataset.labels == 3, dataset.labels == 8
            dataset.labels[threes], dataset.labels[eights] = 8, 3

    change_datasets(monkeypatch, swap)
    assert_found(find("labels_fit"), "in val, labels of 3 and 8 look swapped")


@pytest.mark.parametrize("split", ["val", pytest.param("test", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "turn",
    [lambda images: images.flip(3), lambda images: images.flip(2), lambda images: images.mT],
    ids=["mirrored", "upside down", "transposed"],
)
def test_a_split_that_is_always_turned_is_found(find, monkeypatch, turn, split):
    change_images(monkeypatch, turn, [split])
    finding = find("labels_fit")
    # mirrored digits are half right: that much less holds on the split is a warning
    assert finding.status in ("FAIL", "WARN") and split in finding.explanation, finding
    assert "images not mirrored or turned?" in finding.advice


def test_the_baseline_is_that_of_the_most_frequent_class_and_of_the_mean(make_context, find):
    context = make_context()
    scores = sanity_check.look(checks_of("baseline")[0], context).values
    labels = context.datasets["val"].dataset.labels
    counts = torch.bincount(
        context.datasets["train"].dataset.labels[context.choose("train", short_training.NUM_TRAIN // 4)]
    )
    shares = [float((labels == number).float().mean()) for number in range(10) if counts[number] == counts.max()]
    assert min(abs(scores["accuracy"] - share) for share in shares) < 1e-6
    priors = (counts / counts.sum()).log()
    assert scores["loss"] == pytest.approx(F.nll_loss(priors.expand(len(labels), -1), labels).item(), rel=1e-2)
    scores = find("baseline", experiment="tabular_diabetes").values
    assert scores["r2"] == pytest.approx(0, abs=1e-4)


# --- the evaluation


def test_the_baseline_goes_with_outputs_of_any_length():
    """For example a weight for each word of a text: the texts of other batches are longer or shorter."""
    batches = []
    for length, labels in ((4, [0, 0, 1]), (7, [0, 2, 0])):
        batches.append(({"logits": torch.randn(3, 3), "weights": torch.rand(3, length)}, torch.tensor(labels)))

    def loss_fn(outputs, labels):
        return F.cross_entropy(outputs["logits"], labels)

    constant = guesses.Constant(loss_fn, batches)
    entropy = -sum(share * np.log(share) for share in (4 / 6, 1 / 6, 1 / 6))
    assert constant.loss(batches) == pytest.approx(entropy, abs=1e-3)
    assert constant.like({"logits": torch.ones(2, 3), "weights": torch.ones(2, 9)})["weights"].shape == (2, 9)


def test_batch_norm_in_train_mode_during_evaluation_is_found(find, monkeypatch):
    def fetch_outputs(model, dataloader):
        for inputs, labels in dataloader:
            with torch.inference_mode():
                yield model(inputs), labels

    monkeypatch.setattr(evaluate, "fetch_outputs", fetch_outputs)
    assert_found(find("eval_mode"), "evaluating changes bn1.running_mean", "batch norm learns from val")


def test_a_net_that_stays_in_train_mode_is_found(find, monkeypatch):
    monkeypatch.setattr(ThreeConvNet, "train", lambda self, mode=True: self)
    assert_found(find("eval_mode"), "evaluating changes bn1.running_mean")
    assert find("own_example").status == "FAIL"


def test_outputs_that_depend_on_the_other_examples_are_found(find, monkeypatch):
    change_forward(monkeypatch, before=lambda s: s - s.mean(dim=0, keepdim=True))
    assert_found(find("own_example"), "outputs differ by")


def test_outputs_that_are_nan_for_an_example_alone_are_found(find, monkeypatch):
    # of one example it is 0 / 0
    change_forward(monkeypatch, after=lambda s: (s - s.mean(dim=0)) / s.std(dim=0, correction=0))
    assert_found(find("own_example"), "outputs differ by nan")


def test_dropout_during_evaluation_is_found(find, monkeypatch):
    change_forward(monkeypatch, before=lambda s: F.dropout(s, 0.3))
    assert_found(find("repeatable"), "a second time, val has other metrics")


def test_a_mean_of_batch_means_is_found(find, monkeypatch):
    def means(model, loss_fn, dataloader, metrics):
        rows = []
        for outputs, labels in evaluate.fetch_outputs(model, dataloader):
            ratios = {name: torch.nan_to_num(torch.div(*metric(outputs, labels))) for name, metric in metrics.items()}
            rows.append({name: float(value.mean()) for name, value in ratios.items()})
            rows[-1]["loss"] = float(loss_fn(outputs, labels))
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    monkeypatch.setattr(evaluate, "evaluate", means)
    assert_found(find("batch_size"), "in batches of 7 and 143, val has other metrics than in one of 150")


def test_a_metric_that_divides_too_early_is_found(find, monkeypatch):
    def accuracy(outputs, labels):
        return (outputs.argmax(dim=1) == labels).float().mean(), torch.ones(())

    monkeypatch.setitem(model.vision.net.metrics, "accuracy", accuracy)
    assert_found(find("batch_size"), "accuracy ")


# --- tokens


class Tokens:
    """Stands in for a context of a task whose inputs are (tokens, lengths) and whose labels are one for each token."""

    few = 4

    def __init__(self, labels):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(1, 20, (4, 12), generator=generator)
        self.labels = labels(self.tokens)

    def choose(self, split, number):
        return list(range(number))

    def batches(self, split, indices, batch_size):
        return [((self.tokens, torch.tensor([12] * 4)), self.labels)]


def next_tokens(tokens):
    return torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), -100)], dim=1)


class Attention(torch.nn.Module):
    """A language model of one layer."""

    def __init__(self, is_causal, order):
        super().__init__()
        self.embedding, self.last, self.is_causal = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 20), is_causal
        self.order = order

    def forward(self, inputs):
        values = self.embedding(inputs[0])  # (batch_size, length, 8)
        seen = F.scaled_dot_product_attention(values, values, values, is_causal=self.is_causal)
        outputs = self.last(seen)  # (batch_size, length, 20)
        return {"BTC": outputs, "BCT": outputs.mT, "NC": outputs.flatten(0, 1)}[self.order]


@pytest.mark.parametrize("order", ["BTC", "BCT", "NC"])
def test_attention_to_later_tokens_is_found(monkeypatch, order):
    for is_causal, status in ((False, "FAIL"), (True, "PASS")):
        torch.manual_seed(0)
        net = Attention(is_causal, order)
        monkeypatch.setattr(leaks, "warm", lambda _, net=net: net)
        finding = leaks.visible_answers(Tokens(next_tokens))
        assert finding.status == status, finding
        assert "the labels are the next tokens" in finding.explanation
    assert finding.values["difference"] == 0


def test_labels_that_are_the_input_tokens_are_found():
    assert_found(leaks.visible_answers(Tokens(torch.clone)), "the labels are the input tokens themselves")
    tags = leaks.visible_answers(Tokens(lambda tokens: tokens % 3))
    assert tags.status == "PASS" and "not among the input tokens" in tags.explanation


@needs("ner")
@pytest.mark.parametrize(
    ("shift", "words"),
    [(0, "the labels are the input tokens themselves"), (-1, "the net sees the tokens")],
)
def test_answers_that_a_shipped_net_can_see_are_found(find, monkeypatch, shift, words):
    def change(split, dataset):
        fetch = dataset.__getitems__

        def fetch_answers(indices):
            inputs, labels = fetch(indices)
            words = inputs["words"] % len(dataset.params.tags)
            return {**inputs, "words": words}, words.roll(shift, dims=1).masked_fill(labels == -100, -100)

        dataset.__getitems__ = fetch_answers

    change_datasets(monkeypatch, change, importlib.import_module("model.ner.data_loader"))
    assert_found(find("visible_answers", "bidirectional=true", experiment="ner"), words)


# --- the script


@pytest.mark.slow
def test_the_script_says_what_failed_with_exit_code_1(run_script, make_run):
    folder = make_run(learning_rate=10.0)
    done = run_script("sanity_check.py", "--model_dir", folder, "--only", "learning_rate,zero_grad")
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("FAIL  learning_rate    1.0e+01 is too high") and lines[1].strip().startswith("->")
    assert lines[2].startswith("PASS  zero_grad") and lines[3].startswith("1 PASS, 0 WARN, 1 FAIL; ")
    assert sorted(path.name for path in folder.iterdir()) == ["params.json"]  # train.py will find no history


def test_a_users_mistake_is_reported_in_a_line(make_run):
    folder = make_run()
    with pytest.raises(utils.InputError, match="--only: unknown check 'gradient'; there are: input_scale, "):
        sanity_check.main(["--model_dir", str(folder), "--only", "leaks,gradient"])
    with pytest.raises(utils.InputError, match="nowhere"):
        sanity_check.main(["--model_dir", str(folder), "--data_dir", "nowhere"])
    with pytest.raises(utils.InputError, match="unknown key 'learning_rat'"):
        sanity_check.main(["--model_dir", str(folder), "learning_rat=1"])


def test_a_check_that_stumbles_is_a_failure_and_the_others_go_on(find, make_context, monkeypatch):
    def broken(*_, **__):
        raise ValueError("shapes do not match\nand more")

    monkeypatch.setattr(model.vision.net, "loss_fn", broken)
    finding = find("initial_loss")
    assert (finding.status, finding.explanation) == ("FAIL", "stopped by ValueError: shapes do not match")
    assert find("leaks").status == "PASS"


def test_the_check_leaves_a_finished_run_as_it_is(make_run, capsys):
    folder = make_run(num_epochs=1)
    train.main(["--model_dir", str(folder)])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sanity_check.main(["--model_dir", str(folder), "--only", "gradients,eval_mode", "--json"])
    assert json.loads(capsys.readouterr().out)["findings"][0]["check"] == "gradients"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    train.main(["--model_dir", str(folder)])
    assert "is finished: 1 epochs" in capsys.readouterr().out


@pytest.mark.slow
def test_a_bug_in_the_source_is_found_by_the_script(project, tmp_path):
    import subprocess
    import sys

    copy = tmp_path / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".*", "tests", "__pycache__"))
    for name, line, fault in (
        ("train.py", "    optimizer.zero_grad()  # clear previous gradients\n", ""),
        ("evaluate.py", "    model.eval()\n", ""),
        ("model/vision/net.py", "        return self.fc2(s)", "        return self.fc2(s).softmax(dim=1)"),
    ):
        source = (copy / name).read_text()
        assert line in source
        (copy / name).write_text(source.replace(line, fault))
    command = [sys.executable, "sanity_check.py", "--only", "logits,zero_grad,eval_mode", "--json"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert [row["status"] for row in json.loads(done.stdout)["findings"]] == ["FAIL"] * 3


def test_exit_code_0_needs_no_failure(make_run):
    folder = make_run()
    with pytest.raises(utils.InputError, match="no check is named"):
        sanity_check.main(["--model_dir", str(folder), "--only", ","])
    sanity_check.main(["--model_dir", str(folder), "--only", "zero_grad"])  # does not exit
