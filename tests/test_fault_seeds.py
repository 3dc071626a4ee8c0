"""What injectors choose at random can be repeated, and is another thing each time unless it is."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
INJECTOR = """
import random
from tests.faults.injector import answer
answer({"choose": lambda folder: random.getrandbits(64)})
"""


def choose(seed: str = "") -> tuple[int, str]:
    """A number that an injector chose, and the seed that it wrote."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "KKANJI_FAULT_SEED": seed}
    command = [sys.executable, "-c", INJECTOR, "choose", "."]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    (written,) = re.findall(r"^KKANJI_FAULT_SEED=(\d+)$", ended.stderr, re.MULTILINE)
    return int(ended.stdout), written


def test_an_injector_writes_the_seed_that_repeats_its_choices() -> None:
    chosen, seed = choose()
    assert choose(seed) == (chosen, seed)
    assert choose() != (chosen, seed)
