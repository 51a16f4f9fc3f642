"""Words and characters of the train split, the tags of all splits, and CS230's three files of them.

    python build_vocab.py --data_dir data/kaggle_ner --min_count_word 2

writes `words.txt`, `tags.txt` and `dataset_params.json` into the data directory, as CS230's build_vocab.py does.
No one needs to: without these files training finds the same vocabulary, in the same order, by itself.
Where they are, they decide, so that a checkpoint of CS230 finds the rows of its embedding.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import utils
from model.ner.params import Params
from model.ner.readers import Sentences, read_split, read_text_lines
from utils import InputError

PAD_WORD, UNK_WORD, OUTSIDE = "<pad>", "UNK", "O"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words and tags in the order of their numbers, and which of the words stand for padding and for unknown ones."""

    words: list[str]
    tags: list[str]
    pad_word: str = PAD_WORD
    unk_word: str = UNK_WORD


def derive(splits: Mapping[str, Sentences], params: Params) -> Vocabulary:
    """Return the words and tags that are frequent enough in train, in order, and the tags of the other splits.

    A tag that train lacks needs an output of the net, although nothing trains it: its tokens are scored, as errors.

    Args:
        splits: `train`, and what there is of `val` and `test`
        params: min_count_word, min_count_tag
    """
    word_counts = collections.Counter(token for tokens in splits["train"].tokens for token in tokens)
    words = [word for word, count in word_counts.items() if count >= params.min_count_word]
    tag_counts = _count_tags(splits["train"])
    tags = [tag for tag, count in tag_counts.items() if count >= params.min_count_tag]
    for split, sentences in splits.items():
        new = [tag for tag in _count_tags(sentences) if tag not in tag_counts and tag not in tags]
        if new and params.min_count_tag == 1:
            tags += new
            logging.warning(f"- WARNING: tags of {split} that train lacks count as errors there: {', '.join(new)}")
    return Vocabulary(
        words=[*words, *(special for special in (PAD_WORD, UNK_WORD) if special not in words)],
        tags=tags if OUTSIDE in tags else [*tags, OUTSIDE],
    )


def _count_tags(sentences: Sentences) -> collections.Counter[str]:
    return collections.Counter(tag for tags in sentences.tags for tag in tags)


def _read_others(data_dir: Path, params: Params) -> dict[str, Sentences]:
    """Return the val and the test split, if they can be read; a mistake in one is reported when it is used."""
    splits = {}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what a reader logs of a split is logged when it is loaded
    try:
        for split in ("val", "test"):
            with contextlib.suppress(InputError):
                splits[split] = read_split(split, data_dir, params)
    finally:
        logging.disable(level)
    return splits


def read(data_dir: Path) -> Vocabulary | None:
    """Return the vocabulary that CS230's files in data_dir give, or None where there are none.

    Raises:
        InputError: one of words.txt and tags.txt is missing, or they contradict each other or dataset_params.json
    """
    words_path, tags_path, sizes_path = (data_dir / name for name in ("words.txt", "tags.txt", "dataset_params.json"))
    if not words_path.exists() and not tags_path.exists():
        return None
    words, tags = read_text_lines(words_path), read_text_lines(tags_path)
    sizes = utils.read_json(sizes_path) if sizes_path.exists() else {}
    for path, lines, key in ((words_path, words, "vocab_size"), (tags_path, tags, "number_of_tags")):
        if sizes.get(key, len(lines)) != len(lines):
            raise InputError(f"{path}: {len(lines)} lines, but dataset_params.json beside it says {key} {sizes[key]}")
    if OUTSIDE not in tags:
        raise InputError(f"{tags_path}: lacks the tag {OUTSIDE!r}; build it again, or take it away")
    specials = {"pad_word": sizes.get("pad_word", PAD_WORD), "unk_word": sizes.get("unk_word", UNK_WORD)}
    for name, word in specials.items():
        if word not in words:
            raise InputError(f"{words_path}: lacks the {name} {word!r}; build it again, or take it away")
    return Vocabulary(words, tags, **specials)


