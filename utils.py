"""The record of a run: hyperparameters, log, JSON files and checkpoints. The work is in `fiveline/record/`.

    Params.from_values(values, source)          hyperparameters, checked (params.py)
    set_logger("experiments/base/train.log")    the log, on the terminal and in a file (log.py)
    save_dict_to_json(metrics, "metrics.json")  JSON, written atomically (atomic.py)
    save_checkpoint(state, is_best, model_dir)  checkpoints, with a checksum (checkpoint.py)
    RunDirectory(model_dir)                     status, history and lock of a run (run.py)

Importing this module does not import torch, so a mistake in a params file is reported at once.
"""

from __future__ import annotations

from fiveline.record.atomic import open_atomically, save_dict_to_json, to_json, write_atomically
from fiveline.record.check import check_values, describe, find_mistakes
from fiveline.record.checkpoint import (
    blaming_checkpoint,
    checkpoint_path,
    checksum,
    is_of_train,
    load_checkpoint,
    load_weights,
    parse_checkpoint,
    read_checkpoint,
    save_checkpoint,
    scores_name,
    write_checkpoint,
)
from fiveline.record.errors import DivergedError, InputError, InterruptedRun, InUseError, Stop, explain, with_result
from fiveline.record.files import check_regular, csv_lines, files_below, is_hidden, read_bytes, read_json, read_lines
from fiveline.record.log import escaped, escaped_lines, format_metrics, set_logger
from fiveline.record.origin import fingerprint
from fiveline.record.params import MACHINE, Params, idle_unless, machine_settings
from fiveline.record.params_file import find_params_file, read_overrides, read_values, with_data_dir
from fiveline.record.run import NO_RESULT, RunDirectory, has_stopped_early, ranking_key, scores_lock
from fiveline.record.script import add_device_flags, import_quickly, new_parser, run_script
