"""Hyperparameters: what files and the command line may say, and how mistakes are reported."""

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import utils
from fiveline.tasks import fetch_params, fetch_params_class, list_tasks
from model.vision.params import Params

CS230 = (
    '{"learning_rate": 1e-3,"batch_size": 32,"num_epochs": 10,"dropout_rate":0.8,"num_channels": 32,'
    '"save_summary_steps": 100,"num_workers": 4}'
)


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
        ("no", "no"), ("on", "on"), ("off", "off"), ("Yes", "Yes"), ("12:30", "12:30"), ("1_000", "1_000"),
        ("2020-01-01", "2020-01-01"), ("0x1F", "0x1F"), ("nan", "nan"), ("resnet18", "resnet18"), ("'3'", "3"),
        ("[1, 2]", [1, 2]), ("# only a comment", None),
    ],
)  # fmt: skip
def test_yaml_values_are_what_they_look_like(tmp_path, text, value):
    path = tmp_path / "params.yaml"
    path.write_text(f"key: {text}\n", encoding="utf-8")
    values, mistakes = utils.read_values(path)
    assert values == {"key": value} and type(values["key"]) is type(value)
    assert mistakes == []


def test_empty_yaml_takes_the_defaults_and_a_byte_order_mark_is_no_mistake(fetch, tmp_path):
    for text in ("", "# nothing yet\n", "---\n", "{}"):
        assert fetch(text, name="params.yaml") == make()
    assert "both params.json and params.yaml" in mistakes_of(fetch, "{}")
    (tmp_path / "params.yaml").unlink()
    assert fetch('\ufeff{"seed": 1}').seed == 1


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("params.json", '{"seed": 1, "batch_size": 2, "seed": 3}', "duplicate key 'seed'"),
        ("params.yaml", "seed: 1\nbatch_size: 2\nseed: 3\n", "duplicate key 'seed' in line 3"),
        ("params.yml", "{seed: 1, 'seed': 3}", "duplicate key 'seed' in line 1"),
        ("params.json", '{"learning_rate": {"seed": 1, "seed": 1}}', "duplicate key 'seed'"),
        ("params.yaml", "learning_rate: [{seed: 1, seed: 1}]\n", "duplicate key 'seed'"),
        ("params.json", '{"learning_rate": NaN}', "learning_rate: "),
        ("params.json", '{"learning_rate": -Infinity}', "learning_rate: "),
        ("params.json", '{"learning_rate": 1e999}', "learning_rate: "),
        ("params.yaml", "learning_rate: .nan", "learning_rate: "),
        ("params.yaml", "learning_rate: 1e999", "learning_rate: "),
        ("params.json", '{"seed": 1,\n "batch_size": }', "line 2 column 16"),
        ("params.yaml", "seed: 1\nbatch_size: [\n", "line 3 column 1"),
        ("params.yaml", "seed: 1\n---\nseed: 2\n", "line 2"),
        ("params.json", "[1]", "found list"),
        ("params.yaml", "just words", "found str"),
        ("params.yaml", "1: 2", "expected names as keys, found 1"),
        ("params.yaml", "seed: \x07", "special characters"),
        ("params.yaml", "seed: !!bool maybe", "maybe"),
        ("params.yaml", "seed: !!python/object/apply:os.getcwd []", "python/object/apply"),
        ("params.json", '{"seed": ' + "1" * 5000 + "}", "digits"),
        ("params.json", "[" * 100_000, "recursion"),
        ("params.yaml", "seed: " + "[" * 1_000, "recursion"),
        ("params.yaml", "seed: &x [*x]", "more than 20,000 values"),
        ("params.json", '{"seed": 1, // one\n "batch_size": 2}', "line 1 column 13: "),
        ("params.json", "", "line 1 column 1: "),
    ],
)
def test_broken_files_are_named_with_the_place(fetch, tmp_path, name, text, expected):
    message = mistakes_of(fetch, text, name=name)
    assert message.startswith(f"{tmp_path / name}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", "1e-3"), ("learning_rate", True), ("learning_rate", None), ("learning_rate", [0.1]),
        ("learning_rate", 0), ("learning_rate", 10**400), ("batch_size", 32.0), ("batch_size", True),
        ("batch_size", "32"), ("batch_size", 0), ("num_epochs", 1.5), ("num_epochs", -1), ("nesterov", 1),
        ("nesterov", "true"), ("optimizer", "Adam"), ("optimizer", None), ("monitor", 3), ("momentum", 1),
        ("seed", 2**32), ("clip_grad_norm", 0), ("data_dir", 3), ("image_channels", 2), ("dropout_rate", 1.0),
    ],
)  # fmt: skip
def test_values_of_another_type_or_out_of_range_are_refused(key, value):
    with pytest.raises(utils.InputError, match=f"^the file: {key}: ") as caught:
        Params.from_values({key: value}, source="the file")
    assert ", found " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_yaml_can_say_and_json_cannot_is_refused_in_a_line(fetch):
    for value in ("[!!binary aGVsbG8=]", "!!set {a, b}", "{a: !!timestamp 2020-01-01}"):
        message = mistakes_of(fetch, f"seed: {value}", name="params.yaml")
        assert "seed: input should be a valid integer, found " in message
        assert len(message) < 300


