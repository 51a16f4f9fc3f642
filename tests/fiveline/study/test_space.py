"""What a study varies: search.yaml, --space, conditions, and every mistake reported before the first trial."""

import json

import pytest

import search_hyperparams
import utils
from fiveline.study.directories import trial_name
from fiveline.study.settings import read_settings
from fiveline.study.space import read_space
from fiveline.tasks import fetch_params
from tests.support.tasks import needs

pytestmark = needs("vision")  # its hyperparameters are varied


@pytest.fixture
def parent_dir(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    return tmp_path


def read(parent_dir, *space_words, search=None, overrides=()):
    if search is not None:
        (parent_dir / "search.yaml").write_text(search)
    return read_settings(parent_dir, fetch_params(parent_dir), space_words, overrides)


def grid(space):
    return list(space.grid())


def test_words_and_file_say_the_same(parent_dir):
    words = read(
        parent_dir, "learning_rate=1e-4,1e-3", "optimizer=adam,sgd", "dropout_rate={low: 0, high: 0.5, step: 0.25}"
    )
    text = (
        "space:\n  learning_rate: [1e-4, 1e-3]\n  optimizer: [adam, sgd]\n"
        "  dropout_rate: {low: 0, high: 0.5, step: 0.25}\n"
    )
    assert read(parent_dir, search=text) == words
    settings, space = words
    assert settings.sampler == "grid" and len(grid(space)) == 2 * 2 * 3
    assert grid(space)[1] == {"learning_rate": 1e-4, "optimizer": "adam", "dropout_rate": 0.25}


def test_steps_of_a_range_are_the_numbers_that_people_write(parent_dir):
    _, space = read(
        parent_dir, "dropout_rate={low: 0, high: 0.9, step: 0.1}", "batch_size={low: 16, high: 64, step: 16}"
    )
    assert space.dimensions[0].values == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert space.dimensions[1].values == (16, 32, 48, 64) and isinstance(space.dimensions[1].values[0], int)


def test_conditional_hyperparameters_vary_only_where_they_mean_something(parent_dir):
    text = "space:\n  momentum: {values: [0.0, 0.9], when: {optimizer: sgd}}\n  optimizer: [adam, sgd]\n"
    _, space = read(parent_dir, search=text)
    assert grid(space) == [
        {"optimizer": "adam"},
        {"momentum": 0.0, "optimizer": "sgd"},
        {"momentum": 0.9, "optimizer": "sgd"},
    ]
    assert space.choices_in({"optimizer": "adam", "momentum": 0.123}) == {"optimizer": "adam"}
    assert space.choices_in({"optimizer": "sgd", "momentum": 0.123}) is None


def test_ranges_of_whole_numbers_and_of_others_are_told_apart_by_the_hyperparameter(parent_dir):
    _, space = read(
        parent_dir,
        "batch_size={low: 8, high: 64, log: true}",
        "dropout_rate={low: 0, high: 0.5}",
        overrides=["num_trials=5"],
    )
    assert [dimension.is_int for dimension in space.dimensions] == [True, False]


def test_sampler_is_chosen_by_the_space(parent_dir):
    assert read(parent_dir, "seed=1,2")[0].sampler == "grid"
    assert read(parent_dir, "learning_rate={low: 0.1, high: 1}", overrides=["num_trials=3"])[0].sampler == "tpe"


MISTAKES = [
    ("learning_rat=1", "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
    ("batch_size=0,32", "batch_size: input should be greater than or equal to 1, found 0"),
    ("optimizer=adam,adamm", "optimizer: .*adamm"),
    ("learning_rate=1e-3,.nan", "learning_rate"),
    ("dropout_rate={low: 0, high: 2}", "dropout_rate: input should be less than 1, found 2"),
    ("learning_rate={low: 1}", "learning_rate: expected numbers low and high"),
    ("learning_rate={low: 1, high: 0.1}", "low below high, found 1 and 0.1"),
    ("learning_rate={low: 0.1, high: 1, lgo: true}", "unknown key 'lgo'; known: values, low"),
    ("dropout_rate={low: 0, high: 0.5, log: true}", "a log range begins above 0"),
    ("learning_rate={low: 1e-5, high: 1, step: 1e-10}", "take a larger step"),
    ("batch_size={low: 1, high: 9, step: 0.5}", "step: expected a whole number"),
    ("learning_rate=1,1", "1 comes twice"),
    ("task=vision,ner", "task does not decide"),
    ("num_workers=0,2", "num_workers does not decide"),
    (
        "momentum={values: [0.5], when: {optimizer: sgd}}",
        "momentum: when: 'optimizer' does not vary; give the space optimizer: \\[a, b\\], or leave out",
    ),
    ("learning_rate", "expected name=value,value"),
    ("learning_rate=", "expected name=value,value"),
    ("=1,2", "expected name=value,value"),
    ("a b=1", "expected name=value,value"),
    ("learning_rate=[1", "not valid YAML"),
    ("nesterov=true,false", "nesterov: needs optimizer 'sgd'"),
]


@pytest.mark.parametrize(("word", "message"), MISTAKES)
def test_a_mistake_in_the_space_is_refused(parent_dir, word, message):
    with pytest.raises(utils.InputError, match=message):
        read(parent_dir, word, overrides=["num_trials=5"])


def test_a_mistake_of_each_value_is_told_and_counted_once(parent_dir):
    with pytest.raises(utils.InputError) as refusal:
        read(parent_dir, "learning_rat=1e-3,1e-2")
    assert str(refusal.value) == "--space: space: unknown key 'learning_rat'; did you mean 'learning_rate'?"


def test_all_mistakes_are_told_at_once(parent_dir):
    search = "space:\n  batch_size: [0, 100]\n  optimizer: [adamm]\nnum_trial: 3\nsampler: annealing\n"
    with pytest.raises(utils.InputError) as refusal:
        read(parent_dir, search=search, overrides=["max_retry=3"])
    text = str(refusal.value)
    assert "5 mistakes" in text and "search.yaml" in text
    assert "found 0" in text and "adamm" in text and "did you mean 'num_trials'" in text and "annealing" in text
    assert "did you mean 'max_retries'" in text


def plan_of(parent_dir, *words):
    parser = search_hyperparams.make_parser()
    return search_hyperparams.make_plan(parser.parse_args(["--parent_dir", str(parent_dir), *words]))


def test_a_word_that_is_a_hyperparameter_holds_for_all_trials(parent_dir):
    words = ("--space", "learning_rate=1e-3,1e-2", "num_epochs=1", "max_retries=5", "weight_decay=0.1")
    plan = plan_of(parent_dir, *words)
    assert plan.settings.max_retries == 5
    assert {(trial.params.num_epochs, trial.params.weight_decay) for trial in plan.all_trials()} == {(1, 0.1)}
    for trial in iter(plan.next, None):
        written = utils.read_json(trial.path / "params.json")  # what train.py reads
        assert (written["num_epochs"], written["weight_decay"]) == (1, 0.1)
    assert [trial.status() for trial in plan_of(parent_dir, *words).all_trials()] == ["waiting", "waiting"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learning_rate=1", "learning_rate=1: the study varies it"),
        ("seed=3", "seed=3: the study varies it"),
        ("num_epochs=0", "num_epochs: input should be greater than or equal to 1"),
        ("num_epoch=1", "unknown key 'num_epoch'"),
        ("momentum=0.9", "momentum=0.9: the study varies it"),
        ("optimizer=sgd nesterov=true", "space: nesterov: needs"),  # it does not go with every value of the space
        ("task=visio", "unknown task 'visio'; did you mean 'vision'"),
    ],
)
def test_a_word_for_all_trials_is_checked_against_the_space(parent_dir, word, message):
    words = ("--space", "learning_rate=1e-3,1e-2", "--space", "momentum=0.9,0.0", "seeds=[1, 2]")
    with pytest.raises(utils.InputError, match=message):
        plan_of(parent_dir, *words, *word.split())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("sampler=tpe", "num_trials: how many"),
        ("seeds=[1,1]", r"seeds: \[1, 1\] has one twice"),
        ("seeds=[-1]", "seed: input should be greater"),
        ("max_hours=0", "max_hours"),
        ("pruner=medain", "pruner"),
    ],
)
def test_a_mistake_in_the_settings_is_refused(parent_dir, settings, message):
    with pytest.raises(utils.InputError, match=message):
        read(parent_dir, "learning_rate=0.1,0.2", overrides=[settings])


