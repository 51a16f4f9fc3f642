"""The engine behind the scripts. You do not need to edit it for a new net, dataset, metric, loss or task."""

__version__ = "0.1.0"  # pyproject.toml and CITATION.cff repeat it, and a test compares them
