"""Windows and labelled texts: every token is scored once, draws repeat, vocabularies, large files, mistakes."""

import tracemalloc

import pytest
import torch

from fiveline.loading import cache
from fiveline.tasks import fetch_dataset, fetch_facts
from model.text import readers
from model.text.params import Params
from model.text.tokens import UNKNOWN
from utils import InputError

DEFAULTS = {"context_length": 8, "tokens_per_epoch": None}


def params_of(data_dir, **values):
    return fetch_facts(data_dir, Params.from_values({**DEFAULTS, "data_dir": str(data_dir), **values}, "test"))


def write(folder, **files):
    for name, text in files.items():
        stem, _, ending = name.rpartition("_")
        (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8", newline="")
    return folder


@pytest.mark.parametrize("tokens", ["bytes", "characters"])
@pytest.mark.parametrize("split", ["val", "train"])
@pytest.mark.parametrize("length", [25, 24, 9, 3])
def test_each_token_but_the_first_is_scored_exactly_once(tmp_path, tokens, split, length):
    text = ("abcdefghij" * 3)[:length]
    write(tmp_path, train_txt=text, val_txt=text)
    dataset = fetch_dataset(split, tmp_path, params_of(tmp_path, tokens=tokens))
    inputs, labels = dataset.__getitems__(range(len(dataset)))
    is_scored = labels != -100
    numbers = [dataset.tokens[i] for i in range(length)]
    assert labels[is_scored].tolist() == numbers[1:] and inputs[is_scored].tolist() == numbers[:-1]


def test_training_windows_depend_on_seed_and_epoch_only(tmp_path):
    write(tmp_path, train_txt="".join(map(chr, range(32, 127))) * 20, val_txt="val")

    def drawn(epoch, seed=1, **values):
        dataset = fetch_dataset("train", tmp_path, params_of(tmp_path, seed=seed, **values))
        before = len(dataset)
        dataset.set_epoch(epoch)
        assert len(dataset) == before, "the loader asks for the length before the first epoch"
        inputs, labels = dataset.__getitems__(range(len(dataset)))
        assert torch.equal(inputs[:, 1:], labels[:, :-1]) and (labels >= 0).all()
        return dataset.starts.tolist()

    assert drawn(1) == drawn(1) != drawn(2) != drawn(2, seed=2)
    starts = drawn(1, tokens_per_epoch=80_000)
    assert len(starts) == 10_000 and (min(starts), max(starts)) == (0, 95 * 20 - 9)


def test_one_file_is_split_in_order(tmp_path):
    write(tmp_path, book_txt="".join(map(chr, range(0x4E00, 0x4E00 + 100))))
    params = params_of(tmp_path, val_fraction=0.2, test_fraction=0.1)
    train, test, val = ([params.facts["characters"][i] for i in fetch_dataset(split, tmp_path, params).tokens]
                        for split in ("train", "test", "val"))  # fmt: skip
    assert "".join(train) == "".join(map(chr, range(0x4E00, 0x4E00 + 70)))
    assert (test, val) == ([UNKNOWN] * 10, [UNKNOWN] * 20), "no character of theirs is in train"


def test_a_folder_is_all_its_files_in_order(tmp_path):
    for name, text in (("train/b.txt", "b"), ("train/a/z.py", "a"), ("train/.hidden", "no"), ("val/x.txt", "xyz")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert bytes(fetch_dataset("train", tmp_path, params_of(tmp_path, tokens="bytes")).tokens) == b"ab"


def test_unknown_characters_are_one_token_and_are_counted_in_the_log(tmp_path, caplog):
    write(tmp_path, train_txt="abc\r\n\r\n\u2028", val_txt="aébça")
    params = params_of(tmp_path)
    assert params.facts == {"characters": "\ufffd\n\rabc\u2028", "token_bytes": [3, 1, 1, 1, 1, 1, 3]}
    with caplog.at_level("INFO"):
        assert fetch_dataset("val", tmp_path, params).tokens.tolist() == [3, 0, 4, 0, 3]
    assert "2 of 5 characters do not occur in train" in caplog.text
    write(tmp_path, val_txt="cba")  # a file that changes is encoded again
    assert fetch_dataset("val", tmp_path, params).tokens.tolist() == [5, 4, 3]


def test_a_text_is_cut_into_pieces_by_the_first_run_only(tmp_path, monkeypatch):
    write(tmp_path, train_txt="abcabd\n" * 9, val_txt="abc")
    params = params_of(tmp_path)
    tokens = fetch_dataset("train", tmp_path, params).tokens.tolist()
    monkeypatch.setattr(readers, "chunks", lambda *_: 1 / 0)
    assert fetch_dataset("train", tmp_path, params).tokens.tolist() == tokens


def test_a_large_file_takes_constant_memory(tmp_path, monkeypatch):
    """50 MB of text, encoded into the cache."""
    monkeypatch.setattr(cache, "SPARE_BYTES", 0)
    line = b"0123456789" * 100 + b"\n"
    (tmp_path / "train.txt").write_bytes(line * 50_000)
    (tmp_path / "val.txt").write_bytes(line)
    tracemalloc.start()
    dataset = fetch_dataset("train", tmp_path, params_of(tmp_path, tokens_per_epoch=8_000))
    dataset.set_epoch(1)
    inputs, _ = dataset.__getitems__(range(100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(dataset.tokens) == 50_050_000 and inputs.unique().numel() >= 10 and peak < 30e6


def test_a_tokenizer_whose_pieces_are_not_bytes_is_refused(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers, which is optional")
    write(tmp_path, train_txt="the cat sat on the mat\n" * 20, val_txt="the mat\n")
    path = tmp_path / "tokenizer.json"
    without_bytes = tokenizers.Tokenizer(tokenizers.models.BPE())
    without_bytes.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    without_bytes.decoder = tokenizers.decoders.ByteLevel()
    without_bytes.train([str(tmp_path / "train.txt")], tokenizers.trainers.BpeTrainer(vocab_size=50))
    expected = "a byte-level tokenizer that has all 256 bytes"
    for content, message in ((without_bytes.to_str(), expected), ("{}", "cannot be read")):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            params_of(tmp_path, tokens="pieces", tokenizer_file=str(path))


def labelled(rows):
    return "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows)


def test_one_table_is_cut_at_random(tmp_path):
    write(tmp_path, all_csv=labelled([(f"text {i}", "xy"[i // 50]) for i in range(100)]))  # in the order of the labels
    params = params_of(tmp_path, target="label", val_fraction=0.2, test_fraction=0.1)
    found = {split: fetch_dataset(split, tmp_path, params) for split in ("train", "test", "val")}
    assert [len(dataset) for dataset in found.values()] == [70, 10, 20]
    assert {name for each in found.values() for name in each.ids} == {f"all.csv:{i + 2}" for i in range(100)}
    assert all(set(dataset.labels.tolist()) == {0, 1} for dataset in found.values())
    (tmp_path / "all.csv").rename(tmp_path / "train.csv")
    assert len(fetch_dataset("train", tmp_path, params_of(tmp_path, target="label"))) == 90


def test_folders_of_tables_are_splits(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a/b.csv").write_text(labelled([(f"{split} {i}", "xy"[i % 2]) for i in range(4)]))
    params = params_of(tmp_path, target="label")
    for split in ("train", "val", "test"):
        assert fetch_dataset(split, tmp_path, params).ids == [f"{split}/a/b.csv:{i + 2}" for i in range(4)]


@pytest.mark.parametrize("name", ["val.txt", "test/a.txt", "test.csv"])
def test_a_split_is_never_trained_on(tmp_path, name):
    """Without a train split, all files are cut into splits; then no file may be a split itself."""
    target = "label" if name.endswith("csv") else "next"
    for path in (tmp_path / f"book.{name[-3:]}", tmp_path / name):
        path.parent.mkdir(exist_ok=True)
        path.write_text(labelled([("ab", "x"), ("cd", "y")] * 20))
    with pytest.raises(InputError, match=f"has {name.partition('/')[0]}, but no train; expected a train split"):
        params_of(tmp_path, target=target)


def test_labelled_texts_are_padded_and_cut(tmp_path, caplog):
    rows = [("ab", "x"), ("cab a long one" * 10_000, "y"), ("two\nlines", "x")]
    write(tmp_path, train_csv=labelled(rows), val_jsonl='{"text": "ba", "label": "y"}\n')
    params = params_of(tmp_path, target="label")
    with caplog.at_level("INFO"):
        dataset = fetch_dataset("train", tmp_path, params)
    assert "2 of 3 texts fill context_length" in caplog.text
    inputs, labels = dataset.__getitems__([0, 1])
    end, pad, number = params.facts["end"], params.facts["pad"], params.facts["characters"].index
    assert inputs.tolist() == [[number("a"), number("b"), end, *[pad] * 5], [*map(number, "cab a l"), end]]
    assert labels.tolist() == [0, 1] and dataset.lengths == [3, 8, 8]
    assert dataset.ids == ["train.csv:2", "train.csv:3", "train.csv:4"]
    assert fetch_dataset("val", tmp_path, params).__getitems__([0])[1].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("val_csv", "text,label\nab,x\ncd\n", "val.csv:3: expected a text in 'label', found None"),
        ("val_csv", "text,label\nab,z\n", "val.csv:2: the label 'z' does not occur in train"),
        ("val_csv", "words,label\nab,x\n", "val.csv:2: expected a text in 'text', .*columns: .'words', 'label'"),
        ("val_jsonl", '{"text": "a", "label": "x"}\n{"text": 1.5}\n', "val.jsonl:2: .* in 'text', found 1.5"),
        ("val_jsonl", '{"text": "\\ud800", "label": "x"}\n', "val.jsonl:1: 'text' is not UTF-8"),
        ("val_jsonl", "not json\n", "val.jsonl:1: expected a row of a .jsonl file"),
        ("val_jsonl", "[" * 100_000, "val.jsonl:1: expected a row of a .jsonl file"),
        ("val_csv", "text,label\nab, I mean cd,y\n", "val.csv:2: has more cells than the header"),
    ],
)
def test_a_broken_row_is_named(tmp_path, name, content, message):
    write(tmp_path, train_csv=labelled([("ab", "x"), ("cd", "y")]), **{name: content})
    with pytest.raises(InputError, match=message):
        fetch_dataset("val", tmp_path, params_of(tmp_path, target="label"))


def test_mistakes_in_text_files_are_explained(tmp_path):
    write(tmp_path, train_txt="abc")
    params = params_of(tmp_path)
    for content, split, message in (
        (b"caf\xe9", "val", "is not UTF-8.*tokens=bytes"),
        (b"abc", "test", "has train.txt, val.txt, but no test"),
        (b"a", "val", "val has 1 tokens; expected 2 or more"),
    ):
        (tmp_path / "val.txt").write_bytes(content)
        with pytest.raises(InputError, match=message):
            fetch_dataset(split, tmp_path, params)
