"""Tag schemes: what a tag says about its token, and which scheme the tags of a corpus follow. Imports no torch.

    bio     B- begins each entity, I- continues it (also called IOB2)
    bioes   as bio; E- ends an entity of several tokens, S- is an entity of one token
    bilou   as bioes, with L- in the place of E- and U- in the place of S-
    plain   tags without such letters (NOUN, VERB): each run of one tag counts as an entity

In iob1, the scheme of CoNLL-2003's files, B- stands only between two entities of one type that touch: tag_scheme=iob1
turns it into bio. The type may be missing (B, I, O): then all entities have one type without a name.

Entities of bilou are counted as by seqeval with mode="strict" and scheme=BILOU: only well-formed ones count. In bio and
bioes they are counted as by seqeval's default mode, by the rule of conlleval.pl. (It has no rule for plain tags.)
"""

from __future__ import annotations

import collections
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from utils import InputError

OUTSIDE, LETTERS = "O", frozenset("BIESLU")
LETTERED = re.compile(r"[BIESLU]-.*", re.DOTALL)  # B-PER
EXPECTED = "expected O, B-<type> and I-<type>, perhaps with E- and S-, or L- and U- (min_count_tag makes rare tags O)"
FOREIGN = re.compile(r"[BIESLUM][_:./|].+|[bieslumo]-.+|M-.*|.+[-_:][BIESLUM]")  # B_PER, b-per, M-PER, PER-B
RULES = {"bilou": "as by seqeval with mode='strict', scheme=BILOU", "plain": "by their runs of one tag"}

Parts = tuple[str, str]  # letter and type of a tag


def parse(tags: Iterable[str], has_letters: bool = False) -> dict[str, Parts]:
    """Return letter and type of each tag of a corpus: B-PER is ('B', 'PER'), B is ('B', '_'), and NOUN ('I', 'NOUN').

    B is a letter beside I and O, and a whole tag beside N and V, unless `has_letters`.
    """
    parts = {tag: ("I", tag) for tag in tags}
    if has_letters or any(map(LETTERED.match, parts)) or LETTERS.issuperset({*parts} - {OUTSIDE}):
        parts |= {tag: (tag[0], tag[2:] or "_") for tag in parts if LETTERED.match(tag) or tag in LETTERS}
    return parts | ({OUTSIDE: (OUTSIDE, "")} if OUTSIDE in parts else {})


def guess(tags: Iterable[str]) -> str:
    """Return the scheme that has the letters of these tags."""
    letters = {letter for tag, (letter, kind) in parse(tags).items() if (letter, kind) != ("I", tag)} - {OUTSIDE}
    return "bilou" if letters & {"L", "U"} else "bioes" if letters & {"E", "S"} else "bio" if letters else "plain"


def scheme_of(facts: Mapping[str, Any]) -> str:
    """Return the scheme of a run; older runs did not store it: guess it from the tags that train has."""
    in_train = [tag for tag, number in zip(facts["tags"], facts.get("tag_counts", []), strict=False) if number]
    return facts.get("scheme") or guess(in_train or facts["tags"])


def continues(before: Parts, now: Parts) -> bool:
    """Return whether a token can belong to the entity of the token before it."""
    return before[0] in ("B", "I") and now[0] in ("I", "E", "L") and before[1] == now[1]


def from_iob1(tags: Sequence[str]) -> list[str]:
    """Return the IOB1 tags of a sentence as BIO: the first token of an entity gets its B-."""
    parts = {**parse(tags, has_letters=True), OUTSIDE: (OUTSIDE, "")}
    begin = {tag: f"B{tag[1:]}" for tag, its in parts.items() if its[0] == "I" and its != ("I", tag)}
    pairs = zip([OUTSIDE, *tags], tags, strict=False)
    return [tag if continues(parts[before], parts[tag]) else begin.get(tag, tag) for before, tag in pairs]


def detect(ids: Sequence[str], sentences: Sequence[Sequence[str]]) -> str:
    """Return and log the scheme of the sentences' tags; warn of tags that contradict it, refuse other tags."""
    pairs = collections.Counter(pair for tags in sentences for pair in zip(["O", *tags], [*tags, "O"], strict=True))
    parts = parse(tag for pair in pairs for tag in pair)
    scheme = guess(parts)
    plain = [tag for tag, its in parts.items() if its == ("I", tag)]
    lettered = [tag for tag in parts if tag != OUTSIDE and tag not in plain]
    odd = plain if lettered or all(map(FOREIGN.fullmatch, plain)) else []
    if odd := odd or [tag for tag in lettered if scheme == "bilou" and tag[0] in "ES"]:
        where = next(name for name, tags in zip(ids, sentences, strict=True) if odd[0] in tags)
        reason = f"other tags are {', '.join(lettered[:3])}" if lettered else "this scheme is not supported"
        raise InputError(f"{where}: the tag {odd[0]!r} in this sentence: {reason}; {EXPECTED}")
    rule = RULES.get(scheme, "as by seqeval's default mode")
    logging.info(f"- tag scheme of train: {scheme}; entities are counted {rule}")
    inner = [pair for pair in pairs if scheme != "plain" and parts[pair[1]][0] in ("I", "E", "L")]
    if wrong := [pair for pair in inner if not continues(parts[pair[0]], parts[pair[1]])]:
        before, tag = max(wrong, key=pairs.__getitem__)
        found = f"{sum(map(pairs.__getitem__, wrong))} tags of train contradict {scheme}: {tag} after {before}, ..."
        logging.warning(f"- WARNING: {found}{'; tag_scheme=iob1 turns them into bio' if scheme == 'bio' else ''}")
    return scheme
