"""Every value and its meaning, and the rules that a type cannot say. Knows no torch."""
