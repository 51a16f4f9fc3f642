"""What a run is given (hyperparameters) and what it leaves behind (files, checkpoints, status). Door: `utils.py`."""
