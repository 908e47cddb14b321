"""Deltas, the trained weights of a run: saved, loaded, stacked, exported, pushed."""
