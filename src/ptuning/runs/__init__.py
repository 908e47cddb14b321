"""What a run leaves, as values; knows no torch."""
