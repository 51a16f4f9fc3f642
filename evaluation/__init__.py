"""What `evaluate.py` reports beside the metrics: confidence intervals, the confusion matrix, a row for each example."""
