"""The moving parts behind `train.py`: optimizer and schedule, the state that a checkpoint holds, the progress line."""
