"""Sweeps: many runs through one scheduler and its engines, with resume, where a failure stays one job's own."""
