"""Run an exported program: read inputs from standard input, and write its outputs to standard output, batch by batch.

Started by `verify.py` as `python -I run_alone.py LINE ...` in the program's folder, with the lines of `usage` in its
JSON file, so that it can import nothing of this project. A batch of inputs is a pickle of a dict, name -> array; its
outputs are a list of arrays.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any


def main() -> None:
    """Run the script."""
    *preparation, call = sys.argv[1:]
    scope: dict[str, Any] = {}
    exec("\n".join(preparation), scope)
    if torch := scope.get("torch"):
        torch.set_grad_enabled(False)
    source = sys.stdin.buffer
    while source.peek(1):  # type: ignore[union-attr]
        for name, array in pickle.load(source).items():  # from the process that started this one
            scope[name] = torch.from_numpy(array) if torch else array
        exec(call, scope)
        outputs = scope["outputs"]
        outputs = outputs.values() if isinstance(outputs, dict) else outputs
        outputs = [outputs] if hasattr(outputs, "shape") else outputs
        pickle.dump([output.numpy() if torch else output for output in outputs], sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