def test_circles_of_conditions_are_refused():
    raw = {
        "optimizer": {"values": ["adam", "sgd"], "when": {"momentum": 0.5}},
        "momentum": {"values": [0.5], "when": {"optimizer": "sgd"}},
    }
    _, mistakes = read_space(raw, utils.Params())
    assert mistakes == ["space: optimizer, momentum depend on each other"]


def test_grids_beyond_reason_are_refused(parent_dir):
    word = "seed={low: 0, high: 1000, step: 1}"
    with pytest.raises(utils.InputError, match="1,002,001 trials; take sampler random"):
        read(parent_dir, word, "batch_size={low: 1, high: 1001, step: 1}")


def test_no_space_at_all_says_what_to_type(parent_dir):
    with pytest.raises(utils.InputError, match="no search.yaml in it, and no --space; .*--space learning_rate=1e-4"):
        read(parent_dir)


def test_trial_names_are_cs230s():
    assert [trial_name({"learning_rate": rate}) for rate in (1e-4, 1e-3, 1e-2)] == [
        "learning_rate_0.0001", "learning_rate_0.001", "learning_rate_0.01",
    ]  # fmt: skip
    assert trial_name({"optimizer": "adam", "seed": 3}) == "optimizer_adam__seed_3"


@pytest.mark.parametrize(
    "text", ["../../etc", "/tmp/x", "a b; touch y $(z)", 'it\'s "so"', "日本" * 200, "x" * 300, "a\nb", "..", ""]
)
def test_trial_names_stay_in_their_folder_and_do_not_collide(tmp_path, text):
    name, other = trial_name({"net": text}), trial_name({"net": text + "'"})
    assert name != other and "/" not in name and "\n" not in name and len(name.encode()) < 200
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    (tmp_path / name).mkdir()


def test_true_and_one_are_not_the_same(parent_dir):
    _, space = read(parent_dir, "horizontal_flip=true,false")
    assert space.choices_in({"horizontal_flip": True}) == {"horizontal_flip": True}
    assert json.dumps(grid(space)) == '[{"horizontal_flip": true}, {"horizontal_flip": false}]'
