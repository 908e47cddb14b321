"""What random numbers may do."""


def within(seen: float, expected: float, deviation: float) -> bool:
    """Whether a sum of random numbers lies where all but one in two million would."""
    return abs(seen - expected) < 5 * deviation
