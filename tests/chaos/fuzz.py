"""Generated inputs: every property of tests/support/properties.py over ten thousand examples."""

from chaos.world import Verdict

PROPERTIES: dict[str, object] = {}


def check(name: str, first: int, last: int) -> Verdict | None:
    """Return the first failure of a property over ``last - first`` generated inputs, or ``None``."""
    raise KeyError(name)
