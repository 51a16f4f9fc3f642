"""Scripts that write parts of the pages."""