def test_all_mistakes_are_reported_at_once(fetch, tmp_path):
    text = '{"learning_rat": 1, "batch_size": "3", "num_epochs": 0, "seed": 1, "seed": 1.5, "momentum": NaN, "zzz": 1}'
    message = mistakes_of(fetch, text, "weight_decay=-1", "shift", "jitter=.inf")
    title, *lines = message.splitlines()
    assert str(tmp_path / "params.json") in title and "10 mistakes" in title
    culprits = ["learning_rat", "batch_size", "num_epochs", "momentum", "weight_decay", "shift", "jitter", "zzz"]
    assert all(any(culprit in line for line in lines) for culprit in culprits)
    assert sum("seed" in line for line in lines) == 2  # it is there twice, and no integer
    assert len(lines) == 10
    assert "unknown key 'learning_rat'; did you mean 'learning_rate'?" in message
    assert "unknown key 'zzz'; train.py --describe_params lists" in message


def test_overrides_beat_the_file(fetch):
    params = fetch('{"learning_rate": 0.1, "seed": 5}', "learning_rate=3e-4", "optimizer=sgd", "clip_grad_norm=null")
    assert (params.learning_rate, params.optimizer, params.clip_grad_norm, params.seed) == (3e-4, "sgd", None, 5)
    for data_dir in ("data/x #1", "C:\\data: new", "12", "null", "données"):
        overrides = utils.with_data_dir(["data_dir=other"], data_dir)
        assert fetch('{"data_dir": "third"}', *overrides).data_dir == data_dir


@pytest.mark.parametrize("text", [".nan", "NaN", "-.inf", "Infinity", "1e999", "[1, 2", "'", "\x07", ""])
def test_overrides_of_broken_values_are_refused(fetch, text):
    assert "learning_rate" in mistakes_of(fetch, "{}", f"learning_rate={text}")


@pytest.mark.parametrize("word", ["learning_rate", "learning_rate:3", "=3", "--learning_rate=3", "learning-rate=3"])
def test_overrides_without_key_or_value_are_refused(fetch, word):
    message = mistakes_of(fetch, "{}", word)
    assert word in message and "expected key=value; write for example learning_rate=3e-4" in message


def test_facts_are_carried_by_a_copy_alone_and_set_by_no_file(fetch):
    params = make()
    other = params.with_facts({"classes": ["a", "b"]})
    assert other.facts == {"classes": ["a", "b"]} and params.facts == {}
    assert other.hash() == params.hash()
    assert other.differences(params.model_dump(mode="json")) == []
    assert "classes" not in utils.to_json(other.model_dump(mode="json"))
    for key in ("facts", "_facts", "hash", "model_config", "classes"):
        assert f"unknown key '{key}'" in mistakes_of(fetch, json.dumps({key: {"classes": ["a"]}}))


