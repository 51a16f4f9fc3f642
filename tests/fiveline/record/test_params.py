"""Hyperparameters: what files and the command line may say, how mistakes are reported, which settings are warned of."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import train
import utils
from fiveline.tasks import fetch_params, fetch_params_class, list_tasks
from model.vision.params import Params
from tests.support.tasks import PROJECT, REMOVED, need, task_of


@pytest.fixture
def fetch(tmp_path):
    """Return a function that writes a params file of some text and fetches the hyperparameters."""

    def write_and_fetch(text, *overrides, name="params.json"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return fetch_params(tmp_path, overrides)

    return write_and_fetch


def mistakes_of(fetch, *args, **kwargs):
    with pytest.raises(utils.InputError) as caught:
        fetch(*args, **kwargs)
    return str(caught.value)


def make(**values):
    return Params.from_values(values, source="a test")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), (".5", 0.5), ("-2", -2), ("+3", 3), ("true", True), ("null", None),
        ("no", "no"), ("12:30", "12:30"), ("1_000", "1_000"), ("2020-01-01", "2020-01-01"), ("0x1F", "0x1F"),
        ("nan", "nan"), ("'3'", "3"), ("[1, 2]", [1, 2]), ("# only a comment", None),
    ],
)  # fmt: skip
def test_yaml_values_are_what_they_look_like(tmp_path, text, value):
    path = tmp_path / "params.yaml"
    path.write_text(f"key: {text}\n", encoding="utf-8")
    values, mistakes = utils.read_values(path)
    assert values == {"key": value} and type(values["key"]) is type(value) and mistakes == []


def test_empty_yaml_takes_the_defaults_and_a_byte_order_mark_is_no_mistake(fetch, tmp_path):
    for text in ("", "# nothing yet\n", "{}"):
        assert fetch(text, name="params.yaml") == make()
    assert "both params.json and params.yaml" in mistakes_of(fetch, "{}")
    (tmp_path / "params.yaml").unlink()
    assert fetch('\ufeff{"seed": 1}').seed == 1


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("params.json", '{"seed": 1, "batch_size": 2, "seed": 3}', "duplicate key 'seed'"),
        ("params.yaml", "seed: 1\nbatch_size: 2\nseed: 3\n", "duplicate key 'seed' in line 3"),
        ("params.yaml", "learning_rate: [{seed: 1, seed: 1}]\n", "duplicate key 'seed'"),
        ("params.yaml", "<<: {seed: 1}\n<<: {seed: 2}\n", "duplicate key '<<' in line 2"),
        ("params.json", '{"learning_rate": NaN}', "learning_rate: "),
        ("params.json", '{"learning_rate": 1e999}', "learning_rate: "),
        ("params.yaml", "learning_rate: .nan", "learning_rate: "),
        ("params.json", '{"seed": 1,\n "batch_size": }', "line 2 column 16"),
        ("params.json", '{"seed": 1, // one\n "batch_size": 2}', "line 1 column 13: JSON has no comments"),
        ("params.json", '{"seed": 1 # one\n}', "name the file params.yaml and begin comments with #"),
        ("params.json", '{\n"seed": 1,\n}', "JSON has no comma after the last entry"),
        ("params.json", '{"compile": True}', "line 1 column 13: JSON has double quotes, true, false and null"),
        ("params.json", "", "line 1 column 1: the file is empty; {} takes the defaults"),
        ("params.yaml", "seed: 1\nbatch_size: [\n", "line 3 column 1"),
        ("params.yaml", "seed: 1\n---\nseed: 2\n", "line 2"),
        ("params.json", "[1]", "found list"),
        ("params.yaml", "1: 2", "expected names as keys, found 1"),
        ("params.yaml", "<<: 3\n", "expected a mapping or list of mappings"),
        ("params.yaml", "seed: \x07", "special characters"),
        ("params.yaml", "seed: [!!binary aGVsbG8=]", "valid integer, found "),
        ("params.json", '{"seed": ' + "1" * 5000 + "}", "digits"),
        ("params.json", "[" * 100_000, "recursion"),
    ],
)
def test_broken_files_are_named_with_the_place(fetch, tmp_path, name, text, expected):
    message = mistakes_of(fetch, text, name=name)
    assert message.startswith(f"{tmp_path / name}: ") and expected in message and len(message) < 400


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", "1e-3"), ("learning_rate", True), ("learning_rate", None), ("learning_rate", [0.1]),
        ("learning_rate", 0), ("learning_rate", 10**400), ("batch_size", 32.0), ("batch_size", True),
        ("num_epochs", -1), ("nesterov", 1), ("optimizer", "Adam"), ("monitor", 3), ("momentum", 1), ("seed", 2**32),
        ("data_dir", 3), ("image_channels", 2), ("dropout_rate", 1.0),
    ],
)  # fmt: skip
def test_values_of_another_type_or_out_of_range_are_refused(key, value):
    with pytest.raises(utils.InputError, match=f"^the file: {key}: .*, found [^\n]+$"):
        Params.from_values({key: value}, source="the file")


def test_overrides_beat_the_file(fetch):
    params = fetch('{"learning_rate": 0.1, "seed": 5}', "learning_rate=3e-4", "optimizer=sgd", "clip_grad_norm=null")
    assert (params.learning_rate, params.optimizer, params.clip_grad_norm, params.seed) == (3e-4, "sgd", None, 5)
    for data_dir in ("data/x #1", "C:\\data: new", "12", "null", "données"):
        overrides = utils.with_data_dir(["data_dir=other"], data_dir)
        assert fetch('{"data_dir": "third"}', *overrides).data_dir == data_dir
    for text in (".nan", "NaN", "1e999", "[1, 2", "'", "\x07", ""):
        assert "learning_rate" in mistakes_of(fetch, "{}", f"learning_rate={text}")
    for word in ("learning_rate", "learning_rate:3", "=3", "--learning_rate=3", "learning-rate=3"):
        assert f"{word}: expected key=value; write for example learning_rate=3e-4" in mistakes_of(fetch, "{}", word)


def test_facts_are_carried_by_a_copy_alone_and_set_by_no_file(fetch):
    params = make()
    other = params.with_facts({"classes": ["a", "b"]})
    assert other.facts == {"classes": ["a", "b"]} and params.facts == {} and other.hash() == params.hash()
    assert "classes" not in utils.to_json(other.model_dump(mode="json"))
    for key in ("facts", "_facts", "hash", "model_config", "classes"):
        assert f"unknown key '{key}'" in mistakes_of(fetch, json.dumps({key: {"classes": ["a"]}}))


MACHINE = {
    "num_workers", "data_dir", "save_summary_steps", "cache", "checkpoint_minutes", "detect_anomaly",
    "precision", "compile", "deterministic", "activation_checkpointing", "channels_last", "max_image_pixels", "fsdp",
}  # fmt: skip
CHANGES = {
    "task": "other", "seed": 1, "learning_rate": 0.5, "learning_rate_factors": {"fc1": 2.0}, "dropout_rate": 0.3,
    "num_epochs": 3, "data_dir": "else", "precision": "bf16", "fsdp": True, "cache": "none", "num_workers": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_hash_and_differences_know_what_changes_the_result(name):
    assert utils.machine_settings(Params) == MACHINE
    before, after = make(), make(**{name: CHANGES[name]})
    assert (before.hash() == after.hash()) == (name in MACHINE)
    lines = after.differences(before.model_dump(mode="json"))
    assert len(lines) == (0 if name in MACHINE or name == "num_epochs" else 1)
    assert all(line.startswith(f"{name}: ") for line in lines)


def test_differences_take_the_default_for_what_an_older_run_did_not_know():
    old = make(learning_rate=0.1).model_dump(mode="json")
    del old["weight_decay"]
    old["removed_since"] = 3
    assert make(learning_rate=0.1).differences(old) == []
    assert make(learning_rate=0.1, weight_decay=0.5).differences(old) == ["weight_decay: 0.0 -> 0.5"]


def test_the_old_name_of_a_hyperparameter_is_read_with_a_warning(monkeypatch):
    monkeypatch.setattr(Params, "RENAMED", {"lr": "learning_rate"})
    params = make(lr=0.5, tensorboard=True)  # and one that was removed
    assert params.model_dump() == make(learning_rate=0.5).model_dump()
    renamed, removed = params.with_facts({}).warnings()
    assert renamed.startswith("lr: its name is learning_rate now")
    assert removed.startswith("tensorboard: ") and "python -m fiveline.publish" in removed
    assert make(learning_rate=0.5).warnings() == []
    assert make(lr=0.5, learning_rate=0.1).learning_rate == make(learning_rate=0.1, lr=0.5).learning_rate == 0.1
    assert params.differences({"lr": 0.5, "tensorboard": False}) == [] != params.differences({"lr": 0.1})
    with pytest.raises(utils.InputError, match="learning_rate"):
        make(lr=-1.0)


@pytest.mark.parametrize("task", list_tasks())
def test_description_lists_every_hyperparameter(task):
    params_class = fetch_params_class(task)
    rows = utils.describe(params_class)
    assert [row["name"] for row in rows] == list(params_class.model_fields)
    for row in rows:
        assert row["description"].strip() and row["type"] and row["default"], row
        assert all(cell.isprintable() for cell in row.values()), row
        assert json.loads(row["default"]) == getattr(params_class(), row["name"])
    assert {row["name"]: row["bounds"] for row in rows}["learning_rate"] == "> 0"


def test_params_file_of_cs230_means_what_it_meant_there(fetch):
    """Its keys are read, and the defaults of all others add nothing to what its code did."""
    values = {"learning_rate": 1e-3, "batch_size": 32, "num_epochs": 10, "dropout_rate": 0.8, "num_channels": 32}
    nothing = {"weight_decay": 0, "clip_grad_norm": None, "warmup_epochs": None, "shift": 0, "jitter": 0}
    nothing |= {"label_smoothing": 0, "early_stopping_epochs": None, "class_weights": "none", "normalize": "none"}
    its = {"net": "cs230", "optimizer": "adam", "schedule": "constant", "image_size": 64, "image_channels": 3}
    expected = {"task": "vision", "monitor": "accuracy", "horizontal_flip": True, **values, **nothing, **its}
    assert fetch(json.dumps(values)).model_dump().items() >= expected.items()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SUFFIXES = [".json", ".yaml"]
keys = st.sampled_from(list(Params.model_fields)) | st.text(max_size=8)


@settings(max_examples=100, deadline=None)
@given(
    text=st.text() | st.dictionaries(keys, json_values, max_size=5).map(json.dumps), suffix=st.sampled_from(SUFFIXES)
)
@example('{"learning_rate": 1e300, "num_epochs": 10000000000000000000000, "data_dir": "\U0001f600"}', ".json")
@example('{"data_dir": "\\ud800", "\\ud800": 1}', ".json")
def test_any_text_is_hyperparameters_or_an_input_error(tmp_path_factory, text, suffix):
    path = tmp_path_factory.getbasetemp() / f"any_text{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        values, mistakes = utils.read_values(path)
        params = Params.from_values(values, str(path), mistakes)
    except utils.InputError as error:
        assert str(error).startswith(str(path))
        return
    read = json.loads(utils.to_json(params.model_dump(mode="json")))
    again = Params.from_values(read, source="the same, written and read")
    assert again == params and again.hash() == params.hash() and again.differences(read) == []


def test_merges_may_be_named_and_nested(fetch):
    text = "<<: &late {<<: &early {seed: 1, batch_size: 2, momentum: 0.5}, batch_size: 3}\nmomentum: 0.7\n"
    params = fetch(text, name="params.yaml")
    assert (params.seed, params.batch_size, params.momentum) == (1, 3, 0.7)
    params = fetch("seed: 5\n<<: [{seed: 1, batch_size: 2}, {batch_size: 3, momentum: 0.5}]\n", name="params.yaml")
    assert (params.seed, params.batch_size, params.momentum) == (5, 2, 0.5)
    assert mistakes_of(fetch, "<<: &a {seed: 1, seed: 2}\n", name="params.yaml").count("duplicate key 'seed'") == 1


# --- settings without effect


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("vision", {"schedule": "step"}, "schedule 'step': with schedule_epochs=10 the learning rate never drops"),
        ("vision", {"schedule_epochs": 3, "schedule": "cosine"}, "schedule_epochs=3: schedule=cosine ignores it"),
        ("tabular", {"momentum": 0.5}, "momentum=0.5: optimizer=adam ignores it"),
        ("vision", {"net": "resnet18", "num_channels": 8}, "num_channels=8: net=resnet18 ignores it"),
        ("vision", {"net": "resnet18", "pretrained": True}, "normalize=none: pretrained weights were trained with"),
        ("vision", {"image_size": 16, "shift": 16}, "shift=16: can move images of image_size=16 out of view"),
        ("ner", {"max_word_len": 5}, "max_word_len=5: char_channels=0 ignores it"),
        ("vision", {"schedule": "step", "schedule_epochs": 9, "schedule_factor": 0.5}, None),
        ("ner", {"max_word_len": 5, "char_channels": 3}, None),
    ],
)
def test_a_setting_that_another_switches_off_is_warned_of(task, values, expected):
    need(task)
    lines = fetch_params_class(task).from_values(values, "a test").warnings()
    assert len(lines) == (expected is not None) and all(line.startswith(expected) for line in lines)


def test_no_shipped_run_is_warned_of():
    for path in sorted(PROJECT.glob("experiments/*/params.json")):
        assert task_of(path.parent) in REMOVED or fetch_params(path.parent).warnings() == [], path


def test_warnings_are_in_the_log(make_run):
    drops = {"schedule": "step", "schedule_epochs": 9}
    model_dir = make_run(**drops, fsdp=True, num_epochs=9, early_stopping_epochs=1, learning_rate=1e-30)
    train.main(["--model_dir", str(model_dir)])
    log = (model_dir / "train.log").read_text()
    assert "WARNING: schedule 'step': with schedule_epochs=9" in log and "fsdp has no effect in one process" in log
    assert "Stopped early: no new best accuracy for 1 epochs" in log
