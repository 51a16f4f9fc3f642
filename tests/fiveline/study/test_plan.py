"""The directories are a study's only memory: what is found, adopted, left alone, run again; and what is proposed."""

import json
import multiprocessing
import os
import shutil
import sys

import optuna
import pytest

import utils
from fiveline.study import cost
from fiveline.study.pruner import Pruner
from fiveline.study.sampler import Result, propose
from fiveline.study.settings import Settings
from fiveline.study.space import Dimension, Space
from fiveline.study.view import View
from fiveline.tasks import fetch_params
from tests.support.studies import finish_trial, make_plan


def run_all(plan, value=lambda trial: 0.5):
    names = []
    while (trial := plan.next()) is not None:
        finish_trial(trial, value(trial))
        names.append(trial.name)
    return names


RATES = "learning_rate=1e-4,1e-3"


def test_what_has_ended_is_skipped_and_the_rest_is_run(tmp_path):
    plan = make_plan(tmp_path, "learning_rate=1e-5,1e-4,1e-3,1e-2,1e-1")
    trials = [plan.next() for _ in range(5)]
    assert plan.next() is None
    for trial, status in zip(trials, ("finished", "diverged", "failed", "interrupted", "running"), strict=True):
        finish_trial(trial, status=status)
    assert run_all(make_plan(tmp_path, "learning_rate=1e-5,1e-4,1e-3,1e-2,1e-1")) == [
        "learning_rate_0.001", "learning_rate_0.01", "learning_rate_0.1",
    ]  # fmt: skip


def test_a_terminal_shows_the_progress_of_the_trials_at_work(tmp_path, monkeypatch, capsys):
    trial = make_plan(tmp_path, "learning_rate=1e-5", base={"num_epochs": 9}).next()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    view = View()
    view.show([trial], True)
    assert "learning_rate_1e-05:   0%" in capsys.readouterr().out
    for epochs in (3, 4):
        finish_trial(trial, status="running", epochs=epochs)
        view.show([trial], True)
        drawn = capsys.readouterr().out
        assert f"{epochs}/9" in drawn and "accuracy 0.5, best 0.5" in drawn
    view.note("a line that stays")
    assert "a line that stays\n" in capsys.readouterr().out
    view.show([], True)
    capsys.readouterr()
    view.show([], True)
    assert capsys.readouterr().out == ""


def test_a_wider_space_runs_only_what_is_new_and_a_removed_directory_runs_again(tmp_path):
    assert len(run_all(make_plan(tmp_path, RATES))) == 2
    assert run_all(make_plan(tmp_path, "learning_rate=1e-4,1e-3,1e-2")) == ["learning_rate_0.01"]
    shutil.rmtree(tmp_path / "learning_rate_0.0001")
    assert run_all(make_plan(tmp_path, "learning_rate=1e-4,1e-3,1e-2")) == ["learning_rate_0.0001"]


def test_one_more_hyperparameter_adopts_the_runs_that_had_its_default(tmp_path):
    run_all(make_plan(tmp_path, RATES))
    new = run_all(make_plan(tmp_path, RATES, "batch_size=32,64"))  # 32 is the default
    assert new == ["learning_rate_0.0001__batch_size_64", "learning_rate_0.001__batch_size_64"]


def test_a_study_can_be_moved_and_its_directories_renamed(tmp_path):
    run_all(make_plan(tmp_path / "here", RATES))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there/learning_rate_0.001").rename(tmp_path / "there/the good one")
    assert run_all(make_plan(tmp_path / "there", RATES)) == []


def test_values_taken_out_of_the_space_are_left_alone(tmp_path):
    run_all(make_plan(tmp_path, RATES))
    plan = make_plan(tmp_path, "learning_rate=1e-3")
    assert plan.num_trials == 1 and plan.directories.others == ["learning_rate_0.0001"] and run_all(plan) == []


