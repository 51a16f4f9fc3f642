"""What a hyperparameter switches on: precision, compile, averaged weights, profile, TensorBoard."""
