"""What stands behind search_hyperparams.py: the space, the proposals, the directories, the processes, the view."""
