"""The directories are a study's only memory: what is found, adopted, left alone, run again; and what is proposed."""

import shutil
import sys

import pytest

import utils
from fiveline.study import view
from tests.support.studies import finish_trial, make_plan

RATES = "learning_rate=1e-4,1e-3"
FIRST, SECOND = "learning_rate_0.0001__seed_", "learning_rate_0.001__seed_"
RANGE = "learning_rate={low: 1e-4, high: 1, log: true}"


def run_all(plan, value=lambda trial: 0.5):
    names = []
    while (trial := plan.next()) is not None:
        finish_trial(trial, value(trial))
        names.append(trial.name)
    return names


def test_what_has_ended_is_skipped_and_the_rest_is_run(tmp_path):
    words = "learning_rate=1e-5,1e-4,1e-3,1e-2,1e-1"
    statuses = ("finished", "diverged", "failed", "interrupted", "running")
    for trial, status in zip(iter(make_plan(tmp_path, words).next, None), statuses, strict=True):
        finish_trial(trial, status=status)
    rest = ["learning_rate_0.001", "learning_rate_0.01", "learning_rate_0.1"]
    assert run_all(make_plan(tmp_path, words)) == rest


def test_a_terminal_shows_the_progress_of_the_trials_at_work(tmp_path, monkeypatch, capsys):
    trial = make_plan(tmp_path, "learning_rate=1e-5", base={"num_epochs": 9}).next()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = view.View()
    shown.show([trial], True)
    finish_trial(trial, status="running", epochs=4)
    shown.show([trial], True)
    shown.note("a line that stays")
    shown.show([], True)
    printed, drawn = capsys.readouterr()
    assert "learning_rate_1e-05:   0%" in drawn and "4/9" in drawn and "accuracy 0.5, best 0.5" in drawn
    assert printed == "a line that stays\n"


def test_another_space_runs_only_what_is_new_and_leaves_the_rest_alone(tmp_path):
    assert len(run_all(make_plan(tmp_path, RATES))) == 2
    assert run_all(make_plan(tmp_path, "learning_rate=1e-4,1e-3,1e-2")) == ["learning_rate_0.01"]
    shutil.rmtree(tmp_path / "learning_rate_0.0001")
    assert run_all(make_plan(tmp_path, "learning_rate=1e-4,1e-3,1e-2")) == ["learning_rate_0.0001"]
    plan = make_plan(tmp_path, "learning_rate=1e-3", "batch_size=32,64")  # 32 is the default
    assert plan.num_trials == 2 and plan.directories.others == ["learning_rate_0.0001", "learning_rate_0.01"]
    assert run_all(plan) == ["learning_rate_0.001__batch_size_64"]


def test_a_study_can_be_moved_its_directories_renamed_and_foreign_and_broken_ones_put_in(tmp_path):
    run_all(make_plan(tmp_path / "here", RATES))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there/learning_rate_0.001").rename(tmp_path / "there/the good one")
    for name, text in (("torn", '{"status": "fini'), ("foreign", '{"params": {"lr": 1}}'), ("list", "[1]")):
        (tmp_path / "there" / name).mkdir()
        (tmp_path / "there" / name / "run.json").write_text(text)
    assert run_all(make_plan(tmp_path / "there", RATES)) == []


def test_more_epochs_continue_the_trials_and_fewer_leave_them(tmp_path):
    run_all(make_plan(tmp_path, RATES, base={"num_epochs": 5}))
    both = ["learning_rate_0.0001", "learning_rate_0.001"]
    assert run_all(make_plan(tmp_path, RATES, base={"num_epochs": 8})) == both
    assert utils.read_json(tmp_path / "learning_rate_0.001/params.json")["num_epochs"] == 8
    assert run_all(make_plan(tmp_path, RATES, base={"num_epochs": 3})) == []


