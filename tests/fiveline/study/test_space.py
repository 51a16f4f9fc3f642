"""What a study varies: search.yaml, --space, conditions, and every mistake reported before the first trial."""

import json

import pytest

import search_hyperparams
import utils
from fiveline.study.directories import trial_name
from fiveline.study.sampler import Result, propose
from fiveline.study.settings import read_settings
from fiveline.study.space_entries import read_space
from fiveline.tasks import fetch_params
from tests.support.tasks import PROJECT, needs

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


RATES = """
  optimizer: [adam, sgd, rmsprop]
  learning_rate:
    - {values: [1e-4, 1e-3], when: {optimizer: adam}}
    - {low: 0.1, high: 0.3, step: 0.1, when: {optimizer: sgd}}
"""


def test_a_range_can_depend_on_another_hyperparameter(parent_dir):
    _, space = read(parent_dir, search=f"space:{RATES}")
    assert [tuple(each.values()) for each in grid(space)] == [
        ("adam", 1e-4), ("adam", 1e-3), ("sgd", 0.1), ("sgd", 0.2), ("sgd", 0.3), ("rmsprop",),
    ]  # fmt: skip
    assert space.names == ["optimizer", "learning_rate"]
    assert space.choices_in({"optimizer": "sgd", "learning_rate": 0.2}) == {"optimizer": "sgd", "learning_rate": 0.2}
    assert space.choices_in({"optimizer": "adam", "learning_rate": 0.2}) is None
    assert space.choices_in({"optimizer": "rmsprop", "learning_rate": 0.7}) == {"optimizer": "rmsprop"}


def test_zipped_values_vary_together(parent_dir):
    text = "space:\n  momentum: {values: [0.5, 0.5, 0.9], zip: batch_size}\n  batch_size: [8, 16, 32]\n  seed: [1, 2]\n"
    settings, space = read(parent_dir, search=text)
    assert settings.sampler == "grid" and [tuple(each.values()) for each in grid(space)] == [
        (0.5, 8, 1), (0.5, 8, 2), (0.5, 16, 1), (0.5, 16, 2), (0.9, 32, 1), (0.9, 32, 2),
    ]  # fmt: skip
    assert space.choices_in({"momentum": 0.9, "batch_size": 16, "seed": 1}) is None
    words = [f"seed={','.join(map(str, range(320)))}", f"split_seed={{values: {list(range(320))}, zip: seed}}"]
    assert len(grid(read(parent_dir, *words)[1])) == 320  # not 102,400, which would be refused


def test_a_sampler_chooses_within_the_range_that_applies_and_zipped_values_together(parent_dir):
    text = f"space:{RATES}  batch_size: [8, 16]\n  momentum: {{values: [0.5, 0.9], zip: batch_size}}\n"
    settings, space = read(parent_dir, search=text + "sampler: tpe\nnum_trials: 60\n")
    results = []
    for number in range(40):
        chosen = propose(settings, space, number, 0, results, maximize=True)
        assert space.choices_in(chosen) == chosen
        results.append(Result(number, chosen, "finished", chosen.get("learning_rate", 0.0) + chosen["batch_size"]))
    late = [(each.chosen.get("learning_rate"), each.chosen["batch_size"]) for each in results[20:]]
    assert late.count((0.3, 16)) > 8  # of 12 combinations: it has learnt


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_example_of_the_docs_is_a_space(parent_dir, sampler):
    text = (PROJECT / "docs/studies.md").read_text(encoding="utf-8")
    examples = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    settings, space = read(parent_dir, search=next(block for block in examples if "zip:" in block))
    settings = settings.model_copy(update={"sampler": sampler})
    found = [propose(settings, space, number, 0, [], maximize=True) for number in range(20)]
    assert {(each["batch_size"], each["num_channels"]) for each in found} == {(32, 16), (128, 32)}
    assert {each["optimizer"] for each in found} == {"adam", "sgd"}
    for each in found:
        is_adam = each["optimizer"] == "adam"
        assert each["learning_rate"] in (1e-4, 1e-3) if is_adam else 1e-2 <= each["learning_rate"] <= 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("- {low: 0.1, high: 1}\n    - {values: [2.0]}", r"when: \{\} and \{\} can hold at once; expected other"),
        (
            "- {values: [1.0], when: {seed: [1, 2]}}\n    - {values: [2.0], when: {seed: 2}}",
            r"learning_rate: when: \{'seed': \[1, 2\]\} and \{'seed': \[2\]\} can hold at once",
        ),
        ("- {values: [1.0], when: {sed: 1}}", r"'sed' is not another hyperparameter that varies; expected sed"),
        ("- {values: [1.0], when: {seed: 3}}", "learning_rate: when: seed is never 3"),
        ("{values: [1.0, 2.0, 3.0], zip: seed}", r"found 3 values, expected 2, as seed has"),
        ("{values: [1.0], zip: sed}", r"zip: 'sed' is not another hyperparameter that varies; expected sed"),
        ("{values: [1.0], zip: learning_rate}", "zip: 'learning_rate' is not another hyperparameter"),
        ("{values: [1.0], zip: dropout_rate}", r"zip: 'dropout_rate' varies, but not over one list; expected"),
        ("{low: 0.1, high: 1, zip: seed}", r"learning_rate: zip: expected values: \[a, b\]"),
    ],
)  # fmt: skip
def test_mistakes_in_conditions_and_zips_are_refused(parent_dir, entry, message):
    search = f"space:\n  learning_rate:\n    {entry}\n  seed: [1, 2]\n  dropout_rate: {{low: 0, high: 0.5}}\n"
    with pytest.raises(utils.InputError, match=message):
        read(parent_dir, search=search, overrides=["num_trials=5"])


