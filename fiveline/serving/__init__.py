"""Behind `export.py`: nets as programs, the check that they compute what the nets do, and the facts beside them."""