def fetch_facts(sentences: Sentences, data_dir: Path, params: Params) -> dict[str, Any]:
    """Return the facts of the data, as plain values: the tags of all splits, the rest of train.

    Args:
        sentences: of the train split
        data_dir: where CS230's files may be
        params: min_count_word, min_count_tag

    Returns:
        `words`, `tags` and `characters`, each in the order of their numbers; `pad_word` and `unk_word`, two of the
        words; `rare_tags`, which become O; `tag_counts`, of each tag in train; `num_sentences` and `num_tokens`

    Raises:
        InputError: train is empty or has fewer than two tags, or CS230's files contradict it
    """
    vocabulary, splits = read(data_dir), {"train": sentences}
    if vocabulary is not None:
        logging.info(f"- the vocabulary is that of words.txt and tags.txt in {data_dir}")
        if params.min_count_word > 1:
            logging.warning(
                "- WARNING: min_count_word has no effect beside words.txt; build that with --min_count_word"
            )
    else:
        splits |= _read_others(data_dir, params)
        vocabulary = derive(splits, params)
    counts = _count_tags(sentences)
    tags = dict.fromkeys(tag for each in splits.values() for tag in _count_tags(each))
    rare = [tag for tag in tags if counts[tag] < params.min_count_tag and tag not in vocabulary.tags]
    if rare:
        number = sum(counts.pop(tag, 0) for tag in rare)
        counts[OUTSIDE] += number
        logging.info(f"- {number} tokens of train become O, their tags are rarer than min_count_tag: {', '.join(rare)}")
    seen = [tag for tag in vocabulary.tags if len(splits) == 1 or counts[tag] or tag == OUTSIDE]
    if len(seen) < 2:
        raise InputError(
            f"{data_dir}: train has {len(seen)} tag(s) in {len(sentences.ids)} sentences, expected two or "
            "more; the files must be tagged, and tag_column must be the column of the tags"
        )
    characters = sorted({character for tokens in sentences.tokens for token in tokens for character in token})
    return {
        **dataclasses.asdict(vocabulary),
        "characters": [PAD_WORD, UNK_WORD, *characters],
        "rare_tags": rare,
        "tag_counts": [counts[tag] for tag in vocabulary.tags],
        "num_sentences": len(sentences.ids),
        "num_tokens": sum(map(len, sentences.tokens)),
    }


def write(vocabulary: Vocabulary, sizes: Mapping[str, int], data_dir: Path) -> None:
    """Write CS230's three files.

    Args:
        vocabulary: words and tags in order
        sizes: `train_size`, `dev_size` and `test_size`, in sentences
        data_dir: where to
    """
    for name, lines in (("words.txt", vocabulary.words), ("tags.txt", vocabulary.tags)):
        utils.write_atomically(data_dir / name, "".join(f"{line}\n" for line in lines).encode("utf-8"))
    entries = {
        **sizes,
        "vocab_size": len(vocabulary.words),
        "number_of_tags": len(vocabulary.tags),
        "pad_word": vocabulary.pad_word,
        "pad_tag": OUTSIDE,
        "unk_word": vocabulary.unk_word,
    }
    utils.save_dict_to_json(entries, data_dir / "dataset_params.json")
    print(json.dumps(entries, indent=4))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script.

    Raises:
        InputError: a mistake in the arguments or the data
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/small", type=Path, help="the dataset")
    parser.add_argument("--min_count_word", default=1, help="words rarer than this in train are unknown")
    parser.add_argument("--min_count_tag", default=1, help="tags rarer than this in train are left out")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="hyperparameters, for example tag_column=3")
    args = parser.parse_args(argv)
    flags = [f"min_count_word={args.min_count_word}", f"min_count_tag={args.min_count_tag}"]
    values, mistakes = utils.read_overrides([*flags, *args.overrides])
    params = Params.from_values(values, "command line", mistakes)
    names = {"train": "train_size", "val": "dev_size", "test": "test_size"}
    splits = {split: read_split(split, args.data_dir, params) for split in names}
    sizes = {name: len(splits[split].ids) for split, name in names.items()}
    write(derive(splits, params), sizes, args.data_dir)


if __name__ == "__main__":
    utils.run_script(main)
