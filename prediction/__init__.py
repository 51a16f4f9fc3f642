"""Behind `predict.py`: rows as they are written, and how far off the numbers among them may be."""
