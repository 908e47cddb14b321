"""Pretrained encoders: found, loaded, made at random."""
