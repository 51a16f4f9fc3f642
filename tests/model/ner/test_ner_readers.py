"""Tagged text from files: CS230's layout, splits, the vocabulary and CS230's files of it, Kaggle's corpus, mistakes."""

import json
import re

import pytest

import build_vocab
from model.ner.params import Params
from model.ner.readers import read_split
from tests.support.data import load, load_script, refusal
from tests.support.tasks import PROJECT

SENTENCES = "Ada met Grace in Paris\nRome fell\nAda saw Rome\n"
LABELS = "B-PER O B-PER O B-LOC\nB-LOC O\nB-PER O B-LOC\n"


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


def mistake(folder, split="train", **values):
    return refusal(load, folder, Params(**values), split)


def test_pairs_are_read_line_by_line(pairs):
    sentences = read_split("val", pairs, Params())
    assert sentences.tokens[1:] == [["Rome", "fell"], ["Ada", "saw", "Rome"]]
    assert sentences.tags[1:] == [["B-LOC", "O"], ["B-PER", "O", "B-LOC"]]
    assert sentences.ids == [f"val/sentences.txt:{i}" for i in (1, 2, 3)]
    for end in ("\n", "\r\n"):  # a byte order mark, and no last line end
        text = "\ufeff" + SENTENCES.replace("\n", end).removesuffix(end)
        write_pair(pairs, "train", text, LABELS.replace("\n", end))
        assert read_split("train", pairs, Params()).tokens == sentences.tokens
    write_pair(pairs, "train", "10\u00a0km\u0085 x\u2028y\n", "O B-X\n")  # odd white space is part of a word
    assert read_split("train", pairs, Params()).tokens == [["10\u00a0km\u0085", "x\u2028y"]]


def test_missing_val_is_cut_from_train_the_same_each_time(tmp_path, caplog):
    write_pair(tmp_path, "train", "".join(f"word{i}\n" for i in range(50)), "O\n" * 50)
    (tmp_path / "dev").mkdir()
    caplog.set_level("INFO")
    params = Params(val_fraction=0.2)
    train, val = (read_split(split, tmp_path, params).ids for split in ("train", "val"))
    assert len(val) == 10 and sorted(train + val) == sorted(f"train/sentences.txt:{i + 1}" for i in range(50))
    assert "10 of 50 train sentences serve as val" in caplog.text
    assert f"- WARNING: {tmp_path / 'dev'} is not read; rename it to val if it is the val split" in caplog.text
    for values, is_same in (({"seed": 1}, True), ({"split_seed": 1}, False)):
        assert (read_split("val", tmp_path, params.model_copy(update=values)).ids == val) == is_same


@pytest.mark.parametrize(
    ("sentences", "labels", "message"),
    [
        (SENTENCES, LABELS.replace("B-LOC O\n", "B-LOC\n"), r"train/sentences.txt:2: 2 tokens, .* has 1 tags"),
        (SENTENCES, LABELS + "O\n", r"train/sentences.txt: 3 lines, but labels.txt beside it has 4"),
        (SENTENCES + "\n", LABELS + "\n", r"train/sentences.txt:4: an empty line"),
        (b"caf\xe9\nAda\n", "O\nB-PER\n", r"train/sentences.txt:1: not UTF-8"),
        ("a\n", b"\nO \xff\n", r"train/labels.txt:2: not UTF-8"),
        ("a b\n", "O O\n", r"train has 1 tag\(s\) in 1 sentences, expected two or more"),
        ("a " * 201, "O " * 201, r"train: one sentence, of 201 tokens; expected several, a line for each"),
    ],
)
def test_broken_pairs_are_reported_with_file_and_line(pairs, sentences, labels, message):
    write_pair(pairs, "train", sentences, labels)
    assert re.search(message, mistake(pairs).replace("\\", "/"))


def test_missing_data_is_reported(tmp_path):
    assert "there is no such data directory" in mistake(tmp_path / "nowhere")
    (tmp_path / "notes.md").touch()
    assert "it holds notes.md, expected train/sentences.txt" in mistake(tmp_path)
    write_pair(tmp_path, "train")
    assert "no test split; it holds" in mistake(tmp_path, "test")
    (tmp_path / "train.txt").touch()
    assert "train and train.txt both are its train split" in mistake(tmp_path)
    (tmp_path / "train.txt").unlink()
    (tmp_path / "train/labels.txt").unlink()
    assert "labels.txt: there is no such file" in mistake(tmp_path)


