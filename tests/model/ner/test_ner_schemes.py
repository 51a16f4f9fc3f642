"""Tag schemes: what is detected, reported and refused, and that entities are counted as seqeval counts them."""

import csv
import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import BILOU, IOBES

import evaluate
import train
import utils
from model.ner import schemes
from model.ner.data_loader import fetch_facts
from model.ner.entities import EntityCounter
from model.ner.params import Params
from model.ner.readers import read_split

LETTERS = ["I", "BI", "B", "BIES", "ES", "BILU", "LU"]
TYPES = [[""], ["-PER"], ["-PER", "-LOC"], ["-a-b", "-a_b", "-a"], ["", "-X", "-"]]  # dashes, underscores, no type


@st.composite
def tagged(draw):
    """Tags of one scheme, labels with any of them, well-formed or not, and predictions that are often right."""
    letters, types = draw(st.sampled_from(LETTERS)), draw(st.sampled_from(TYPES))
    tags = ["O"] + [letter + kind for letter in letters for kind in types]
    labels = draw(st.lists(st.lists(st.sampled_from(tags), min_size=1, max_size=9), min_size=1, max_size=4))
    other = st.sampled_from([*[None] * len(tags), *tags])
    predicted = [[draw(other) or tag for tag in sentence] for sentence in labels]
    return tags, labels, predicted


def count(tags, labels, predicted, scheme=None):
    """Return how many entities EntityCounter finds: in the labels, in the predictions, in both."""
    shape = (len(labels), max(map(len, labels)))
    label_batch, predicted_batch = torch.full(shape, -100), torch.full(shape, len(tags) - 1)
    for row, pair in enumerate(zip(labels, predicted, strict=True)):
        for batch, names in zip((label_batch, predicted_batch), pair, strict=True):
            batch[row, : len(names)] = torch.tensor([tags.index(name) for name in names])
    counter = EntityCounter(tags, scheme or schemes.guess(tags))
    return counter.count(torch.eye(len(tags))[predicted_batch], label_batch)[2:].tolist()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(tagged())
def test_entities_of_every_scheme_are_those_of_seqeval(example):
    tags, labels, predicted = example
    num_true, num_predicted, hits = count(*example)
    mode = {"mode": "strict", "scheme": BILOU} if any(tag[0] in "LU" for tag in tags) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [
            score(labels, predicted, zero_division=0, **mode) for score in (precision_score, recall_score, f1_score)
        ]
    ours = [hits / max(num_predicted, 1), hits / max(num_true, 1), 2 * hits / max(num_true + num_predicted, 1)]
    assert ours == pytest.approx(expected)


STRAYS = ["U-LOC", "L-PER", "S-PER", "E-LOC", "X-PER", "MISC", "INTJ", "B_PER", "U", "0", "."]


@st.composite
def stray(draw):
    """The scheme of train; labels and predictions of one sentence, with tags of any other scheme among them."""
    scheme, letters = draw(st.sampled_from([("bio", "BI"), ("io", "I"), ("bioes", "BIES"), ("bilou", "BILU")]))
    types = draw(st.sampled_from([[""], ["-PER", "-LOC"]]))
    tags = ["O", *(letter + kind for letter in letters for kind in types), *STRAYS]
    tags = list(dict.fromkeys([*tags, f"B{types[0]}"]))
    begin = [f"B{types[0]}", "O"]  # seqeval may take the begin of an odd chunk from the chunk before
    labels = begin + draw(st.lists(st.sampled_from(tags), min_size=1, max_size=9))
    other = st.sampled_from([*[None] * len(tags), *tags])
    return scheme, tags, [labels], [begin + [draw(other) or tag for tag in labels[2:]]]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(stray())
