"""CS230's command for the vocabulary of its NLP example.

    python build_vocab.py --data_dir data/kaggle_ner --min_count_word 2

Writes `words.txt`, `tags.txt` and `dataset_params.json` into --data_dir, and prints the last one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import utils


def main(argv: list[str] | None = None) -> None:
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

    from model.ner.data_loader import derive_vocabulary
    from model.ner.params import Params
    from model.ner.readers import read_split

    flags = [f"min_count_word={args.min_count_word}", f"min_count_tag={args.min_count_tag}"]
    values, mistakes = utils.read_overrides([*flags, *args.overrides])
    params = Params.from_values(values, "command line", mistakes)
    splits = {split: read_split(split, args.data_dir, params) for split in ("train", "val", "test")}
    vocabulary = derive_vocabulary(splits, params)
    for name in ("words", "tags"):
        lines = "".join(f"{line}\n" for line in vocabulary[name])
        utils.write_atomically(args.data_dir / f"{name}.txt", lines.encode("utf-8"))
    sizes = {
        "train_size": len(splits["train"].ids),
        "dev_size": len(splits["val"].ids),
        "test_size": len(splits["test"].ids),
        "vocab_size": len(vocabulary["words"]),
        "number_of_tags": len(vocabulary["tags"]),
        "pad_word": vocabulary["pad_word"],
        "pad_tag": "O",
        "unk_word": vocabulary["unk_word"],
    }
    utils.save_dict_to_json(sizes, args.data_dir / "dataset_params.json")
    print(json.dumps(sizes, indent=4))


if __name__ == "__main__":
    utils.run_script(main)
