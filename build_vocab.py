"""CS230's command for the vocabulary of its NLP example. The work is in model/ner/vocabulary.py.

    python build_vocab.py --data_dir data/small

Writes `words.txt`, `tags.txt` and `dataset_params.json` into --data_dir.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("model.ner.vocabulary", run_name="__main__", alter_sys=True)
