"""What a study varies: search.yaml, --space, conditions, and every mistake reported before the first trial."""

import json

import pytest

import search_hyperparams
import utils
from fiveline.study.sampler import Result, propose
from fiveline.study.settings import read_settings
from fiveline.study.trials import trial_name
from fiveline.tasks import fetch_params
from tests.support.data import refusal
from tests.support.tasks import PROJECT, needs

pytestmark = needs("vision")  # its hyperparameters are varied


@pytest.fixture
def parent_dir(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    return tmp_path


def read(parent_dir, *space_words, search=None):
    if search is not None:
        (parent_dir / "search.yaml").write_text(search)
    return read_settings(parent_dir, fetch_params(parent_dir), space_words, ["num_trials=400"])


def plan_of(parent_dir, *words):
    parser = search_hyperparams.make_parser()
    return search_hyperparams.make_plan(parser.parse_args(["--parent_dir", str(parent_dir), *words]))


def test_words_and_file_say_the_same(parent_dir):
    words = read(
        parent_dir, "learning_rate=1e-4,1e-3", "horizontal_flip=true,false", "seed={low: 8, high: 32, step: 8}"
    )
    text = "{learning_rate: [1e-4, 1e-3], horizontal_flip: [true, false], seed: {low: 8, high: 32, step: 8}}"
    assert read(parent_dir, search=f"space: {text}") == words
    settings, space = words
    assert settings.sampler == "grid" and len(space.grid()) == 2 * 2 * 4
    first = {"learning_rate": 1e-4, "horizontal_flip": True, "seed": 8}  # true, not 1; 8, not 8.0
    assert json.dumps(space.grid()[0]) == json.dumps(first)


def test_ranges_have_the_numbers_that_people_write_and_the_type_of_the_hyperparameter(parent_dir):
    _, space = read(parent_dir, "dropout_rate={low: 0, high: 0.9, step: 0.1}")
    assert space.dimensions[0].values == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    settings, space = read(parent_dir, "batch_size={low: 8, high: 64, log: true}", "dropout_rate={low: 0, high: 0.5}")
    assert [dimension.is_int for dimension in space.dimensions] == [True, False] and settings.sampler == "tpe"


RATES = """
  optimizer: [adam, sgd, rmsprop]
  learning_rate:
    - {values: [1e-4, 1e-3], when: {optimizer: adam}}
    - {low: 0.1, high: 0.3, step: 0.1, when: {optimizer: sgd}}
"""


def test_a_range_can_depend_on_another_hyperparameter(parent_dir):
    _, space = read(parent_dir, search=f"space:{RATES}")
    assert [tuple(each.values()) for each in space.grid()] == [
        ("adam", 1e-4), ("adam", 1e-3), ("sgd", 0.1), ("sgd", 0.2), ("sgd", 0.3), ("rmsprop",),
    ]  # fmt: skip
    assert space.names == ["optimizer", "learning_rate"]
    assert space.choices_in({"optimizer": "sgd", "learning_rate": 0.2}) == {"optimizer": "sgd", "learning_rate": 0.2}
    assert space.choices_in({"optimizer": "adam", "learning_rate": 0.2}) is None
    assert space.choices_in({"optimizer": "rmsprop", "learning_rate": 0.7}) == {"optimizer": "rmsprop"}


def test_zipped_values_vary_together(parent_dir):
    text = "space:\n  momentum: {values: [0.5, 0.5, 0.9], zip: batch_size}\n  batch_size: [8, 16, 32]\n  seed: [1, 2]\n"
    settings, space = read(parent_dir, search=text)
    assert settings.sampler == "grid" and [tuple(each.values()) for each in space.grid()] == [
        (0.5, 8, 1), (0.5, 8, 2), (0.5, 16, 1), (0.5, 16, 2), (0.9, 32, 1), (0.9, 32, 2),
    ]  # fmt: skip
    assert space.choices_in({"momentum": 0.9, "batch_size": 16, "seed": 1}) is None
    words = [f"seed={','.join(map(str, range(101)))}", f"split_seed={{values: {list(range(101))}, zip: seed}}"]
    assert len(read(parent_dir, *words)[1].grid()) == 101  # not their product


def test_a_sampler_chooses_within_the_range_that_applies_and_zipped_values_together(parent_dir):
    text = f"space:{RATES}  batch_size: [8, 16]\n  momentum: {{values: [0.5, 0.9], zip: batch_size}}\n"
    settings, space = read(parent_dir, search=text + "sampler: tpe\n")
    results = []
    for number in range(30):
        chosen = propose(settings, space, number, 0, results, maximize=True)
        assert space.choices_in(chosen) == chosen
        results.append(Result(number, chosen, "finished", chosen.get("learning_rate", 0.0) + chosen["batch_size"]))
    late = [(each.chosen.get("learning_rate"), each.chosen["batch_size"]) for each in results[15:]]
    assert late.count((0.3, 16)) > 5  # of 12 combinations: it has learnt


def test_the_example_of_the_docs_is_a_space(parent_dir):
    text = (PROJECT / "docs/studies.md").read_text(encoding="utf-8")
    examples = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    settings, space = read(parent_dir, search=next(block for block in examples if "zip:" in block))
    found = [propose(settings, space, number, 0, [], maximize=True) for number in range(12)]
    assert {(each["batch_size"], each["num_channels"]) for each in found} == {(32, 16), (128, 32)}
    assert {each["optimizer"] for each in found} == {"adam", "sgd"}
    for each in found:
        is_adam = each["optimizer"] == "adam"
        assert each["learning_rate"] in (1e-4, 1e-3) if is_adam else 1e-2 <= each["learning_rate"] <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("learning_rat=1,2", r"num_trials=5: space: unknown key 'learning_rat'; did you mean 'learning_rate'\?$"),
        ("batch_size=0,32", "batch_size: input should be greater than or equal to 1, found 0"),
        ("optimizer=adam,adamm", "optimizer: .*adamm"),
        ("dropout_rate={low: 0, high: 2}", "dropout_rate: input should be less than 1, found 2"),
        ("learning_rate={low: 1, high: 0.1}", "low below high, found 1 and 0.1"),
        ("learning_rate={low: 0.1, high: 1, lgo: true}", "unknown key 'lgo'; did you mean"),
        ("dropout_rate={low: 0, high: 0.5, log: true}", "a log range begins above 0"),
        ("learning_rate={low: 1e-5, high: 1, step: 1e-10}", "expected a larger step"),
        ("batch_size={low: 1, high: 9, step: 0.5}", "batch_size: input should be a valid integer, found 1.5"),
        ("learning_rate=1,1", "1 comes twice"),
        ("task=vision,ner", "task does not decide"),
        ("learning_rate", "expected key=value; write for example"),
        ("learning_rate=[1", "not valid YAML"),
        (("learning_rate=1", "learning_rate=2"), "learning_rate comes twice"),
        ("nesterov=true,false", "nesterov: needs optimizer 'sgd'"),
        ("momentum={values: [0.5], when: {optimizer: sgd}}", "momentum: when: 'optimizer' is not another"),
        ("momentum={low: 0, high: 0.5}, {values: [0.9]}", r"when: \{\} and \{\} can hold at once; expected other"),
        (
            ("seed=1,2", "momentum={values: [0.1], when: {seed: [1, 2]}}, {values: [0.2], when: {seed: 2}}"),
            r"momentum: when: \{'seed': \[1, 2\]\} and \{'seed': \[2\]\} can hold at once",
        ),
        (("seed=1,2", "momentum={values: [0.1], when: {seed: 3}}"), "momentum: when: seed is never 3"),
        (("seed=1,2", "momentum={values: [0.1, 0.2, 0.3], zip: seed}"), "found 3 values, expected 2, as seed has"),
        (("seed=1,2", "momentum={values: [0.1], zip: sed}"), "'sed' is not another hyperparameter that varies"),
        (("seed={low: 1, high: 9}", "momentum={values: [0.1], zip: seed}"), "'seed' varies, but not over one list"),
        (("seed=1,2", "momentum={low: 0.1, high: 0.2, zip: seed}"), r"momentum: zip: expected values: \[a, b\]"),
        (
            ("optimizer={values: [adam], when: {momentum: 0.5}}", "momentum={values: [0.5], when: {optimizer: adam}}"),
            "space: optimizer, momentum depend on each other",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_the_space_is_refused(parent_dir, words, message):
    several = words if isinstance(words, tuple) else (words,)
    with pytest.raises(utils.InputError, match=message):
        plan_of(parent_dir, *(f"--space={word}" for word in several), "num_trials=5")


def test_grids_beyond_reason_and_a_space_that_is_missing_are_refused(parent_dir):
    range_of = "{low: 1, high: 1001, step: 1}"
    with pytest.raises(utils.InputError, match="1,002,001 trials; take sampler random"):
        plan_of(parent_dir, f"--space=seed={range_of}", f"--space=batch_size={range_of}")
    with pytest.raises(utils.InputError, match="no search.yaml in it, and no --space; .*--space learning_rate=1e-4"):
        plan_of(parent_dir)


def test_all_mistakes_are_reported_at_once(parent_dir):
    search = "space:\n  batch_size: [0, 100]\n  optimizer: [adamm]\nnum_trial: 3\nsampler: annealing\n"
    (parent_dir / "search.yaml").write_text(search)
    text = refusal(plan_of, parent_dir, "max_retry=3")
    found = ("search.yaml", "found 0", "adamm", "did you mean 'num_trials'", "annealing", "did you mean 'max_retries'")
    assert "5 mistakes" in text and all(each in text for each in found)
    assert sorted(path.name for path in parent_dir.iterdir()) == ["params.json", "search.yaml"]  # nothing has started


def test_a_word_that_is_a_hyperparameter_holds_for_all_trials(parent_dir):
    words = ("num_epochs=1", "max_retries=5", "weight_decay=0.1")
    (parent_dir / "params.json").write_text('{"num_epochs": 7}')
    old = "reproducible: true"  # version 0.1.0 had this setting
    (parent_dir / "search.yaml").write_text(f"space: {{learning_rate: [1e-3, 1e-2]}}\nmax_retries: 1\n{old}\n")
    plan = plan_of(parent_dir, *words)
    assert plan.settings.max_retries == 5
    assert {(trial.params.num_epochs, trial.params.weight_decay) for trial in plan.all_trials()} == {(1, 0.1)}
    for trial in iter(plan.next, None):
        written = utils.read_json(trial.path / "params.json")  # what train.py reads
        assert (written["num_epochs"], written["weight_decay"]) == (1, 0.1)
    assert [trial.status() for trial in plan_of(parent_dir, *words).all_trials()] == ["waiting", "waiting"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("learning_rate=1", "learning_rate=1: the study varies it"),
        ("seed=3", "seed=3: the study varies it"),
        ("optimizer=sgd nesterov=true", "space: nesterov: needs"),  # it does not go with every value of the space
        ("sampler=tpe", "num_trials: how many"),
        ("seeds=[1,1]", "seeds: 1 comes twice"),
        ("seeds=[-1]", "seeds: input should be greater"),
    ],
)
def test_a_mistake_in_a_word_is_refused(parent_dir, words, message):
    space = ("--space", "learning_rate=1e-3,1e-2", "--space", "momentum=0.9,0.0", "seeds=[1, 2]")
    with pytest.raises(utils.InputError, match=message):
        plan_of(parent_dir, *space, *words.split())


def test_trial_names_are_cs230s_stay_in_their_folder_and_do_not_collide(tmp_path):
    rates = [trial_name({"learning_rate": rate}) for rate in (1e-4, 1e-3, 1e-2)]
    assert rates == ["learning_rate_0.0001", "learning_rate_0.001", "learning_rate_0.01"]
    assert trial_name({"optimizer": "adam", "seed": 3}) == "optimizer_adam__seed_3"
    texts = ["../../etc", "/tmp/x", "a b; touch y $(z)", 'it\'s "so"', "日本" * 200, "x" * 300, "a\nb", "..", ""]
    for text in texts:
        name, other = trial_name({"net": text}), trial_name({"net": text + "'"})
        assert name != other and "/" not in name and "\n" not in name and len(name.encode()) < 200
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
        (tmp_path / name).mkdir()
