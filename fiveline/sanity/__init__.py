"""Behind `sanity_check.py`: plain functions, each of which looks at a run and says what it saw."""
