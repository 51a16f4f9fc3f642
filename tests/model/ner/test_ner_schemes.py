"""Tag schemes: what is detected, logged and refused, and that entities are counted as seqeval counts them."""

import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import BILOU
from torch.nn.utils.rnn import pad_sequence

from fiveline.metrics import MetricSums
from model.ner import net, schemes
from model.ner.data_loader import fetch_facts
from model.ner.entities import EntityCounter
from model.ner.params import Params
from model.ner.readers import read_split
from tests.support.data import refusal

SCORES = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
SCHEMES = {"bio": ["BI", "B"], "io": ["I"], "bioes": ["BIES", "ES"], "bilou": ["BILU", "LU"]}
TYPES = [[""], ["-PER"], ["-PER", "-LOC"], ["-a-b", "-a_b", "-a"], ["", "-X", "-"]]  # dashes, underscores, no type
STRAYS = ["U-LOC", "L-PER", "S-PER", "E-LOC", "X-PER", "MISC", "INTJ", "B_PER", "U", "0", "."]


def scores(tags, labels, predicted, scheme):
    """Return the metrics of the tagger for sentences that come in padded batches of two."""
    sums = MetricSums(net.metrics(Params().with_facts({"tags": tags, "scheme": scheme})))
    for start in range(0, len(labels), 2):
        numbers, outputs = (
            pad_sequence([torch.tensor([*map(tags.index, line)]) for line in lines[start : start + 2]], True, padding)
            for lines, padding in ((labels, -100), (predicted, len(tags) - 1))  # at padding, outputs are anything
        )
        sums.add(torch.eye(len(tags))[outputs], numbers, torch.tensor(0.0))
    return sums.result()


def seqevals(labels, predicted, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_entities = {name: score(labels, predicted, zero_division=0, **mode) for name, score in SCORES.items()}
    return {**of_entities, "accuracy": np.mean(np.array(sum(labels, [])) == np.array(sum(predicted, []))), "loss": 0.0}


@st.composite
def tagged(draw):
    """The scheme of train, and labels with any of its tags, well-formed or not, and predictions that are often right.

    Sometimes tags of other schemes are among them. Then a sentence begins with an entity, because seqeval may take the
    begin of an odd chunk from the chunk before.
    """
    scheme = draw(st.sampled_from([*SCHEMES]))
    letters, types, strays = (draw(st.sampled_from(each)) for each in (SCHEMES[scheme], TYPES, [[], STRAYS]))
    tags = list(dict.fromkeys(["O", *(letter + kind for letter in letters for kind in types), *strays]))
    start = [tags[1], "O"] if strays else []
    tags_of_a_sentence = st.lists(st.sampled_from(tags), min_size=1, max_size=9)
    labels = draw(st.lists(tags_of_a_sentence, min_size=1, max_size=1 if strays else 4))
    other = st.sampled_from([*[None] * len(tags), *tags])
    predicted = [start + [draw(other) or tag for tag in sentence] for sentence in labels]
    return scheme, tags, [start + sentence for sentence in labels], predicted


@settings(max_examples=120, deadline=None, derandomize=True)
@given(tagged())
@example(("bio", ["O", "B-A"], [["O", "B-A", "O"]], [["O", "O", "O"]]))  # nothing found
def test_metrics_of_every_scheme_and_of_stray_tags_are_those_of_seqeval(drawn):
    scheme, tags, *both = drawn
    ours, mode = scores(tags, *both, scheme), {}
    if scheme == "bilou":  # there seqeval refuses the tags that the scheme lacks
        mode = {"mode": "strict", "scheme": BILOU}
        both = [[[tag if tag[0] in "BILU" else "O" for tag in tags] for tags in each] for each in both]
    expected = seqevals(*both, mode)
    assert {name: ours[name] for name in SCORES} == pytest.approx({name: expected[name] for name in SCORES})
    assert scheme == "bilou" or ours["accuracy"] == pytest.approx(expected["accuracy"])


def test_tags_without_prefix_count_as_runs():
    count = EntityCounter(["NOUN", "VERB", "O"], "plain").count
    outputs = torch.eye(3)[torch.tensor([[0, 0, 1, 2, 1]])]
    assert count(outputs, torch.tensor([[0, 0, 1, 1, 2]])).tolist() == [5, 3, 2, 3, 1]


def write(folder, tags, splits=("train", "val")):
    for split in splits:
        (folder / split).mkdir(parents=True)
        text = "".join(f"{line}\n" for line in tags.split(" / "))
        (folder / split / "labels.txt").write_text(text)
        (folder / split / "sentences.txt").write_text(re.sub("[^ \\n]+", "w", text))


@pytest.mark.parametrize(
    ("tags", "values", "scheme", "wrong"),
    [
        ("B-A I-A O B-A B-B", {}, "bio; entities are counted as by seqeval's default mode", None),
        ("B-A O B-B", {}, "bio;", None),  # no entity of two tokens: fits bio alone
        ("I-A I-A O I-B / I-A B-A I-A", {}, "bio;",
         "3 tags of train contradict bio: I-A after O, ...; tag_scheme=iob1 turns them into bio"),
        ("I-A I-A B-A O", {"tag_scheme": "iob1"}, "bio;", None),
        ("B-A I-A E-A O S-B", {}, "bioes; entities are counted as by seqeval's default mode", None),
        ("B I E S O", {}, "bioes;", None),
        ("B-A I-A L-A O U-B", {}, "bilou; entities are counted as by seqeval with mode='strict', scheme=BILOU", None),
        ("B-A O U-B L-B", {}, "bilou;", "1 tags of train contradict bilou: L-B after U-B, ..."),
        ("NOUN VERB . -LRB-", {}, "plain; entities are counted by their runs of one tag", None),
        ("N V B", {}, "plain;", None),  # B is a whole tag here
    ],
)  # fmt: skip
def test_the_scheme_is_detected_and_contradictions_are_warned_of(tmp_path, caplog, tags, values, scheme, wrong):
    write(tmp_path, tags)
    with caplog.at_level("INFO"):
        assert fetch_facts(tmp_path, Params(**values))["scheme"] == scheme.partition(";")[0]
    infos, warned = ([record.message for record in caplog.records if record.levelname == level]
                     for level in ("INFO", "WARNING"))  # fmt: skip
    assert len(infos) == 1 and infos[0].startswith(f"- tag scheme of train: {scheme}")
    assert warned == ([] if wrong is None else [f"- WARNING: {wrong}"])


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("B-A I-A O X", "the tag 'X' in this sentence: other tags are B-A, I-A; expected O, B-"),
        ("B-A I-A o", "the tag 'o' in this sentence: other tags are B-A"),
        ("B_A I_A O", "the tag 'B_A' in this sentence: this scheme is not supported; expected O, B-"),
        ("B-A L-A E-A O", "the tag 'E-A' in this sentence: other tags are B-A, L-A, E-A; expected O"),
    ],
)
def test_tags_of_no_scheme_or_of_two_are_refused(tmp_path, tags, message):
    write(tmp_path, tags)
    assert refusal(fetch_facts, tmp_path, Params()).startswith(f"{tmp_path}/train/sentences.txt:1: {message}")
    write(tmp_path / "rare", "B-A B-A O O X")
    assert fetch_facts(tmp_path / "rare", Params(min_count_tag=2))["tags"] == ["B-A", "O"]  # X becomes O before


