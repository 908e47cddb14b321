"""x"""

HELP = "x"


def add_arguments(p): ...
def run(c): ...
