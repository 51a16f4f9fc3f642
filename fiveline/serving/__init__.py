"""Behind `predict.py` and `export.py`: new inputs as batches, rows of predictions, nets as programs."""
