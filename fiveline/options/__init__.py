"""Options that hyperparameters switch on: precision, compile, averaged weights, clipping, schedule, profile."""
