"""What a finished run is used for: answers on new text, scores on a split, GLUE's submission archive."""