def test_more_epochs_continue_the_trials_and_fewer_leave_them(tmp_path):
    run_all(make_plan(tmp_path, RATES, base={"num_epochs": 5}))
    assert run_all(make_plan(tmp_path, RATES, base={"num_epochs": 8})) == [
        "learning_rate_0.0001",
        "learning_rate_0.001",
    ]
    assert json.loads((tmp_path / "learning_rate_0.001/params.json").read_text())["num_epochs"] == 8
    assert run_all(make_plan(tmp_path, RATES, base={"num_epochs": 3})) == []


def test_more_epochs_are_not_for_trials_that_have_stopped_early(tmp_path):
    plan = make_plan(tmp_path, RATES, base={"num_epochs": 9, "early_stopping_epochs": 2})
    finish_trial(plan.next(), epochs=3, best_epoch=1)
    finish_trial(plan.next(), epochs=9, best_epoch=8)
    plan = make_plan(tmp_path, RATES, base={"num_epochs": 12, "early_stopping_epochs": 2})
    assert [result.state for result in plan.results()] == ["finished", "running"]
    assert run_all(plan) == ["learning_rate_0.001"]


def test_another_base_is_refused_rather_than_mixed(tmp_path):
    run_all(make_plan(tmp_path, RATES))
    with pytest.raises(utils.InputError, match=r"has begun with another weight_decay: 0\.0 -> 0\.1; remove"):
        make_plan(tmp_path, RATES, base={"weight_decay": 0.1})


def test_a_directory_of_the_users_own_is_not_overwritten(tmp_path):
    (tmp_path / "learning_rate_0.001").mkdir(parents=True)
    (tmp_path / "learning_rate_0.001/params.json").write_text('{"learning_rate": 0.5}')
    with pytest.raises(utils.InputError, match="another learning_rate"):
        make_plan(tmp_path, RATES)
    assert "0.5" in (tmp_path / "learning_rate_0.001/params.json").read_text()


def test_a_finished_run_with_a_yaml_file_is_adopted_and_one_to_continue_is_refused(tmp_path):
    """With a params.json beside it, train.py would take neither."""
    trial = make_plan(tmp_path, "learning_rate=1e-3", base={"num_epochs": 2}).next()
    finish_trial(trial)
    (trial.path / "params.json").rename(trial.path / "params.yml")  # JSON is YAML
    assert make_plan(tmp_path, "learning_rate=1e-3", base={"num_epochs": 2}).next() is None
    with pytest.raises(utils.InputError, match=r"params\.yml: in the way of the params\.json that the study writes"):
        make_plan(tmp_path, "learning_rate=1e-3", base={"num_epochs": 5}).next()
    (trial.path / "params.yml").unlink()
    make_plan(tmp_path, "learning_rate=1e-3", base={"num_epochs": 7}).next()
    assert fetch_params(trial.path).num_epochs == 7