@pytest.mark.parametrize(
    ("train_tags", "stray_tag", "scheme"),
    [("B-A I-A O", "U-LOC", "bio"), ("B I O", "0", "bio"), ("B-A L-A O", "S-A", "bilou"), ("N V O", "B-A", "plain")],
)
def test_a_stray_tag_of_test_or_of_the_vocabulary_changes_no_scheme(tmp_path, caplog, train_tags, stray_tag, scheme):
    write(tmp_path, train_tags)
    write(tmp_path, stray_tag, ["test"])
    facts = fetch_facts(tmp_path, Params())
    assert facts["scheme"] == scheme and stray_tag in facts["tags"]
    assert f"tags of test that train lacks count as errors there: {stray_tag}" in caplog.text
    counts = [int(tag != stray_tag) for tag in facts["tags"]]
    assert schemes.scheme_of({**facts, "scheme": None, "tag_counts": counts}) == scheme  # older runs store no scheme
    assert schemes.scheme_of({"tags": ["O", "U-A"]}) == "bilou"  # and from before there were counts
    (tmp_path / "words.txt").write_text("w\n<pad>\nUNK\n")
    (tmp_path / "tags.txt").write_text("\n".join(facts["tags"]))
    assert fetch_facts(tmp_path, Params())["scheme"] == scheme


def test_iob1_becomes_bio(tmp_path):
    write(tmp_path, "I I B O I / I-A I-A B-A I-A I-B O I-B")
    bio = [["B", "I", "B", "O", "B"], ["B-A", "I-A", "B-A", "I-A", "B-B", "O", "B-B"]]
    assert read_split("train", tmp_path, Params(tag_scheme="iob1")).tags == bio
    for iob1, bio in (("I I 0 I", "B I 0 B"), ("I-A I-B B-B O NOUN", "B-A B-B B-B O NOUN")):  # with tags of no scheme
        assert schemes.from_iob1(iob1.split()) == bio.split()
