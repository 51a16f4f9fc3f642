"""Tag schemes: what a tag says of its token, and which scheme the tags of a corpus follow. Imports no torch.

    bio     B- begins each entity, I- continues it (also called IOB2)
    iob1    I- begins an entity; B- stands only directly after another entity of the same type (files of CoNLL-2003)
    io      I- alone: two entities of one type that touch are one
    bioes   as bio; E- ends an entity of several tokens, S- is an entity of one token
    bilou   as bioes, with L- in the place of E- and U- in the place of S-
    plain   tags without such letters (NOUN, VERB): each run of one tag counts as an entity

Entities of bilou are counted as seqeval does with mode="strict" and scheme=BILOU: only well-formed ones count. Of all
other schemes they are counted as seqeval does by default, by the rule of conlleval.pl. (It has no rule for plain tags.)
The type may be missing (B, I, O): then all entities have one type without a name, and the scheme is called bare.

Some tags fit several schemes. Any L- or U- means bilou, any E- or S- bioes. I- alone is io, or iob1 if tag_scheme says
iob1. B- and I- are bio or iob1, whichever fewer tags contradict; bio if it is a tie. This choice changes no score: bio,
iob1 and io are counted by the same rule.
"""

from __future__ import annotations

import collections
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.ner.params import Params
from utils import InputError

OUTSIDE, LETTERS = "O", frozenset("BIESLU")
EXPECTED = "expected O and B-<type>, I-<type>, with E- and S-, or L- and U-, if the scheme has them"
FOREIGN = re.compile(r"[BIESLUM][_:./|].+|[bieslumo]-.+|M-.*|.+[-_:][BIESLUM]")  # B_PER, b-per, M-PER, PER-B
RULES = {
    "plain": "each run of one tag counts as an entity",
    "bilou": "entities are counted as by seqeval with mode='strict', scheme=BILOU",
}
DEFAULT_RULE = "entities are counted as by seqeval's default mode"

Parts = tuple[str, str]  # letter and type of a tag


class OddTag(Exception):
    """A tag that fits no scheme, or not that of the others.

    Args:
        tag: the tag
        reason: why, and what was expected
    """

    def __init__(self, tag: str, reason: str) -> None:
        super().__init__(reason)
        self.tag = tag


def parse(tags: Iterable[str], has_letters: bool = False) -> dict[str, Parts]:
    """Return letter and type of each tag: ('B', 'PER') for B-PER, ('B', '_') for B, ('O', '') for O.

    Args:
        tags: all tags of a corpus, because B is a letter beside I and O, and a whole tag beside N and V. A tag
            without a letter becomes ('I', tag).
        has_letters: whether B is a letter in any case
    """
    tags = list(dict.fromkeys(tags))
    has_letters = has_letters or any(map(_has_letter, tags)) or all(tag == OUTSIDE or tag in LETTERS for tag in tags)
    parts = {tag: (tag[0], tag[2:] or "_") for tag in tags if has_letters and (_has_letter(tag) or tag in LETTERS)}
    return {tag: (OUTSIDE, "") if tag == OUTSIDE else parts.get(tag, ("I", tag)) for tag in tags}


def _has_letter(tag: str) -> bool:
    return tag[:1] in LETTERS and tag[1:2] == "-"


def guess(tags: Iterable[str]) -> str:
    """Return a scheme that has the letters of these tags: plain, bilou, or bio, which is counted as all others are."""
    lettered = {letter for tag, (letter, kind) in parse(tags).items() if (letter, kind) != ("I", tag)} - {OUTSIDE}
    return "bilou" if lettered & {"L", "U"} else "bio" if lettered else "plain"


def scheme_of(facts: Mapping[str, Any]) -> str:
    """Return the scheme of train; of runs from before this was a fact, a guess from the tags that train has."""
    counts = facts.get("tag_counts", [])
    return facts.get("scheme") or guess(
        [tag for tag, n in zip(facts["tags"], counts, strict=False) if n] or facts["tags"]
    )


def warn_of_others(tags: Iterable[str], scheme: str) -> None:
    """Warn of tags that are not of this scheme; only val, test and tags.txt can have them."""
    letters = {"plain": "", "bilou": "BILU", "bioes": "BIES"}.get(scheme, "BI")
    is_plain = scheme == "plain"
    others = [
        tag
        for tag in tags
        if tag != OUTSIDE and (_has_letter(tag) if is_plain else tag[0] not in letters or tag[1:2] not in ("", "-"))
    ]
    if others:
        logging.warning(
            f"- WARNING: tags that are not of train's scheme, {scheme}, but are scored by its rule: "
            f"{', '.join(others)}; correct the files if these are mistakes"
        )


def continues(before: Parts, now: Parts) -> bool:
    """Return whether a token can belong to the entity of the token before it."""
    return before[0] in ("B", "I") and now[0] in ("I", "E", "L") and before[1] == now[1]


