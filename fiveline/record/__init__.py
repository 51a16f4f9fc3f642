"""The record: what a run is told (hyperparameters) and what it leaves behind (files, checkpoints, status).

`utils.py` is the door: import from there. Nothing here imports torch when it is imported.
"""
