"""Column files: columns, separators, comments, ids and every mistake; what predict.py reads of them."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import utils
from fiveline.tasks import fetch_facts
from model.ner import readers, serve
from model.ner.params import Params
from model.ner.readers import COLUMN_SUFFIXES, read_split
from tests.support.data import refusal


def read(folder, text, suffix=".conll", **values):
    """Return the sentences of train, written as a column file."""
    (folder / f"train{suffix}").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    (folder / f"val{suffix}").write_bytes(b"a O\n")
    return read_split("train", folder, Params(**values))


def mistake(folder, text, **values):
    return refusal(read, folder, text, **values).removeprefix(f"{folder}/")


@pytest.mark.parametrize("suffix", [".txt", ".conll", ".bio"])
def test_column_files_are_read(tmp_path, suffix):
    text = "-DOCSTART- -X- O\n\nAda NN I-PER\nByron NN I-PER\nslept VB O\n\n\nin IN O\nNew NN I-LOC\nYork NN I-LOC\n"
    if suffix == ".bio":  # as Windows' editor saves it
        text = "\ufeff" + text.replace("\n", "\r\n")
    sentences = read(tmp_path, text, suffix)
    assert sentences.tokens == [["Ada", "Byron", "slept"], ["in", "New", "York"]]
    assert sentences.tags == [["I-PER", "I-PER", "O"], ["O", "I-LOC", "I-LOC"]]
    assert sentences.ids == [f"train{suffix}:3", f"train{suffix}:8"]


@pytest.mark.parametrize(
    ("text", "tokens", "tags", "values"),
    [
        ("1\tB-PER\tAda\n2\tO\tslept\n", [["Ada", "slept"]], [["B-PER", "O"]], {"token_column": -1, "tag_column": 1}),
        # with tabs, tokens may hold spaces
        ("New York\tNNP\tB-LOC\n\u00a0\tX\tO\nis  big \tVB\tO\n \t\t\nok\tJJ\tO\n",
         [["New York", "\u00a0", "is  big"], ["ok"]], [["B-LOC", "O", "O"], ["O"]], {}),
        # times and scores, not ranges: the file is not called .conllu
        ("0.1\ta\tO\n1-2\tb\tO\n\n0.2\tc\tO\n", [["a", "b"], ["c"]], [["O", "O"], ["O"]], {"token_column": 1}),
        ("1 X O\n2 X O\n3 X O\n\n7 X O\n", [["1", "2", "3"], ["7"]], [["O"] * 3, ["O"]], {}),
    ],
)  # fmt: skip
def test_columns_are_chosen_and_separated_by_tabs_or_spaces(tmp_path, text, tokens, tags, values):
    assert read(tmp_path, text, **values)[1:] == (tokens, tags)


EMPTY = {  # line, token and tag of what is refused
    "a\tb\tO\na\t\t\n": (2, "a", ""), "a\t\tO\n \tb\tO\n": (2, "", "O"), "\tO\na\tO\n": (1, "", "O"),
    "a\tO\t\nb\tO\n": (1, "a", ""), "a\tx\tb O\n": (1, "a", "b O"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message", "values"),
    [
        *[(text, f":{number}: expected a token in column 0 and a tag in column -1, found {token!r} and {tag!r}", {})
          for text, (number, token, tag) in EMPTY.items()],
        ("a O\rb O\r", ":1: a carriage return inside a line; expected UTF-8 text whose lines end in LF", {}),
        ("a O\nb\0 O\n", ":2: a NUL character", {}),
        ("a O\nb\u00e9 O\n".encode("latin-1"), ":2: not UTF-8", {}),
        ("a O\n".encode("utf-16"), ":1: not UTF-8; convert the file (from Windows-1252 or UTF-16?)", {}),
        ("a O\nNew York O\n", ":2: 3 columns, expected 2; they are separated by spaces (a token with spaces", {}),
        ("a\tO\nb O\n", ":2: 1 columns, expected 2; they are separated by tabs", {}),
        ("a O\n", ":1: 2 column(s), but token_column is 0 and tag_column is 3; expected two different",
         {"tag_column": 3}),
        ("a O\n", ":1: 2 column(s), but", {"tag_column": -2}),
        ("in O\nRome B-LOC\nx O\n" * 500, ": one sentence, of 1,500 tokens; expected several, a blank line after", {}),
        ("in O\n# id 2\nat O\n", ":2: a comment inside a sentence; expected a blank line before it", {}),
        ("in _ _ O\n# text = at\nat _ _ O\n", ":2: a comment inside a sentence", {}),
    ],
    ids=range(16),
)  # fmt: skip
def test_mistakes_are_reported_with_file_and_line(tmp_path, text, message, values):
    assert mistake(tmp_path, text, **values).startswith(f"train.conll{message}")


def test_conllu_has_its_ranges_and_empty_nodes_left_out_and_a_line_of_the_log_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    text = "# sent_id = 1\n1-2\tdel\t_\tO\n1\tde\tADP\tO\n2\tel\tDET\tO\n2.1\tx\t_\tO\n3\tsur\tNOUN\tB-LOC\n\n" * 2
    _, tokens, tags = read(tmp_path, text, ".conllu", token_column=1)
    assert tokens == [["de", "el", "sur"]] * 2 and tags == [["O", "O", "B-LOC"]] * 2
    message = mistake(tmp_path, text, suffix=".conllu")
    assert message == "train.conllu:2: column 0 of a .conllu file numbers the tokens; type token_column=1"
    fetch_facts(tmp_path, Params(token_column=1))  # reads the files too, but quietly
    assert caplog.text.count("skipped") == 1
    assert "train.conllu: skipped 6 lines that are not tokens, such as comments; first line 1" in caplog.text


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("# id a1\tdomain=en\nin _ _ O\nRome _ _ B-LOC\n", "in Rome"),  # MultiCoNER: as many columns as tokens have
        ("# sent_id = 1\n# text = in Rome\nin O\nRome O\n\n# newdoc\nin O\n", "in Rome / in"),
        ("# text = O\nin _ _ O\n", "in"),  # four columns, too, and a tag at its end
        ("# O\n1 O\n\n#hash B-X\n2 O\n", "# 1 / #hash 2"),
        ("# #\n5 CD\n\na DT\n# #\n5 CD\n", "# 5 / a # 5"),  # Penn Treebank's tag of a pound sign
        ("# not a tag\nin O\n\n\n# neither\nat O\n", "in / at"),
        ("-DOCSTART- -X-\n\n# a comment here\nin O\n-DOCSTART- O\nat O\n", "in / at"),
        ("in\tO\n\n# end = 1\n\n# written by hand\n\n", "in"),
    ],
)
def test_comments_before_a_sentence_are_no_tokens_and_other_lines_with_a_hash_are(tmp_path, text, tokens):
    assert read(tmp_path, text).tokens == [sentence.split() for sentence in tokens.split(" / ")]


ANYTHING = st.text(st.sampled_from(list('# \t\n\r-.=19aOB\u00a0\ufeff\0"é')), max_size=60)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=ANYTHING, token_column=st.integers(-2, 2))
def test_any_text_is_read_or_refused_and_no_token_appears_from_nowhere(tmp_path, text, token_column):
    try:
        _, tokens, tags = read(tmp_path, text, token_column=token_column, tag_column=-1 if token_column != -1 else 0)
    except utils.InputError as error:
        assert re.search(r"train\.conll:\d+: ", str(error)), error
        return
    assert all(token in text and "\n" not in token for sentence in tokens for token in sentence)
    assert [len(sentence) for sentence in tokens] == [len(sentence) for sentence in tags]
    lines = [line.strip(" \t\r") for line in text.removeprefix("\ufeff").split("\n")]
    num_tokens, num_sure = sum(map(len, tokens)), sum(map(readers.is_token, lines))
    assert num_tokens <= sum(map(bool, lines)) and (num_tokens >= num_sure or "-" in text or "." in text)


def streamed(path, text):
    path.write_text(text)
    params = Params().with_facts({"tags": ["O", "B-LOC", "NN", "."]})
    return [(name.removeprefix(str(path)), tokens) for name, tokens in serve.fetch_unlabelled([path], params)]


@pytest.mark.parametrize("suffix", COLUMN_SUFFIXES)
def test_new_column_files_are_read_as_such_by_their_name_or_their_tags(tmp_path, suffix):
    path = tmp_path / f"new{suffix}"
    text = "# id 1\tx\nin O\nRome B-LOC\n\n# id 2\n# O\nat O\n"
    assert streamed(path, text) == [(":2", ["in", "Rome"]), (":6", ["#", "at"])]
    if suffix != ".txt":
        ((_, error),) = streamed(path, "a O\nb\tNN O\n")
        assert isinstance(error, utils.InputError) and f"{path}:2: " in str(error)


def test_new_sentences_are_not_taken_for_columns(tmp_path):
    path = tmp_path / "new.txt"
    for text in ("It stops .\nIt rains .\n", "in O\n", "one\ntwo\n", "a b\nc d\n", "in Rome\n\nor not\n"):
        expected = [line.split() for line in text.splitlines()]
        assert [[] if isinstance(found, Exception) else found for _, found in streamed(path, text)] == expected
    assert f"{path}:1: a tab; expected tokens separated by spaces" in str(streamed(path, "in\tIN\nor not\n")[0][1])
    tokens = streamed(tmp_path / "new.conll", "in\nRome\n\n#\nat\n")  # without tags
    assert tokens == [(":1", ["in", "Rome"]), (":4", ["#", "at"])]
