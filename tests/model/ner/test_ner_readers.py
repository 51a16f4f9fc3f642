"""Tagged text from files: both layouts, the vocabulary and CS230's files of it, Kaggle's corpus, every mistake."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

import build_vocab
import utils
from model.ner.data_loader import fetch_dataset, fetch_facts
from model.ner.params import Params
from model.ner.readers import read_split
from model.ner.schemes import from_iob1

PROJECT = Path(__file__).resolve().parents[3]
SENTENCES = "Ada met Grace in Paris\nRome fell\nAda saw Rome\n"
LABELS = "B-PER O B-PER O B-LOC\nB-LOC O\nB-PER O B-LOC\n"
COLUMNS = "-DOCSTART- -X- O\n\nAda NN I-PER\nByron NN I-PER\nslept VB O\n\n\nin IN O\nNew NN I-LOC\nYork NN I-LOC\n"


def write_pair(folder, split, sentences=SENTENCES, labels=LABELS):
    (folder / split).mkdir(parents=True, exist_ok=True)
    for name, text in (("sentences.txt", sentences), ("labels.txt", labels)):
        (folder / split / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))


@pytest.fixture
def pairs(tmp_path):
    """Three splits in CS230's layout, all the same."""
    for split in ("train", "val", "test"):
        write_pair(tmp_path, split)
    return tmp_path


def load(folder, split="train", **values):
    params = Params(**values)
    params = params.with_facts(fetch_facts(folder, params))
    return fetch_dataset(split, folder, params), params


def mistake(folder, split="train", **values):
    with pytest.raises(utils.InputError) as error:
        load(folder, split, **values)
    assert error.value.exit_code == 2
    return str(error.value)


# ---- layouts


