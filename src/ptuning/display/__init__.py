"""What a person sees of a run at a terminal."""