def from_iob1(tags: Sequence[str]) -> list[str]:
    """Return the IOB1 tags of a sentence as BIO: the first token of an entity gets its B-."""
    parts = {**parse(tags, has_letters=True), OUTSIDE: (OUTSIDE, "")}
    begin = {tag: f"B{tag[1:]}" for tag, its in parts.items() if its[0] == "I" and its != ("I", tag)}
    return [
        tag if continues(parts[before], parts[tag]) else begin.get(tag, tag)
        for before, tag in zip([OUTSIDE, *tags], tags, strict=False)
    ]


def detect(sentences: Iterable[Sequence[str]], named: str) -> tuple[str, dict[tuple[str, str], int]]:
    """Return the scheme of tags, and the pairs of neighbouring tags that contradict it, with their numbers.

    Args:
        sentences: the tags of each
        named: params.tag_scheme, which decides between iob1 and io

    Raises:
        OddTag: the tags follow none of the schemes, or two of them
    """
    pairs = collections.Counter(pair for tags in sentences for pair in zip(["O", *tags], [*tags, "O"], strict=True))
    parts = parse(tag for pair in pairs for tag in pair)
    letters = _check(parts)

    def count(is_wrong: Callable[[Parts, Parts], bool]) -> dict[tuple[str, str], int]:
        return {pair: number for pair, number in pairs.items() if is_wrong(parts[pair[0]], parts[pair[1]])}

    if not letters:
        return "plain", {}
    if letters & {"E", "S", "L", "U"}:
        wrong = count(lambda a, b: (a[0] in ("B", "I") or b[0] in ("I", "E", "L")) and not continues(a, b))
        return "bilou" if letters & {"L", "U"} else "bioes", wrong
    if "B" not in letters:
        return "iob1" if named == "iob1" else "io", {}
    not_bio = count(lambda a, b: b[0] == "I" and not continues(a, b))
    not_iob1 = count(lambda a, b: b[0] == "B" and a[1] != b[1])
    return ("bio", not_bio) if sum(not_bio.values()) <= sum(not_iob1.values()) else ("iob1", not_iob1)


def _check(parts: dict[str, Parts]) -> set[str]:
    """Return the letters in use; none where the tags are plain.

    Raises:
        OddTag: the tags follow none of the schemes, or two of them
    """
    plain = [tag for tag, its in parts.items() if its == ("I", tag)]
    lettered = [tag for tag in parts if tag != OUTSIDE and tag not in plain]
    letters = {parts[tag][0] for tag in lettered}
    if plain and lettered:
        raise OddTag(plain[0], f"other tags are like {lettered[0]!r}; {EXPECTED} (min_count_tag makes rare tags O)")
    if plain and all(map(FOREIGN.fullmatch, plain)):
        raise OddTag(plain[0], f"this scheme is not supported; {EXPECTED}")
    if letters & {"E", "S"} and letters & {"L", "U"}:
        odd = next(tag for tag in lettered if parts[tag][0] in ("L", "U"))
        raise OddTag(odd, f"there are tags of two schemes, {', '.join(lettered[:8])}; {EXPECTED}")
    return letters


def report(ids: Sequence[str], sentences: Sequence[Sequence[str]], params: Params, data_dir: Path) -> str | None:
    """Log the scheme of the train tags, and warn where they contradict it, or where it contradicts params.tag_scheme.

    Returns:
        the scheme; None if all tags are O

    Args:
        ids: of the sentences
        sentences: the tags of each, as they are in the files
        params: tag_scheme and min_count_tag
        data_dir: for messages

    Raises:
        InputError: the tags follow none of the schemes, or two of them
    """
    counts = collections.Counter(tag for tags in sentences for tag in tags)
    rare = {tag for tag, number in counts.items() if number < params.min_count_tag}
    sentences = [[OUTSIDE if tag in rare else tag for tag in tags] for tags in sentences] if rare else sentences
    try:
        found, wrong = detect(sentences, params.tag_scheme)
    except OddTag as error:
        where = next(name for name, tags in zip(ids, sentences, strict=True) if error.tag in tags)
        raise InputError(f"{data_dir}/{where}: the tag {error.tag!r} in this sentence: {error}") from None
    if counts.keys() - rare <= {OUTSIDE}:
        return None
    bare = ", bare (tags without a type)" if found != "plain" and not rare.issuperset(LETTERS & counts.keys()) else ""
    logging.info(f"- tag scheme of train: {found}{bare}; {RULES.get(found, DEFAULT_RULE)}")
    if wrong:
        before, tag = max(wrong, key=lambda pair: wrong[pair])
        logging.warning(f"- WARNING: {sum(wrong.values())} tags of train contradict {found}: {tag} after {before}, ...")
    if found == params.tag_scheme:
        return found
    if found in ("iob1", "io"):
        name = "io, or iob1 without entities that touch" if found == "io" else found
        logging.warning(
            f"- WARNING: tag_scheme is {params.tag_scheme}, but the tags of train are {name}; "
            "tag_scheme=iob1 turns them into bio"
        )
    elif "tag_scheme" in params.model_fields_set:
        logging.warning(
            f"- WARNING: tag_scheme is {params.tag_scheme}, but the tags of train are {found}; leave it out"
        )
    return found
