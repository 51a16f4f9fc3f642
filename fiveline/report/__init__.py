"""The room behind synthesize_results.py: read run directories; show them as a table, a comparison and a page.

The core does not import it; evaluate.py uses scores.py, the only module that needs torch. web/ draws the page.
"""
