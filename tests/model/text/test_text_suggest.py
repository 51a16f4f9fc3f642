"""`train.py --init` on text of each kind, and what it leaves to other tasks."""

import json

import pytest

import evaluate
import train
import utils
from fiveline.tasks import fetch_dataset, fetch_facts, fetch_params
from model.text.params import Params
from model.text.serve import suggest
from tests.support.data import write_csv
from tests.support.runs import finish

PROSE = "It was the best of times, it was the worst of times.\n\nIt was the age of wisdom.\n" * 300
ROWS = [[f"a {word} film, number {i}", word] for i in range(60) for word in ("good", "bad")]


def write(folder, **files):
    for name, content in files.items():
        path = folder / "data" / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def init(folder, *words):
    """Return the hyperparameters that --init writes, after reading the data with them."""
    train.main(["--init", str(folder / "run"), "--data_dir", str(folder / "data"), *words])
    params = fetch_params(folder / "run")
    params = fetch_facts(folder / "data", params)
    assert params.task == "text" and params.warnings() == []
    assert all(len(fetch_dataset(split, folder / "data", params)) > 0 for split in ("train", "val"))
    return json.loads((folder / "run/params.json").read_text())


@pytest.mark.parametrize(
    ("files", "fraction"),
    [
        ({"train_txt": PROSE, "val_txt": PROSE, "test_txt": PROSE}, None),
        ({"train_txt": PROSE, "val_txt": PROSE}, None),
        ({"book_txt": PROSE}, 0.1),
        ({"code__a_py": "import os\n\nprint(os.name)\n" * 99, "code__b_md": PROSE}, 0.1),
        ({"train__a_txt": PROSE, "train__b_txt": PROSE, "val__c_txt": PROSE}, None),
    ],
)
def test_text_is_recognised(tmp_path, files, fraction):
    write(tmp_path, **files)
    values = init(tmp_path)
    assert (values["target"], values["tokens"], values.get("test_fraction")) == ("next", "characters", fraction)
    assert (values["num_layers"], values["width"], values["batch_size"]) == (2, 64, 12)
    log = (tmp_path / "run/train.log").read_text()
    names = values.keys() - {"task", "data_dir"}
    assert all(f"- {name}: {json.dumps(values[name])}, " in log for name in names)


def test_a_longer_text_gets_a_larger_net_and_more_steps(tmp_path):
    write(tmp_path, short__train_txt=PROSE, long__train_txt=PROSE * 40)
    (_, short), (number, long) = (suggest(tmp_path / "data" / name, Params()) for name in ("short", "long"))
    assert number > 8000 and (long["num_layers"][0], long["width"][0]) == (4, 128)
    assert short["tokens_per_epoch"][0] * 3 < long["tokens_per_epoch"][0] == 2000 // 8 * 12 * 64


def test_a_script_of_many_characters_becomes_bytes(tmp_path):
    write(tmp_path, train_txt="".join(map(chr, range(0x4E00, 0x5200))) * 10)
    assert init(tmp_path)["tokens"] == "bytes"


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_with_a_text_and_a_label_is_recognised_by_its_names(tmp_path, ending):
    if ending == "csv":
        rows = [[i, *row] for i, row in enumerate(ROWS)]
        write_csv(tmp_path / "data/train.csv", [["id", "Review", "Sentiment"], *rows])
    else:
        rows = [json.dumps({"id": i, "Review": text, "Sentiment": label}) for i, (text, label) in enumerate(ROWS)]
        write(tmp_path, reviews_jsonl="\n".join(rows))
    expected = {"target": "label", "text_column": "Review", "label_column": "Sentiment", "monitor": "accuracy"}
    values = init(tmp_path)
    assert values.items() >= expected.items() and values["context_length"] == 24
    assert values.get("test_fraction") == (0.1 if ending == "jsonl" else None)


def test_a_column_of_another_name_is_given_by_hand(tmp_path):
    write_csv(tmp_path / "data/train.csv", [["what", "mood"], *ROWS])
    with pytest.raises(utils.InputError, match="it has what, mood; .*text_column=NAME label_column=NAME"):
        init(tmp_path)
    assert init(tmp_path, "text_column=what", "label_column=mood")["label_column"] == "mood"


TAGGED = "New I-LOC\nYork I-LOC\nis O\n\nAnn I-PER\nran O\n\n" * 20
TITANIC = "PassengerId,Survived,Name,Age\n" + "".join(f'{i},{i % 2},"Braund, Mr. Owen {i}",{i}\n' for i in range(50))


@pytest.mark.parametrize(
    "files",
    [
        {"train_txt": TAGGED, "val_txt": TAGGED},
        {"train_conllu": "1\tAnn\tann\tNOUN\n\n" * 20},
        {"train__sentences_txt": PROSE, "train__labels_txt": PROSE},
        {"train_csv": "size,label\n1,5\n2,6\n"},
        {"train_csv": TITANIC},
        {"train__cat__a_jpg": "no text", "train__dog__b_jpg": "no text"},
        {"notes_pdf": "x"},
    ],
)
def test_data_of_other_tasks_is_refused(tmp_path, files):
    write(tmp_path, **files)
    with pytest.raises(utils.InputError, match="expected"):
        suggest(tmp_path / "data", Params())


@pytest.mark.slow
def test_the_suggested_runs_learn(tmp_path):
    write(tmp_path / "next", book_txt=PROSE)
    write_csv(tmp_path / "label/data/all.csv", [["text", "label"], *ROWS * 6])
    for name, metric, least in (("next", "accuracy", 0.9), ("label", "accuracy", 0.95)):
        init(tmp_path / name, "num_epochs=4")  # of 8 and of 20
        evaluate.main(["--model_dir", str(finish(tmp_path / name / "run"))])
        assert utils.read_json(tmp_path / name / "run/metrics_test_best.json")[metric] >= least