def test_ranges_of_whole_numbers_and_of_others_are_distinguished_by_the_hyperparameter(parent_dir):
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
    ("learning_rate={low: 1}", r"learning_rate: expected values: \[a, b\], or numbers low and high"),
    ("learning_rate={low: 1, high: 0.1}", "low below high, found 1 and 0.1"),
    ("learning_rate={low: 0.1, high: 1, lgo: true}", "unknown key 'lgo'; did you mean"),
    ("dropout_rate={low: 0, high: 0.5, log: true}", "a log range begins above 0"),
    ("learning_rate={low: 1e-5, high: 1, step: 1e-10}", "expected a larger step"),
    ("batch_size={low: 1, high: 9, step: 0.5}", "batch_size: input should be a valid integer, found 1.5"),
    ("learning_rate=1,1", "1 comes twice"),
    ("task=vision,ner", "task does not decide"),
    ("num_workers=0,2", "num_workers does not decide"),
    (
        "momentum={values: [0.5], when: {optimizer: sgd}}",
        "momentum: when: 'optimizer' is not another hyperparameter that varies; expected optimizer in the space",
    ),
    ("learning_rate", "not of the form key=value"),
    ("learning_rate=", "learning_rate: values: list should have at least 1 item"),
    ("=1,2", "not of the form key=value"),
    ("a b=1", "not of the form key=value"),
    ("learning_rate=[1", "not valid YAML"),
    ("nesterov=true,false", "nesterov: needs optimizer 'sgd'"),
]


@pytest.mark.parametrize(("word", "message"), MISTAKES)
def test_a_mistake_in_the_space_is_refused(parent_dir, word, message):
    with pytest.raises(utils.InputError, match=message):
        read(parent_dir, word, overrides=["num_trials=5"])


def test_a_mistake_of_each_value_is_reported_and_counted_once(parent_dir):
    with pytest.raises(utils.InputError) as refusal:
        read(parent_dir, "learning_rat=1e-3,1e-2")
    assert str(refusal.value) == "--space: space: unknown key 'learning_rat'; did you mean 'learning_rate'?"


def test_all_mistakes_are_reported_at_once(parent_dir):
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


@pytest.mark.parametrize("has_file", [True, False])
def test_a_word_that_is_a_hyperparameter_holds_for_all_trials(parent_dir, has_file):
    words = ("num_epochs=1", "max_retries=5", "weight_decay=0.1")
    if has_file:
        (parent_dir / "params.json").write_text('{"num_epochs": 7}')
        (parent_dir / "search.yaml").write_text("space:\n  learning_rate: [1.0e-3, 1.0e-2]\nmax_retries: 1\n")
    else:
        words = ("--space", "learning_rate=1e-3,1e-2", *words)
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
