"""The seed of what fault injectors choose at random: moments, victims, which answers are spoilt.

Each process chooses another one, so that more is tried with every run, and writes it to stderr, which pytest shows
with a failing test. `KKANJI_FAULT_SEED=1234 pytest ...` repeats the choices; what the scheduler does is not repeated.
"""

import os
import random
import sys
from functools import cache

VARIABLE = "KKANJI_FAULT_SEED"


def seed() -> int:
    """This process's seed."""
    sys.stderr.write(f"{VARIABLE}={_chosen()}\n")
    return _chosen()


@cache
def _chosen() -> int:
    return int(os.environ.get(VARIABLE) or random.SystemRandom().getrandbits(32))
