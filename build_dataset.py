"""CS230's command that made 64 x 64 copies of the SIGNS photos. Here the photos are resized as they are read.

    python build_dataset.py --data_dir data/SIGNS --output_dir data/64x64_SIGNS

Prints the command that trains on the photos themselves, and ends with exit code 2. It writes nothing.
"""

import argparse
import shlex
import sys

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/SIGNS", help="the folder with train_signs and test_signs")
    parser.add_argument("--output_dir", default="data/64x64_SIGNS", help="is not written")
    args = parser.parse_args()
    print(
        f"error: {args.output_dir} is not needed: photos are resized as they are read, and val_fraction=0.2 takes a "
        f"fifth of them as val. Name the photos in each command:\n"
        f"python train.py --data_dir {shlex.quote(args.data_dir)} --model_dir experiments/base_model val_fraction=0.2",
        file=sys.stderr,
    )
    sys.exit(2)