def test_more_epochs_are_not_for_trials_that_have_stopped_early(tmp_path):
    plan = make_plan(tmp_path, RATES, base={"num_epochs": 9, "early_stopping_epochs": 2})
    finish_trial(plan.next(), epochs=3, best_epoch=1)
    finish_trial(plan.next(), epochs=9, best_epoch=8)
    plan = make_plan(tmp_path, RATES, base={"num_epochs": 12, "early_stopping_epochs": 2})
    assert [result.state for result in plan.results()] == ["finished", "running"]
    assert run_all(plan) == ["learning_rate_0.001"]


def test_another_base_and_a_directory_of_the_users_own_are_refused_rather_than_mixed(tmp_path):
    run_all(make_plan(tmp_path, RATES))
    with pytest.raises(utils.InputError, match=r"has begun with another weight_decay: 0\.0 -> 0\.1; remove"):
        make_plan(tmp_path, RATES, base={"weight_decay": 0.1})
    path = tmp_path / "learning_rate_0.01/params.json"
    path.parent.mkdir()
    path.write_text('{"learning_rate": 0.5}')
    with pytest.raises(utils.InputError, match="another learning_rate"):
        make_plan(tmp_path, "learning_rate=1e-2", base={})
    assert "0.5" in path.read_text()


def test_a_finished_run_with_a_yaml_file_is_adopted_and_one_to_continue_is_refused(tmp_path):
    """With a params.json beside it, train.py would take neither."""
    trial = make_plan(tmp_path, "learning_rate=1e-3", base={"num_epochs": 2}).next()
    finish_trial(trial)
    (trial.path / "params.json").rename(trial.path / "params.yml")  # JSON is YAML
    assert make_plan(tmp_path, "learning_rate=1e-3", base={"num_epochs": 2}).next() is None
    with pytest.raises(utils.InputError, match=r"params\.yml: in the way of the params\.json that the study writes"):
        make_plan(tmp_path, "learning_rate=1e-3", base={"num_epochs": 5}).next()


def test_a_trial_that_another_process_has_begun_since_is_adopted(tmp_path):
    """A study looks around, and a job of an array begins a trial before the study comes to it."""
    plan, other = make_plan(tmp_path, RATES), make_plan(tmp_path, RATES)
    for trial in (other.next(), other.next()):
        finish_trial(trial, status="running", epochs=1)
    found = [plan.directories.trials(number, {"learning_rate": rate})[0] for number, rate in enumerate((1e-4, 1e-3))]
    assert [trial.status() for trial in found] == ["running", "running"]
    finish_trial(found[0])
    assert [trial.name for trial in iter(plan.next, None)] == ["learning_rate_0.0001", "learning_rate_0.001"]


def test_a_directory_that_was_only_just_begun_is_completed(tmp_path):
    """Its process was killed before it wrote params.json."""
    trial = make_plan(tmp_path, RATES).next()
    (trial.path / "params.json").unlink()
    assert run_all(make_plan(tmp_path, RATES)) == ["learning_rate_0.0001", "learning_rate_0.001"]
    (tmp_path / "learning_rate_0.01").write_text("a file")
    with pytest.raises(utils.InputError, match=r"learning_rate_0\.01: not a directory, and in the way"):
        run_all(make_plan(tmp_path, "learning_rate=1e-2"))


def test_each_trial_is_run_with_each_seed(tmp_path):
    plan = make_plan(tmp_path, RATES, seeds=[1, 2])
    assert plan.num_trials == 4
    assert run_all(plan, lambda trial: trial.params.seed / 4) == [f"{FIRST}1", f"{FIRST}2", f"{SECOND}1", f"{SECOND}2"]
    assert [result.value for result in plan.results()] == [0.375, 0.375]
    assert run_all(make_plan(tmp_path, RATES, seeds=[1, 2, 3])) == [f"{FIRST}3", f"{SECOND}3"]