def test_tags_of_other_schemes_are_counted_as_seqeval_does_in_the_mode_of_trains_scheme(example):
    scheme, tags, *both = example
    num_true, num_predicted, hits = count(tags, *both, scheme)
    mode = {}
    if scheme == "bilou":  # there seqeval refuses the tags that the scheme lacks
        mode = {"mode": "strict", "scheme": BILOU}
        both = [[[tag if tag[0] in "BILU" else "O" for tag in tags] for tags in each] for each in both]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [score(*both, zero_division=0, **mode) for score in (precision_score, recall_score, f1_score)]
    ours = [hits / max(num_predicted, 1), hits / max(num_true, 1), 2 * hits / max(num_true + num_predicted, 1)]
    assert ours == pytest.approx(expected)


@pytest.mark.parametrize(
    "train_tags, stray_tag, scheme",
    [
        ("B-A I-A O", "U-LOC", "bio"),
        ("B I O", "0", "bio"),
        ("B-A I-A O", "0", "bio"),
        ("B-A E-A O", "L-A", "bioes"),
        ("B-A L-A O", "S-A", "bilou"),
        ("NOUN VERB O", "B-A", "plain"),
    ],
)
def test_a_stray_tag_of_test_or_of_the_vocabulary_changes_no_scheme(tmp_path, caplog, train_tags, stray_tag, scheme):
    write(tmp_path, train_tags)
    assert fetch_facts(tmp_path, Params())["scheme"] == scheme
    (tmp_path / "test").mkdir()
    (tmp_path / "test/sentences.txt").write_text("w\n")
    (tmp_path / "test/labels.txt").write_text(f"{stray_tag}\n")
    facts = fetch_facts(tmp_path, Params())
    assert facts["scheme"] == scheme and stray_tag in facts["tags"]
    assert f"tags of test that train lacks count as errors there: {stray_tag}" in caplog.text
    counts = [int(tag != stray_tag) for tag in facts["tags"]]
    old = {**facts, "scheme": None, "tag_counts": counts}  # of a run from before the scheme was a fact
    assert schemes.scheme_of(old) == scheme
    assert schemes.scheme_of({"tags": ["O", "U-A"]}) == "bilou"  # and from before there were counts
    (tmp_path / "words.txt").write_text("w\n<pad>\nUNK\n")
    (tmp_path / "tags.txt").write_text("\n".join(facts["tags"]))
    assert fetch_facts(tmp_path, Params())["scheme"] == scheme


def test_the_scheme_is_that_of_the_vocabulary_where_train_has_nothing_but_o(tmp_path, caplog):
    write(tmp_path, "O O")
    (tmp_path / "words.txt").write_text("w\n<pad>\nUNK\n")
    (tmp_path / "tags.txt").write_text("O\nU-A\nB-A\nL-A\n")
    with caplog.at_level("INFO"):
        assert fetch_facts(tmp_path, Params())["scheme"] == "bilou"
    assert "tag scheme of" not in caplog.text and "WARNING" not in caplog.text


ENTITY = st.tuples(st.integers(1, 4), st.sampled_from(["PER", "LOC", "a-b"]), st.integers(0, 2))  # length, type, gap


