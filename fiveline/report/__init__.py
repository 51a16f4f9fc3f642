"""What stands behind synthesize_results.py: run directories read, as a table, as a comparison and as a page.

runs.py (Run, read_runs) reads what a table needs of each directory, details.py (read_history, ...) what only the page
and a comparison need; columns.py (hyperparameters_that_differ) says what can be shown; groups.py (by_data, sort_groups,
sort_runs) puts runs that can be compared, as data.py (name_groups) tells them apart, into their order;
seeds.py (group_by_seed) makes one row of the runs that differ only in their seed. page.py (write_page) gathers what
the page shows, with page_details.py and page_importance.py; web/ is what draws it in a browser.
"""
