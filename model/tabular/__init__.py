"""Rows of numbers and words from CSV files: classification and regression, from one layer to many."""
