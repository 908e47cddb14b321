"""A trained run at work: answers, scores, GLUE's archive."""
