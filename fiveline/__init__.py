"""The engine behind the scripts. You do not need to edit it for a new net, dataset, metric, loss or task."""
