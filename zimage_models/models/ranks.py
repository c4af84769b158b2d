"""The interface between the models and the ranks that run them: the functions all ranks run together.

Rank 0 is the engine's own process and decides; what it calls also runs on the others with the same tensors.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from torch import Tensor

Forward = Callable[..., Tensor]
"""A function from tensors to a tensor; it does not change its inputs, so it can be run again."""


class Verb(IntEnum):
    """What the ranks can run together."""

    STOP = 0
    ENCODE = 1
    REFINE = 2
    TOKENS = 3
    FEATURES = 4


class Ranks(Protocol):
    """One rank's view of all ranks."""

    num_rebuilds: int
    """Number of times that lost ranks were replaced."""

    def together(self, verb: Verb, forward: Forward) -> Forward:
        """Return a forward that all ranks run at once, each with its share of the model.

        On rank 0, each call is announced to the other ranks, which have registered the same verb.
        """
        ...

    def close(self) -> None:
        """End the other ranks."""


class OneRank:
    """The only rank: forwards do not change."""

    num_rebuilds = 0

    def together(self, verb: Verb, forward: Forward) -> Forward:
        """Return the forward itself."""
        return forward

    def close(self) -> None:
        """Do nothing."""