def test_pairs_are_read_line_by_line(pairs):
    sentences = read_split("val", pairs, Params())
    assert sentences.tokens[1:] == [["Rome", "fell"], ["Ada", "saw", "Rome"]]
    assert sentences.tags[1:] == [["B-LOC", "O"], ["B-PER", "O", "B-LOC"]]
    assert sentences.ids == [f"val/sentences.txt:{i}" for i in (1, 2, 3)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pairs_may_have_windows_line_ends_a_byte_order_mark_and_no_last_line_end(tmp_path, end):
    text = "\ufeff" + SENTENCES.replace("\n", end).removesuffix(end)
    write_pair(tmp_path, "train", text, LABELS.replace("\n", end))
    write_pair(tmp_path, "val")
    assert read_split("train", tmp_path, Params()).tokens == read_split("val", tmp_path, Params()).tokens


def test_odd_white_space_is_part_of_a_word(tmp_path):
    write_pair(tmp_path, "train", "10\u00a0km\u0085 x\u2028y\n", "O B-X\n")
    write_pair(tmp_path, "val")
    assert read_split("train", tmp_path, Params()).tokens == [["10\u00a0km\u0085", "x\u2028y"]]


@pytest.mark.parametrize("suffix", [".txt", ".conll", ".bio"])
def test_column_files_are_read(tmp_path, suffix):
    for split in ("train", "val"):
        (tmp_path / f"{split}{suffix}").write_text(COLUMNS, encoding="utf-8")
    sentences = read_split("train", tmp_path, Params())
    assert sentences.tokens == [["Ada", "Byron", "slept"], ["in", "New", "York"]]
    assert sentences.tags == [["I-PER", "I-PER", "O"], ["O", "I-LOC", "I-LOC"]]
    assert sentences.ids == [f"train{suffix}:3", f"train{suffix}:8"]


def test_columns_can_be_in_any_order_and_separated_by_tabs(tmp_path):
    text = "1\tB-PER\tAda\n2\tO\tslept\n"
    for split in ("train", "val"):
        (tmp_path / f"{split}.conll").write_text(text, encoding="utf-8")
    sentences = read_split("train", tmp_path, Params(token_column=-1, tag_column=1))
    assert (sentences.tokens, sentences.tags) == ([["Ada", "slept"]], [["B-PER", "O"]])


def test_iob1_becomes_bio(tmp_path):
    (tmp_path / "train.txt").write_text(COLUMNS, encoding="utf-8")
    (tmp_path / "val.txt").write_text(COLUMNS, encoding="utf-8")
    sentences = read_split("train", tmp_path, Params(tag_scheme="iob1"))
    assert sentences.tags == [["B-PER", "I-PER", "O"], ["O", "B-LOC", "I-LOC"]]
    assert from_iob1(["I-A", "I-A", "B-A", "I-A", "I-B", "O", "I-B"]) == ["B-A", "I-A", "B-A", "I-A", "B-B", "O", "B-B"]
    assert from_iob1([]) == []


def test_missing_val_is_cut_from_train_the_same_each_time(tmp_path, caplog):
    write_pair(tmp_path, "train", "".join(f"word{i}\n" for i in range(50)), "O\n" * 50)
    params = Params(val_fraction=0.2)
    with caplog.at_level("INFO"):
        train, val = (read_split(split, tmp_path, params) for split in ("train", "val"))
    assert (len(train.ids), len(val.ids)) == (40, 10)
    assert sorted(train.ids + val.ids) == sorted(f"train/sentences.txt:{i + 1}" for i in range(50))
    assert "10 of 50 train sentences serve as val" in caplog.text
    assert read_split("val", tmp_path, params).ids == val.ids
    assert read_split("val", tmp_path, Params(val_fraction=0.2, split_seed=1)).ids != val.ids


# ---- mistakes


@pytest.mark.parametrize(
    "sentences, labels, message",
    [
        (SENTENCES, LABELS.replace("B-LOC O\n", "B-LOC\n"), r"train/sentences.txt:2: 2 tokens, .* has 1 tags"),
        (SENTENCES, LABELS + "O\n", r"train/sentences.txt: 3 lines, but labels.txt beside it has 4"),
        (SENTENCES + "\n", LABELS + "\n", r"train/sentences.txt:4: an empty line"),
        (SENTENCES + "  \n", LABELS + "O\n", r"train/sentences.txt:4: an empty line"),
        (b"caf\xe9\nAda\n", "O\nB-PER\n", r"train/sentences.txt:1: not UTF-8"),
        ("a\n", b"\nO \xff\n", r"train/labels.txt:2: not UTF-8"),
        ("", "", r"train has 1 tag\(s\) in 0 sentences"),
        ("a b\n", "O O\n", r"train has 1 tag\(s\) in 1 sentences, expected two or more"),
    ],
)  # fmt: skip
def test_broken_pairs_are_reported_with_file_and_line(pairs, sentences, labels, message):
    write_pair(pairs, "train", sentences, labels)
    assert re.search(message, mistake(pairs).replace("\\", "/"))


@pytest.mark.parametrize(
    "text, message, values",
    [
        ("Ada B-PER\nslept\n", "train.conll:2: 1 columns, expected 2; they are separated by spaces", {}),
        ("Ada B-PER\n", "train.conll:1: 2 column(s), but token_column is 0 and tag_column is 3", {"tag_column": 3}),
        (
            "Ada B-PER\n",
            "train.conll:1: 2 column(s), but token_column is -3 and tag_column is -1",
            {"token_column": -3},
        ),
    ],
)
def test_broken_column_files_are_reported_with_file_and_line(tmp_path, text, message, values):
    (tmp_path / "train.conll").write_text(text, encoding="utf-8")
    assert message in mistake(tmp_path, **values)


def test_a_tag_that_train_lacks_is_reported(pairs, caplog):
    write_pair(pairs, "test", "Ada won\n", "B-PER B-EVENT\n")
    dataset, params = load(pairs, "test")  # scored, as an error: the net has an output for it
    assert params.tags == ["B-PER", "O", "B-LOC", "B-EVENT"] and dataset[0][1].tolist() == [0, 3]
    assert "- WARNING: tags of test that train lacks count as errors there: B-EVENT" in caplog.text
    assert load(pairs, "test", min_count_tag=2)[0][0][1].tolist() == [0, 1]  # rarer than that: O, as was asked for
    (pairs / "words.txt").write_text("Ada\n<pad>\nUNK\n")
    (pairs / "tags.txt").write_text("O\nB-PER\nB-LOC\n")
    message = mistake(pairs, "test")
    assert message.startswith("test/sentences.txt:1: train (or tags.txt) has no tag 'B-EVENT', only O, B-PER, B-LOC; ")


def test_missing_data_is_reported(tmp_path):
    assert "there is no such data directory" in mistake(tmp_path / "nowhere")
    (tmp_path / "notes.md").touch()
    assert "it holds notes.md, expected train/sentences.txt" in mistake(tmp_path)
    write_pair(tmp_path, "train")
    assert "no test split; it holds" in mistake(tmp_path, "test")
    (tmp_path / "train.txt").write_text(COLUMNS, encoding="utf-8")
    assert "train and train.txt both are its train split" in mistake(tmp_path)
    (tmp_path / "train.txt").unlink()
    (tmp_path / "train/labels.txt").unlink()
    assert "labels.txt: cannot be read (No such file or directory)" in mistake(tmp_path)


def test_one_column_cannot_be_token_and_tag(tmp_path):
    (tmp_path / "train.conll").write_text("in O\n")
    for values in ({"tag_column": 0}, {"tag_column": -2}, {"token_column": 1}):
        assert "expected two different columns, counted from 0 (-1: the last)" in mistake(tmp_path, **values)


# ---- vocabulary


def test_vocabulary_is_of_train_alone_in_the_order_of_first_occurrence(pairs):
    write_pair(pairs, "val", "Zeus fell\n", "B-PER O\n")
    _, params = load(pairs)
    assert params.words == ["Ada", "met", "Grace", "in", "Paris", "Rome", "fell", "saw", "<pad>", "UNK"]
    assert params.tags == ["B-PER", "O", "B-LOC"]
    assert params.facts["characters"][:4] == ["<pad>", "UNK", "A", "G"]
    assert json.loads(json.dumps(params.facts)) == params.facts  # plain values
    dataset, _ = load(pairs, "val")
    inputs, labels = dataset[0]
    assert inputs["words"].tolist() == [params.words.index("UNK"), params.words.index("fell")]
    assert labels.tolist() == [0, 1]


def test_rare_words_are_unknown(pairs):
    _, params = load(pairs, min_count_word=2)
    assert params.words == ["Ada", "Rome", "<pad>", "UNK"]


def test_rare_tags_become_o(pairs, caplog):
    write_pair(pairs, "train", SENTENCES + "Olympics\n", LABELS + "B-EVENT\n")
    with caplog.at_level("INFO"):
        dataset, params = load(pairs, min_count_tag=2)
    assert "1 tokens of train become O, their tags are rarer than min_count_tag: B-EVENT" in caplog.text
    assert params.tags == ["B-PER", "O", "B-LOC"] and params.facts["rare_tags"] == ["B-EVENT"]
    assert dataset[3][1].tolist() == [1]


def test_words_that_are_spelt_like_padding_are_unknown(pairs):
    write_pair(pairs, "train", SENTENCES + "a <pad> UNK\n", LABELS + "O O O\n")
    dataset, params = load(pairs)
    unknown = params.words.index("UNK")
    assert dataset[3][0]["words"].tolist()[1:] == [unknown, unknown]


def test_files_of_the_vocabulary_are_written_as_cs230_does_and_decide(pairs, capsys):
    build_vocab.main(["--data_dir", str(pairs), "min_count_word=2"])
    assert (pairs / "words.txt").read_text() == "Ada\nRome\n<pad>\nUNK\n"
    assert (pairs / "tags.txt").read_text() == "B-PER\nO\nB-LOC\n"
    sizes = json.loads((pairs / "dataset_params.json").read_text())
    assert sizes == {
        "train_size": 3, "dev_size": 3, "test_size": 3, "vocab_size": 4, "number_of_tags": 3,
        "pad_word": "<pad>", "pad_tag": "O", "unk_word": "UNK",
    }  # fmt: skip
    assert json.loads(capsys.readouterr().out) == sizes
    assert load(pairs)[1].words == ["Ada", "Rome", "<pad>", "UNK"]  # although min_count_word is 1 here
    (pairs / "words.txt").write_text("UNK\nRome\n<pad>\n")
    (pairs / "tags.txt").write_text("O\nB-LOC\nB-PER\nB-MISC\n")
    (pairs / "dataset_params.json").unlink()
    dataset, params = load(pairs)
    assert params.words == ["UNK", "Rome", "<pad>"] and params.tags == ["O", "B-LOC", "B-PER", "B-MISC"]
    assert dataset[2][0]["words"].tolist() == [0, 0, 1] and dataset[2][1].tolist() == [2, 0, 1]


def test_vocabulary_files_that_contradict_each_other_are_refused(pairs):
    (pairs / "words.txt").write_text("Ada\n<pad>\nUNK\n")
    assert "tags.txt: cannot be read (No such file or directory)" in mistake(pairs)
    (pairs / "tags.txt").write_text("B-PER\nB-LOC\n")
    assert "tags.txt: lacks 'O'" in mistake(pairs)
    (pairs / "tags.txt").write_text("O\nB-PER\n")
    assert "train (or tags.txt) has no tag 'B-LOC', only O, B-PER;" in mistake(pairs)
    (pairs / "dataset_params.json").write_text('{"unk_word": "<unk>"}')
    assert "words.txt: lacks '<unk>'" in mistake(pairs)


# ---- Kaggle's corpus


@pytest.fixture
def kaggle():
    path = PROJECT / "data/kaggle_ner/build_dataset.py"
    spec = importlib.util.spec_from_file_location("kaggle_build_dataset", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kaggle_builder_keeps_every_sentence(kaggle, tmp_path, capsys):
    rows = ["Sentence #,Word,POS,Tag"]
    for i in range(20):
        rows += [f"Sentence: {i + 1},Word{i},NN,B-geo", ',"""",``,O', ",caf\xe9\x92s,NN,O"]
    rows += ["Sentence: 21,the last,NN,B-per", ",\xa0,NN,O"]
    (tmp_path / "ner.csv").write_bytes("\n".join(rows).encode("latin-1"))
    kaggle.main(["--csv", str(tmp_path / "ner.csv"), "--output_dir", str(tmp_path)])
    assert capsys.readouterr().out.startswith("train: 15 sentences")
    splits = {split: read_split(split, tmp_path, Params()) for split in ("train", "val", "test")}
    assert [len(sentences.ids) for sentences in splits.values()] == [15, 3, 3]
    tokens = [words for sentences in splits.values() for words in sentences.tokens]
    assert sorted(tokens) == sorted([[f"Word{i}", '"', "caf\xe9\u2019s"] for i in range(20)] + [["thelast"]])
    assert tokens != sorted(tokens)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "get ner_dataset.csv (not ner.csv) from https://www.kaggle.com/"),
        ("id,Word\n1,a\n", "expected ['Sentence #', 'Word', 'POS', 'Tag']"),
        ("Sentence #,Word,POS,Tag\nSentence: 1,a,NN\n", "ner.csv:2: 3 columns, expected 4"),
        ("Sentence #,Word,POS,Tag\nSentence: 1,a,NN,\n", "ner.csv:2: 'a' has no tag"),
    ],
)
def test_kaggle_builder_reports_what_is_wrong(kaggle, tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "ner.csv").write_text(text)
    with pytest.raises(SystemExit) as stop:
        kaggle.main(["--csv", str(tmp_path / "ner.csv"), "--output_dir", str(tmp_path)])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_shipped_corpus_is_what_its_builder_writes(tmp_path):
    path = PROJECT / "data/ner_small/build_dataset.py"
    spec = importlib.util.spec_from_file_location("ner_small_build_dataset", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--out", str(tmp_path)])
    for split in ("train", "val", "test"):
        for name in ("sentences.txt", "labels.txt"):
            shipped = (PROJECT / "data/ner_small" / split / name).read_text(encoding="utf-8")
            assert (tmp_path / split / name).read_text(encoding="utf-8") == shipped