def test_broken_and_foreign_directories_do_not_stop_a_study(tmp_path):
    run_all(make_plan(tmp_path, RATES))
    for name, text in (("torn", '{"status": "fini'), ("foreign", '{"params": {"lr": 1}}'), ("list", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    assert run_all(make_plan(tmp_path, RATES)) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="studies need fork")
def test_many_processes_can_make_the_same_trial_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    trials = [make_plan(tmp_path / str(i), "learning_rate=1e-3").all_trials()[0] for i in range(30)]
    barrier = context.Barrier(5)

    def make_all():
        for trial in trials:
            barrier.wait()
            trial.make()

    makers = [context.Process(target=make_all) for _ in range(5)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert [maker.exitcode for maker in makers] == [0] * 5
    for trial in trials:
        assert sorted(path.name for path in trial.path.iterdir()) == ["params.json", "trial.json"]
        assert [path.name for path in trial.path.parent.iterdir() if path.is_dir()] == [trial.name]
        assert utils.read_json(trial.path / "params.json") == {"learning_rate": 1e-3}


def test_a_trial_that_another_process_has_begun_since_is_adopted(tmp_path):
    """A study looks around, and a job of an array begins a trial before the study comes to it."""
    plan = make_plan(tmp_path, RATES)
    other = make_plan(tmp_path, RATES)
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
    assert run_all(plan) == [
        "learning_rate_0.0001__seed_1", "learning_rate_0.0001__seed_2",
        "learning_rate_0.001__seed_1", "learning_rate_0.001__seed_2",
    ]  # fmt: skip
    assert run_all(make_plan(tmp_path, RATES, seeds=[1, 2, 3])) == [
        "learning_rate_0.0001__seed_3", "learning_rate_0.001__seed_3",
    ]  # fmt: skip


def test_other_seeds_of_a_pruned_trial_are_not_run_and_no_pruner_continues_it(tmp_path):
    plan = make_plan(tmp_path, RATES, seeds=[1, 2], pruner="median")
    finish_trial(plan.next(), 0.1, "pruned", epochs=2)
    assert run_all(plan) == ["learning_rate_0.001__seed_1", "learning_rate_0.001__seed_2"]
    assert run_all(make_plan(tmp_path, RATES, seeds=[1, 2], pruner="median")) == []
    assert run_all(make_plan(tmp_path, RATES, seeds=[1, 2])) == [
        "learning_rate_0.0001__seed_1", "learning_rate_0.0001__seed_2",
    ]  # fmt: skip


RANGE = "learning_rate={low: 1e-4, high: 1, log: true}"


def quality(trial):
    return 1 - abs(trial.params.learning_rate - 0.01)


CONDITIONS = [
    "optimizer=adam,sgd",
    "learning_rate={low: 0.001, high: 0.1, when: {optimizer: adam}}, {low: 0.1, high: 1, when: {optimizer: sgd}}",
    "batch_size=8,16",
    "weight_decay={values: [0.0, 0.1], zip: batch_size}",
]


@pytest.mark.parametrize("words", [(RANGE, "dropout_rate={low: 0, high: 0.9}"), CONDITIONS])
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_that_was_killed_proposes_what_it_would_have_proposed(tmp_path, sampler, words):
    settings = {"sampler": sampler, "num_trials": 16}
    whole = run_all(make_plan(tmp_path / "whole", *words, **settings), quality)
    assert len(set(whole)) == 16
    names = []
    for _ in range(16):  # each time by a new process, for all that it knows
        trial = make_plan(tmp_path / "parts", *words, **settings).next()
        finish_trial(trial, quality(trial))
        names.append(trial.name)
    assert names == whole


def test_a_removed_trial_of_a_random_search_is_proposed_again(tmp_path):
    names = run_all(make_plan(tmp_path, RANGE, sampler="random", num_trials=5))
    shutil.rmtree(tmp_path / names[2])
    assert run_all(make_plan(tmp_path, RANGE, sampler="random", num_trials=5)) == [names[2]]


def test_more_trials_are_added_to_those_that_are_there(tmp_path):
    first = run_all(make_plan(tmp_path, RANGE, sampler="tpe", num_trials=4))
    assert set(run_all(make_plan(tmp_path, RANGE, sampler="tpe", num_trials=6))).isdisjoint(first)


def test_a_space_that_is_used_up_ends_the_study(tmp_path):
    plan = make_plan(tmp_path, RATES, "batch_size=8,16,32", sampler="random", num_trials=50)
    assert len(set(run_all(plan))) == 6 and plan.is_exhausted and plan.num_trials == 6


def test_combinations_that_do_not_go_together_are_not_proposed(tmp_path):
    plan = make_plan(tmp_path, RANGE, "nesterov=true,false", "optimizer=sgd,adam", sampler="random", num_trials=12)
    run_all(plan)
    assert {(t.params.nesterov, t.params.optimizer) for t in plan.all_trials()} == {
        (True, "sgd"), (False, "sgd"), (False, "adam"),
    }  # fmt: skip


def test_tpe_finds_better_than_chance(tmp_path):
    def search(sampler, seed):
        plan = make_plan(
            tmp_path / f"{sampler}_{seed}", RANGE, "dropout_rate={low: 0, high: 0.9}",
            sampler=sampler, num_trials=40, sampler_seed=seed,
        )  # fmt: skip

        def loss(trial):
            return (trial.params.learning_rate**0.2 - 0.4) ** 2 + (trial.params.dropout_rate - 0.3) ** 2

        run_all(plan, lambda trial: -loss(trial))
        return min(map(loss, plan.all_trials()))

    assert sum(search("tpe", seed) for seed in range(3)) < sum(search("random", seed) for seed in range(3)) / 2


@pytest.mark.slow
def test_gaussian_process_proposes_near_the_best():
    space = Space((Dimension("learning_rate", None, 0.0, 1.0),))
    settings = Settings(sampler="gp", num_trials=30)
    results = [Result(i, {"learning_rate": i / 12}, "finished", (i / 12 - 0.3) ** 2) for i in range(12)]
    proposals = [propose(settings, space, number, 0, results, maximize=False) for number in (12, 12)]
    assert proposals[0] == proposals[1] and abs(proposals[0]["learning_rate"] - 0.3) < 0.1


def test_proposals_obey_conditions_and_types():
    space = Space(
        (
            Dimension("momentum", None, 0.0, 0.9, when={"optimizer": ("sgd",)}),
            Dimension("optimizer", ("adam", "sgd")),
            Dimension("batch_size", None, 8, 64, True, True),
        )
    )
    settings = Settings(sampler="tpe", num_trials=50)
    proposals = [propose(settings, space, number, 0, [], True) for number in range(50)]
    assert {each["optimizer"] for each in proposals} == {"adam", "sgd"}
    assert all(("momentum" in each) == (each["optimizer"] == "sgd") for each in proposals)
    assert all(type(each["batch_size"]) is int and 8 <= each["batch_size"] <= 64 for each in proposals)


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
def test_pruning_decides_as_optuna_does_and_the_same_after_a_restart(name):
    """Twenty trials of nine epochs, one after the other, against Optuna's own loop of report and should_prune."""
    settings = Settings(pruner=name, min_epochs=1)
    curves = {f"trial {i}": {epoch: (i * 7 % 20) / 20 * epoch / 9 for epoch in range(1, 10)} for i in range(20)}
    pruners = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        "asha": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        "hyperband": optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3),
    }
    study = optuna.create_study(study_name="study", direction="maximize", pruner=pruners[name])
    expected = {}
    for trial_name, curve in curves.items():
        trial = study.ask()
        for epoch, value in curve.items():
            trial.report(value, epoch)
            if trial.should_prune():
                expected[trial_name] = epoch
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[9])
    assert 0 < len(expected) < 20

    def decide(pruner, trial_name):
        epoch = pruner.report(trial_name, curves[trial_name])
        pruner.end(trial_name, curves[trial_name][9] if epoch is None else None)
        return epoch

    pruner = Pruner(settings, 9, maximize=True)
    decided = {trial_name: decide(pruner, trial_name) for trial_name in curves}
    assert {trial_name: epoch for trial_name, epoch in decided.items() if epoch} == expected
    restarted = Pruner(settings, 9, maximize=True)
    for trial_name in list(curves)[:10]:  # what a new process finds in the directories
        restarted.report(trial_name, {e: v for e, v in curves[trial_name].items() if e <= (decided[trial_name] or 9)})
        restarted.end(trial_name, None if decided[trial_name] else curves[trial_name][9])
    assert [decide(restarted, trial_name) for trial_name in list(curves)[10:]] == list(decided.values())[10:]


@pytest.mark.parametrize(
    ("num_trials", "num_workers", "minutes"), [(1, 8, 100), (3, 2, 200), (8, 8, 100), (9, 8, 200), (4, 1, 400)]
)
def test_the_cost_is_that_of_whole_rounds_of_trials(tmp_path, capsys, monkeypatch, num_trials, num_workers, minutes):
    monkeypatch.setattr(cost, "time_an_epoch", lambda *_: (0.0, 3000.0, 0))  # of two epochs, 100 minutes
    values = ",".join(map(str, range(num_trials)))
    plan = make_plan(tmp_path / "study", f"seed={values}", base={"num_epochs": 2})
    cost.print_cost(plan, num_workers, [])
    assert f"({minutes / 60:.2f} hours)" in capsys.readouterr().out
