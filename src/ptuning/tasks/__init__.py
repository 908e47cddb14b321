"""GLUE's tasks as a table, and the metrics that score them."""