CHANGES = {
    "task": "other", "optimizer": "sgd", "schedule": "cosine", "monitor": "loss", "net": "resnet18",
    "image_channels": 1, "normalize": "train", "class_weights": "balanced", "cache": "none", "data_dir": "else",
    "schedule_factor": 0.5, "dropout_rate": 0.3, "val_fraction": 0.3,
    "precision": "bf16", "ema_decay": 0.9, "grey_bits": 12, "learning_rate_factors": {"fc1": 2.0},
}  # fmt: skip
COMPANIONS = {  # of what cannot change alone
    "nesterov": {"optimizer": "sgd"},
    "num_steps": {"evaluate_every_steps": 1},
    "pretrained": {"net": "resnet18"},
    "freeze_backbone": {"net": "resnet18", "pretrained": True},
}
MACHINE = {
    "num_workers", "data_dir", "save_summary_steps", "cache", "checkpoint_minutes", "detect_anomaly",
    "precision", "compile", "deterministic", "activation_checkpointing", "channels_last", "max_image_pixels", "fsdp",
}  # fmt: skip


@pytest.mark.parametrize("name", list(Params.model_fields))
def test_hash_and_differences_know_what_changes_the_result(name):
    before = make(**COMPANIONS.get(name, {}))
    value = getattr(before, name)
    other = not value if isinstance(value, bool) else 1 if value is None else value + 1 if type(value) is int else 0.25
    after = make(**COMPANIONS.get(name, {}), **{name: CHANGES.get(name, other)})
    assert before != after
    assert (before.hash() == after.hash()) == (name in MACHINE)
    lines = after.differences(before.model_dump(mode="json"))
    assert len(lines) == (0 if name in MACHINE or name in ("num_epochs", "num_steps") else 1)
    assert all(line.startswith(f"{name}: ") for line in lines)


def test_hash_does_not_depend_on_order_or_on_how_a_number_is_written():
    values = {"learning_rate": 1.0, "batch_size": 4, "seed": 7}
    expected = make(**values).hash()
    assert make(**dict(reversed(values.items()))).hash() == expected
    assert make(**{**values, "learning_rate": 1}).hash() == expected
    assert make(**values, optimizer="adam").hash() == expected  # the default, set explicitly


def test_differences_take_the_default_for_what_an_older_run_did_not_know():
    old = make(learning_rate=0.1).model_dump(mode="json")
    del old["weight_decay"]
    old["removed_since"] = 3
    assert make(learning_rate=0.1).differences(old) == []
    assert make(learning_rate=0.1, weight_decay=0.5).differences(old) == ["weight_decay: 0.0 -> 0.5"]


def test_the_old_name_of_a_hyperparameter_is_read_with_a_warning(monkeypatch):
    monkeypatch.setattr(Params, "RENAMED", {"lr": "learning_rate"})
    params = make(lr=0.5)
    assert params.learning_rate == 0.5 and params.hash() == make(learning_rate=0.5).hash()
    (warning,) = params.with_facts({}).warnings()
    assert warning.startswith("lr: its name is learning_rate now")
    assert make(learning_rate=0.5).warnings() == []
    assert make(lr=0.5, learning_rate=0.1).learning_rate == 0.1  # the new name counts, in any order
    assert make(learning_rate=0.1, lr=0.5).learning_rate == 0.1
    assert params.differences({"lr": 0.5}) == [] != params.differences({"lr": 0.1})
    with pytest.raises(utils.InputError, match="learning_rate"):
        make(lr=-1.0)


def test_a_hyperparameter_that_was_removed_is_read_with_a_warning_and_changes_nothing():
    for value in (True, False):
        params = make(tensorboard=value, learning_rate=0.5)
        assert params.model_dump() == make(learning_rate=0.5).model_dump()
        assert params.hash() == make(learning_rate=0.5).hash()
        (warning,) = params.with_facts({}).warnings()
        assert warning.startswith("tensorboard: ") and "python -m fiveline.publish" in warning
        assert params.differences({"learning_rate": 0.5, "tensorboard": not value}) == []


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
    params = fetch(CS230)
    assert (params.learning_rate, params.batch_size, params.num_epochs) == (1e-3, 32, 10)
    assert (params.dropout_rate, params.num_channels, params.num_workers) == (0.8, 32, 4)
    assert (params.task, params.net, params.optimizer, params.schedule) == ("vision", "cs230", "adam", "constant")
    assert (params.weight_decay, params.clip_grad_norm, params.warmup_epochs) == (0, None, None)
    assert (params.image_size, params.image_channels, params.normalize) == (64, 3, "none")
    assert params.horizontal_flip and (params.shift, params.jitter, params.label_smoothing) == (0, 0, 0)
    assert (params.monitor, params.early_stopping_epochs, params.class_weights) == ("accuracy", None, "none")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(list(Params.model_fields)) | st.text(max_size=8)
