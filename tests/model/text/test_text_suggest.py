"""`train.py --init` on text of each kind, and what it leaves to other tasks."""

import json

import pytest

import evaluate
import train
import utils
from fiveline.tasks import fetch_dataset, fetch_facts, fetch_params
from tests.support.data import write_csv
from tests.support.runs import finish

PROSE = "It was the best of times, it was the worst of times.\n\nIt was the age of wisdom.\n" * 300
ROWS = [[f"a {word} film, number {i}", word] for i in range(60) for word in ("good", "bad")]
NEXT = {"target": "next", "tokens": "characters", "num_layers": 2, "width": 64, "batch_size": 12}
LABEL = {"target": "label", "text_column": "Review", "label_column": "Sentiment", "monitor": "accuracy",
         "context_length": 24}  # fmt: skip
CSV = "id,Review,Sentiment\n" + "".join(f'{i},"{text}",{label}\n' for i, (text, label) in enumerate(ROWS))
JSONL = "\n".join(json.dumps({"id": i, "Review": text, "Sentiment": label}) for i, (text, label) in enumerate(ROWS))
TAGGED = "New I-LOC\nYork I-LOC\nis O\n\nAnn I-PER\nran O\n\n" * 20
TITANIC = "PassengerId,Survived,Name,Age\n" + "".join(f'{i},{i % 2},"Braund, Mr. Owen {i}",{i}\n' for i in range(50))
KAGGLE = {"train/sentences.txt": PROSE, "train/labels.txt": PROSE}


def init(folder, files, *words):
    """Return the hyperparameters that --init writes, after reading the data with them."""
    for name, content in files.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    train.main(["--init", str(folder / "run"), "--data_dir", str(folder / "data"), *words])
    params = fetch_facts(folder / "data", fetch_params(folder / "run"))
    assert params.task == "text" and params.warnings() == []
    assert all(len(fetch_dataset(split, folder / "data", params)) > 0 for split in ("train", "val"))
    return json.loads((folder / "run/params.json").read_text())


@pytest.mark.parametrize(
    ("files", "expected", "test_fraction"),
    [
        ({"train.txt": PROSE, "val.txt": PROSE, "test.txt": PROSE}, NEXT, None),
        ({"code/a.py": "import os\n\nprint(os.name)\n" * 99, "code/b.md": PROSE}, NEXT, 0.1),
        ({"train/a.txt": PROSE, "train/b.txt": PROSE, "val/c.txt": PROSE}, NEXT, None),
        ({"book.txt": PROSE * 40}, {"num_layers": 4, "width": 128, "tokens_per_epoch": 1000 // 8 * 12 * 64}, 0.1),
        ({"train.txt": "".join(map(chr, range(0x4E00, 0x5200))) * 10}, {"tokens": "bytes"}, None),
        ({"train.csv": CSV}, LABEL, None),
        ({"all.jsonl": JSONL}, LABEL, 0.1),
        ({"train/a.csv": CSV, "val/a.csv": CSV}, LABEL, None),
        ({"train.txt": "a b", "val.txt": "a b"}, {"tokens_per_epoch": 50 * 12 * 64}, None),
    ],
    ids=["three", "folder", "folders", "long", "many characters", "csv", "jsonl", "folders of tables", "tiny"],
)
def test_text_is_recognised(tmp_path, files, expected, test_fraction):
    values = init(tmp_path, files)
    assert values.items() >= expected.items() and values.get("test_fraction") == test_fraction
    log = (tmp_path / "run/train.log").read_text()
    assert all(f"- {name}: {json.dumps(values[name])}, " in log for name in values.keys() - {"task", "data_dir"})


@pytest.mark.parametrize("files", [{"train.txt": TAGGED}, {"train.csv": TITANIC}, KAGGLE, {"a.pdf": ""}])
def test_data_of_other_tasks_is_refused(tmp_path, files):
    with pytest.raises(utils.InputError, match="expected"):
        init(tmp_path, files, "task=text")


def test_a_column_of_another_name_is_given_by_hand(tmp_path):
    write_csv(tmp_path / "data/train.csv", [["what", "mood"], *ROWS])
    with pytest.raises(utils.InputError, match="it has what, mood; .*text_column=NAME label_column=NAME"):
        init(tmp_path, {})
    assert init(tmp_path, {}, "text_column=what", "label_column=mood")["label_column"] == "mood"


def test_text_that_is_not_utf_8_is_read_as_bytes_by_request(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.txt").write_bytes(b"caf\xe9\n" * 99)
    with pytest.raises(utils.InputError, match="or set tokens=bytes"):
        init(tmp_path, {}, "task=text")
    assert init(tmp_path, {}, "task=text", "tokens=bytes")["tokens"] == "bytes"


@pytest.mark.parametrize("files", [{"a.csv": CSV.replace("\n", "\n1,a,b,c\n", 1)}, {"a.jsonl": f"3\n{JSONL}"}])
def test_a_broken_first_row_is_named(tmp_path, files):
    with pytest.raises(utils.InputError, match=r"a\.(csv:2: has more cells|jsonl:1: expected a row)"):
        init(tmp_path, files, "task=text")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("book.txt", 0.9), ("all.jsonl", 0.95)])
def test_the_suggested_runs_learn(tmp_path, name, least):
    init(tmp_path, {name: PROSE if name == "book.txt" else f"{JSONL}\n" * 6}, "num_epochs=4")  # of 8 and of 20
    evaluate.main(["--model_dir", str(finish(tmp_path / "run"))])
    assert utils.read_json(tmp_path / "run/metrics_test_best.json")["accuracy"] >= least