def test_vocabulary_is_of_train_alone_in_the_order_of_first_occurrence(pairs):
    write_pair(pairs, "val", "Zeus fell\n", "B-PER O\n")
    write_pair(pairs, "train", SENTENCES + "a <pad> UNK\n", LABELS + "O O O\n")
    dataset, params = load(pairs, Params(), "val")
    words = ["Ada", "met", "Grace", "in", "Paris", "Rome", "fell", "saw", "a", "<pad>", "UNK"]
    assert params.words == words and params.tags == ["B-PER", "O", "B-LOC"]
    assert params.facts["characters"][:4] == ["<pad>", "UNK", "<", ">"]
    assert json.loads(json.dumps(params.facts)) == params.facts  # plain values
    assert [words[n] for n in dataset[0][0]["words"]] == ["UNK", "fell"] and dataset[0][1].tolist() == [0, 1]
    inputs, _ = load(pairs, params)[0][3]  # words that are spelt like padding are unknown
    assert [words[n] for n in inputs["words"]] == ["a", "UNK", "UNK"]


def test_rare_words_are_unknown_and_rare_tags_become_o(pairs, caplog):
    caplog.set_level("INFO")
    write_pair(pairs, "train", SENTENCES + "Olympics\n", LABELS + "B-EVENT\n")
    write_pair(pairs, "test", "Ada won\n", "B-PER B-EVENT\n")
    for split, position, words, tags in (("train", 3, [3], [1]), ("test", 0, [0, 3], [0, 1])):
        dataset, params = load(pairs, Params(min_count_tag=2, min_count_word=2), split)
        assert params.words == ["Ada", "Rome", "<pad>", "UNK"]
        assert params.tags == ["B-PER", "O", "B-LOC"] and params.facts["rare_tags"] == ["B-EVENT"]
        assert dataset[position][0]["words"].tolist() == words and dataset[position][1].tolist() == tags
    assert "1 tokens of train become O, their tags are rarer than min_count_tag: B-EVENT" in caplog.text


def test_files_of_the_vocabulary_are_written_and_decide(pairs, capsys):
    build_vocab.main(["--data_dir", str(pairs), "min_count_word=2"])
    assert json.loads(capsys.readouterr().out) == json.loads((pairs / "dataset_params.json").read_text())
    assert load(pairs, Params())[1].words == ["Ada", "Rome", "<pad>", "UNK"]  # although min_count_word is 1 here
    (pairs / "words.txt").write_text("UNK\nRome\n<pad>\n")
    (pairs / "tags.txt").write_text("O\nB-LOC\nB-PER\nB-MISC\n")
    dataset, params = load(pairs, Params())
    assert params.words == ["UNK", "Rome", "<pad>"] and params.tags == ["O", "B-LOC", "B-PER", "B-MISC"]
    assert dataset[2][0]["words"].tolist() == [0, 0, 1] and dataset[2][1].tolist() == [2, 0, 1]
    for name, text, message in (
        ("tags.txt", "O\nB-PER\n", "train (or tags.txt) has no tag 'B-LOC', only O, B-PER;"),
        ("tags.txt", "B-PER\nB-LOC\n", "tags.txt: lacks 'O'"),
        ("dataset_params.json", '{"unk_word": "<unk>"}', "words.txt: lacks '<unk>'"),
    ):
        (pairs / name).write_text(text)
        assert message in mistake(pairs)
    (pairs / "tags.txt").unlink()
    assert "tags.txt: there is no such file" in mistake(pairs)


def test_kaggle_builder_keeps_every_sentence_and_names_a_broken_line(tmp_path, capsys):
    def build(*rows):
        (tmp_path / "ner.csv").write_bytes("\n".join(["Sentence #,Word,POS,Tag", *rows]).encode("latin-1"))
        command = ["--csv", str(tmp_path / "ner.csv"), "--output_dir", str(tmp_path)]
        load_script("data/kaggle_ner/build_dataset.py").main(command)

    rows = [row for i in range(20) for row in (f"Sentence: {i},Word{i},NN,B-geo", ',"""",``,O', ",caf\xe9\x92s,NN,O")]
    build(*rows, "Sentence: 21,the last,NN,B-per", ",\xa0,NN,O")
    splits = [read_split(split, tmp_path, Params()).tokens for split in ("train", "val", "test")]
    assert [*map(len, splits)] == [15, 3, 3]
    tokens = sum(splits, [])
    assert sorted(tokens) == sorted([[f"Word{i}", '"', "caf\xe9\u2019s"] for i in range(20)] + [["thelast"]]) != tokens
    for broken, message in (
        (["Sentence: 1,a,NN,"], "ner.csv:2: 'a' has no tag"),
        (["Sentence: 1,a,NN,O", ',",.,O', ",b,NN,O"], "ner.csv:3: a quote that begins in this line"),
    ):
        with pytest.raises(SystemExit, match="2"):
            build(*broken)
        assert message in capsys.readouterr().err


def test_shipped_corpus_is_what_its_builder_writes(tmp_path):
    load_script("data/ner_small/build_dataset.py").main(["--out", str(tmp_path)])
    for name in [f"{split}/{kind}.txt" for split in ("train", "val", "test") for kind in ("sentences", "labels")]:
        assert (tmp_path / name).read_bytes() == (PROJECT / "data/ner_small" / name).read_bytes()