def test_other_seeds_of_a_pruned_trial_are_not_run_and_no_pruner_continues_it(tmp_path):
    plan = make_plan(tmp_path, RATES, seeds=[1, 2], pruner="median")
    finish_trial(plan.next(), 0.1, "pruned", epochs=2)
    assert run_all(plan) == [f"{SECOND}1", f"{SECOND}2"]
    assert run_all(make_plan(tmp_path, RATES, seeds=[1, 2], pruner="median")) == []
    assert run_all(make_plan(tmp_path, RATES, seeds=[1, 2])) == [f"{FIRST}1", f"{FIRST}2"]


CONDITIONS = [
    "optimizer=adam,sgd",
    "learning_rate={low: 0.001, high: 0.1, when: {optimizer: adam}}, {low: 0.1, high: 1, when: {optimizer: sgd}}",
    "batch_size=8,16",
    "weight_decay={values: [0.0, 0.1], zip: batch_size}",
]


@pytest.mark.parametrize(("sampler", "words"), [("random", [RANGE]), ("tpe", CONDITIONS)])
def test_a_study_that_was_killed_proposes_what_it_would_have_proposed(tmp_path, sampler, words):
    settings = {"sampler": sampler, "num_trials": 13}  # tpe learns from ten trials on
    whole = run_all(make_plan(tmp_path / "whole", *words, **settings), lambda trial: trial.params.learning_rate)
    for name in whole:  # each time by a new process, for all that it knows
        trial = make_plan(tmp_path / "parts", *words, **settings).next()
        finish_trial(trial, trial.params.learning_rate)
        assert trial.name == name
    assert len(set(whole)) == 13


def test_a_removed_trial_of_a_random_search_is_proposed_again_and_more_are_added(tmp_path):
    names = run_all(make_plan(tmp_path, RANGE, sampler="random", num_trials=5))
    shutil.rmtree(tmp_path / names[2])
    assert run_all(make_plan(tmp_path, RANGE, sampler="random", num_trials=5)) == [names[2]]
    assert len(set(run_all(make_plan(tmp_path, RANGE, sampler="random", num_trials=7))) - set(names)) == 2


def test_a_space_that_is_used_up_ends_the_study_without_combinations_that_do_not_go_together(tmp_path):
    plan = make_plan(tmp_path, "nesterov=true,false", "optimizer=sgd,adam", sampler="random", num_trials=12)
    assert len(run_all(plan)) == 3 and plan.is_exhausted and plan.num_trials == 3
    found = {(trial.params.nesterov, trial.params.optimizer) for trial in plan.all_trials()}
    assert found == {(True, "sgd"), (False, "sgd"), (False, "adam")}


@pytest.mark.parametrize(("num_trials", "num_workers", "minutes"), [(1, 8, 100), (3, 2, 200), (8, 8, 100)])
def test_the_cost_is_that_of_whole_rounds_of_trials(tmp_path, monkeypatch, num_trials, num_workers, minutes):
    monkeypatch.setattr(view, "time_an_epoch", lambda *_: (0.0, 3000.0, 0))  # of two epochs, 100 minutes
    plan = make_plan(tmp_path, f"seed={','.join(map(str, range(num_trials)))}", base={"num_epochs": 2})
    assert view.print_cost(plan, num_workers, [])["seconds"] == minutes * 60


def test_the_trial_that_keeps_its_checkpoints_is_the_one_with_the_lower_loss(tmp_path):
    plan = make_plan(tmp_path, "learning_rate=1e-4,1e-3,1e-2")
    trials = [plan.next() for _ in range(3)]
    for trial, loss in zip(trials, (0.3, 0.1, 0.5), strict=True):
        finish_trial(trial, 1.0, best_loss=loss)
        (trial.path / "best.pth.tar").write_bytes(bytes(100))
    assert plan.delete_checkpoints(0.0) == [trials[2].name, trials[0].name]
    assert [(trial.path / "best.pth.tar").exists() for trial in trials] == [False, True, False]
