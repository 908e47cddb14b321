"""Module names × layers × subset → what of a model may train."""
