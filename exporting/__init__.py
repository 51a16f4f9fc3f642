"""Behind `export.py`: nets as programs, the check that a program computes what its net does, and the facts beside it."""
