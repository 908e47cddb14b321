"""The display of a run at a terminal."""
