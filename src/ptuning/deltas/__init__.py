"""What a run changed: kept, loaded, stacked, exported, shared."""
