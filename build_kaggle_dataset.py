"""CS230's command for Kaggle's NER corpus. The work is in data/kaggle_ner/build_dataset.py.

    python build_kaggle_dataset.py

Reads `data/kaggle/ner_dataset.csv`, and writes the splits `train`, `val` and `test` beside it.
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.argv[1:1] = ["--csv", "data/kaggle/ner_dataset.csv", "--output_dir", "data/kaggle"]
    runpy.run_path(str(Path(__file__).parent / "data/kaggle_ner/build_dataset.py"), run_name="__main__")
