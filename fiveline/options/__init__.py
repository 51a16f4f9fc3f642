"""What a hyperparameter switches on: precision, compile, averaged weights, clipping, schedule, profile."""