def spell(entities, scheme):
    """Return well-formed tags: each entity, and then as many O as its gap."""
    begin, inside, end, single = {"bio": "BIIB", "bioes": "BIES", "bilou": "BILU"}[scheme]
    tags = ["O"]
    for length, kind, gap in entities:
        letters = single if length == 1 else begin + inside * (length - 2) + end
        tags += [f"{letter}-{kind}" for letter in letters] + ["O"] * gap
    return tags


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(ENTITY, st.booleans()), min_size=1, max_size=4))
def test_one_corpus_in_three_schemes_has_one_score_where_it_is_well_formed(drawn):
    wrong = [(length, kind if is_right else "LOC", gap) for (length, kind, gap), is_right in drawn]
    found = []
    for scheme in ("bio", "bioes", "bilou"):
        labels, predicted = spell([entity for entity, _ in drawn], scheme), spell(wrong, scheme)
        whole = spell([(4, kind, 0) for kind in ("PER", "LOC", "a-b")] + [(1, "PER", 0)], scheme)
        found.append(count(sorted({*whole, *labels, *predicted}), [labels], [predicted]))
        if scheme == "bioes":  # so it makes no difference here that seqeval has a strict mode for bioes, too
            strict = f1_score([labels], [predicted], mode="strict", scheme=IOBES, zero_division=0)
            num_true, num_predicted, hits = found[-1]
            assert 2 * hits / (num_true + num_predicted) == pytest.approx(strict)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    "sentences, scheme, contradiction",
    [
        (["B-A I-A O B-A B-B"], "bio", None),
        (["B-A O B-B"], "bio", None),  # no entity of two tokens: fits bio alone
        (["B I O", "B"], "bio", None),
        (["I-A I-A O I-B", "I-A B-A I-A"], "bio", "3 tags of train contradict bio: I-A after O, ...; tag_scheme=iob1"),
        (
            ["I-A I-A O I-A", "B-A I-A O I-B"],
            "bio",
            "3 tags of train contradict bio: I-A after O, ...; tag_scheme=iob1",
        ),
        (["B-A I-A O I-B", "B-A B-A"], "bio", "1 tags of train contradict bio: I-B after O, ..."),
        (["B-A I-A E-A O S-B"], "bioes", None),
        (["S-A O"], "bioes", None),
        (["B I E S O"], "bioes", None),
        (["B-A I-A L-A O U-B"], "bilou", None),
        (["B-A O U-B L-B"], "bilou", "1 tags of train contradict bilou: L-B after U-B, ...\n"),
        (["NOUN VERB . -LRB-"], "plain", None),
        (["N V B"], "plain", None),  # B is a whole tag here
    ],
)
def test_schemes_are_detected(caplog, sentences, scheme, contradiction):
    assert schemes.detect(sentences, [line.split() for line in sentences]) == scheme
    assert caplog.text.count("WARNING: ") == (contradiction is not None) and (contradiction or "") in caplog.text


@pytest.mark.parametrize(
    "tags, message",
    [
        (
            "B-A I-A O X",
            "the tag 'X' in this sentence: other tags are B-A, I-A; expected O, B-",
        ),
        ("B-A I-A o", "the tag 'o' in this sentence: other tags are B-A"),
        ("B_A I_A O", "the tag 'B_A' in this sentence: this scheme is not supported; expected O, B-"),
        ("A-B A-I O", "the tag 'A-B' in this sentence: this scheme"),
        ("b-A i-A O", "the tag 'b-A' in this sentence: this scheme"),
        ("B-A M-A E-A O", "the tag 'M-A' in this sentence: other tags are"),
        ("B-A L-A E-A O", "the tag 'E-A' in this sentence: other tags are B-A, L-A, E-A; expected O"),
    ],
)
def test_tags_of_no_scheme_or_of_two_are_refused(tmp_path, tags, message):
    write(tmp_path, tags)
    with pytest.raises(utils.InputError) as error:
        fetch_facts(tmp_path, Params())
    assert str(error.value).startswith(f"{tmp_path}/train/sentences.txt:1: {message}")


def test_rare_tags_do_not_count_where_they_become_o(tmp_path):
    write(tmp_path, "B-A B-A O O X")
    assert fetch_facts(tmp_path, Params(min_count_tag=2))["tags"] == ["B-A", "O"]


def write(folder, tags, tokens=None):
    for split in ("train", "val"):
        (folder / split).mkdir()
        (folder / split / "labels.txt").write_text(f"{tags}\n")
        (folder / split / "sentences.txt").write_text(f"{tokens or ' '.join('w' for _ in tags.split())}\n")


