"""The room behind synthesize_results.py. Only scores.py, which evaluate.py uses, imports torch."""
