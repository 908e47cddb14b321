"""Backbones: found, checked, loaded, or made with random weights."""