good_values = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.floats(1e-300, 1e300) | st.integers(1, 2**70),
        "num_epochs": st.integers(1, 2**70),
        "optimizer": st.sampled_from(["adam", "sgd"]),
        "clip_grad_norm": st.none() | st.floats(1e-9, 1e9),
        "data_dir": st.none() | st.text(),
    },
)


@settings(max_examples=80, deadline=None)
@given(good_values | st.dictionaries(keys, json_values, max_size=5))
@example({"learning_rate": math.nan})
@example({"learning_rate": 10**400})
@example({"data_dir": "\ud800"})
@example({"\ud800": 1})
def test_any_dict_is_hyperparameters_or_an_input_error(values):
    try:
        params = Params.from_values(values, source="some file")
    except utils.InputError as error:
        assert str(error).startswith("some file: ")
        return
    read = json.loads(utils.to_json(params.model_dump(mode="json")))
    again = Params.from_values(read, source="the same, written and read")
    assert again == params and again.hash() == params.hash() and again.differences(read) == []


@settings(max_examples=50, deadline=None)
@given(text=st.text(), json_text=json_values.map(json.dumps), suffix=st.sampled_from([".json", ".yaml"]))
def test_any_text_is_a_params_file_or_an_input_error(tmp_path_factory, text, json_text, suffix):
    path = tmp_path_factory.getbasetemp() / f"any_text{suffix}"
    for content in (text, json_text):
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        try:
            values, mistakes = utils.read_values(path)
        except utils.InputError as error:
            assert str(error).startswith(str(path))
        else:
            assert all(isinstance(key, str) for key in values) and isinstance(mistakes, list)


plain_text = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=10)  # YAML folds line ends
words = ["no", "1e-3", "0x1f", "12:30", "null", "~", "# a", "- b", "<<", "&a", "*a", "1_000", ".5", "True"]
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
plain_values = st.recursive(
    st.none() | st.booleans() | numbers | plain_text | st.sampled_from(words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=6,
)
plain_mappings = st.dictionaries(plain_text, plain_values, max_size=4)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(values=plain_mappings, indent=st.sampled_from([None, 0, 3]), is_ascii=st.booleans(), comment=plain_text)
def test_values_of_a_file_are_those_that_json_reads_in_it(tmp_path_factory, values, indent, is_ascii, comment):
    """JSON is YAML 1.2, whose schema we use; PyYAML's own is the one of YAML 1.1, with `no`, `12:30` and `0x1f`."""
    path = tmp_path_factory.getbasetemp() / "values.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=is_ascii), encoding="utf-8")
    assert repr(utils.read_values(path)) == repr((json.loads(path.read_text(encoding="utf-8")), []))
    path = path.with_suffix(".yaml")
    lines = [f"{json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}" for k, v in values.items()]
    path.write_text(f" # {comment}\n\n".join([*lines, ""]), encoding="utf-8")
    try:
        found = utils.read_values(path)
    except utils.InputError as error:  # PyYAML takes fewer characters than JSON
        assert str(error).startswith(f"{path}: not valid YAML"), str(error)
        assert not (comment + repr(values)).isascii()
    else:
        assert repr(found) == repr((values, []))


def test_merges_may_be_named_and_nested(fetch):
    text = "<<: &late {<<: &early {seed: 1, batch_size: 2, momentum: 0.5}, batch_size: 3}\nmomentum: 0.7\n"
    params = fetch(text, name="params.yaml")
    assert (params.seed, params.batch_size, params.momentum) == (1, 3, 0.7)
    params = fetch("seed: 5\n<<: [{seed: 1, batch_size: 2}, {batch_size: 3, momentum: 0.5}]\n", name="params.yaml")
    assert (params.seed, params.batch_size, params.momentum) == (5, 2, 0.5)
    assert "duplicate key '<<' in line 2" in mistakes_of(fetch, "<<: {seed: 1}\n<<: {seed: 2}\n", name="params.yaml")
    message = mistakes_of(fetch, "<<: &a {seed: 1, seed: 2}\n", name="params.yaml")
    assert message.count("duplicate key 'seed'") == 1
    assert "expected a mapping or list of mappings" in mistakes_of(fetch, "<<: 3\n", name="params.yaml")