@pytest.mark.parametrize(
    "tags, values, messages",
    [
        ("B-A I-A O", {}, ["INFO - tag scheme of train: bio; entities are counted as by seqeval's default mode"]),
        ("I-A I-A B-A O", {}, ["INFO - tag scheme of train: bio;", "WARNING - WARNING: 1 tags of train contradict bio: "
         "I-A after O, ...; tag_scheme=iob1 turns them into bio"]),
        ("I-A I-A B-A O", {"tag_scheme": "iob1"}, ["INFO - tag scheme of train: bio;"]),
        ("I-A I-A O", {}, ["INFO - tag scheme of train: bio;", "WARNING - WARNING: 1 tags of train contradict bio"]),
        ("B I O", {}, ["INFO - tag scheme of train: bio;"]),
        ("B-A E-A O", {}, ["INFO - tag scheme of train: bioes;"]),
        ("B-A I-A O", {"tag_scheme": "iob1"}, ["INFO - tag scheme of train: bio;"]),
        ("B-A L-A O U-A L-A", {}, ["INFO - tag scheme of train: bilou; entities are counted as by seqeval with "
         "mode='strict'", "WARNING - WARNING: 1 tags of train contradict bilou: L-A after U-A"]),
        ("NOUN VERB O", {}, ["INFO - tag scheme of train: plain; each run of one tag counts as an entity"]),
    ],
)  # fmt: skip
def test_the_scheme_is_logged_and_contradictions_are_warned_of(tmp_path, caplog, tags, values, messages):
    write(tmp_path, tags)
    with caplog.at_level("INFO"):
        fetch_facts(tmp_path, Params(**values))
    found = [f"{record.levelname} {record.message}" for record in caplog.records]
    assert len(found) == len(messages)
    assert all(ours.startswith(expected) for ours, expected in zip(found, messages, strict=True)), found


def test_bare_iob1_becomes_bare_bio(tmp_path):
    write(tmp_path, "I I B O I")
    assert read_split("train", tmp_path, Params(tag_scheme="iob1")).tags == [["B", "I", "B", "O", "B"]]
    assert schemes.from_iob1(["I", "I", "0", "I"]) == ["B", "I", "0", "B"]  # whatever else is in the sentence
    assert schemes.from_iob1(["I-A", "I-B", "B-B", "O", "NOUN"]) == ["B-A", "B-B", "B-B", "O", "NOUN"]


BIOES = [("in Rome .", "O S-LOC O"), ("in New York .", "O B-LOC E-LOC O"), ("Rome fell", "S-LOC O")]
BIO = [("in Rome .", "O B-LOC O"), ("in New York .", "O B-LOC I-LOC O"), ("Rome fell", "B-LOC O")]
BARE = [("in Rome .", "O B O"), ("in New York .", "O B I O"), ("Rome fell", "B O")]


@pytest.mark.parametrize("scheme, corpus, stray", [("bioes", BIOES, "O"), ("bio", BIO, "U-LOC"), ("bio", BARE, "0")])
@pytest.mark.filterwarnings("ignore:.*seems not to be NE tag")
def test_a_run_is_scored_as_seqeval_scores_its_predictions(tmp_path, scheme, corpus, stray):
    for split in ("train", "val", "test"):
        lines = [*corpus, ("USA", stray)] if split == "test" else corpus
        (tmp_path / split).mkdir()
        for i, name in enumerate(("sentences.txt", "labels.txt")):
            (tmp_path / split / name).write_text("".join(f"{line[i]}\n" for line in lines * 5))
    model_dir = tmp_path / "run"
    model_dir.mkdir()
    values = {"task": "ner", "data_dir": str(tmp_path), "num_epochs": 4, "learning_rate": 0.02, "batch_size": 5}
    (model_dir / "params.json").write_text(json.dumps(values))
    train.main(["--model_dir", str(model_dir)])
    evaluate.main(["--model_dir", str(model_dir)])
    with (model_dir / "predictions_test_best.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels, predicted = ([row[name].split() for row in rows] for name in ("label", "prediction"))
    scores = json.loads((model_dir / "metrics_test_best.json").read_text())
    assert scores["f1"] == pytest.approx(f1_score(labels, predicted)) and scores["f1"] > 0.5
    assert f"tag scheme of train: {scheme}" in (model_dir / "train.log").read_text()
