"""The seam between the models and the ranks that run them: which functions all ranks run together.

Rank 0 lives in the engine's own process and decides; what it calls runs on the others with the same tensors.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from torch import Tensor

Forward = Callable[..., Tensor]
"""From tensors to a tensor; it leaves its inputs as they are, so it can be run again."""


class Verb(IntEnum):
    """What the ranks run together."""

    STOP = 0
    ENCODE = 1
    REFINE = 2
    VELOCITY = 3
    FEATURES = 4


class Ranks(Protocol):
    """One rank's view of all of them."""

    num_rebuilds: int
    """Times lost ranks were replaced."""

    def together(self, verb: Verb, forward: Forward) -> Forward:
        """Make a forward of this rank's share of a model one that all ranks run at once.

        On rank 0 the result announces each call to the other ranks, which have given the same verb.
        """
        ...

    def close(self) -> None:
        """End the other ranks."""


class OneRank:
    """No others: a forward is run as it is."""

    num_rebuilds = 0

    def together(self, verb: Verb, forward: Forward) -> Forward:
        """Return the forward itself."""
        return forward

    def close(self) -> None:
        """Do nothing."""
