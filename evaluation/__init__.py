"""Behind `evaluate.py`: metrics as exact sums, and the report: intervals, confusion matrix, a row for each example."""
