"""Chance in tests, such as the moment of a kill: another one each run, and the same again by its seed."""

import os
import random

SEED_VARIABLE = "ZIMAGE_TEST_SEED"


def seeded_chance() -> random.Random:
    """Make a generator and print its seed, which pytest shows beside a failure; ``SEED_VARIABLE`` sets it."""
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))
    print(f"to repeat this run: {SEED_VARIABLE}={seed}")
    return random.Random(seed)
