"""Predictions of a trained run: streams of rows, evaluations, GLUE's submission."""
