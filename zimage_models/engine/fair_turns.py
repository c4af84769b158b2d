"""Deficit round robin: who has the device next, so that all get equal shares of its time.

The algorithm is that of M. Shreedhar and G. Varghese, "Efficient Fair Queueing Using Deficit Round Robin"
(SIGCOMM 1995): at each turn a key gets a quantum of credit, pays for its steps with it, and keeps what does
not suffice for another step. A key that has just come waits for a round of the others, so it has fuller steps
when its turn comes. The shares are equal among keys that stay: one that goes and comes again, or is always
new, has at most a turn in each round.
"""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class FairTurns(Generic[Key]):
    """The keys that want the device, and the credit of each."""

    def __init__(self) -> None:
        self._credits: dict[Key, float] = {}
        self._holder: Key | None = None
        self._waiting: deque[Key] = deque()

    def add(self, key: Key) -> None:
        """Add a key, which must not be there yet."""
        self._credits[key] = 0.0
        self._waiting.append(key)

    def remove(self, key: Key) -> None:
        """Remove a key and its credit; it must be there."""
        del self._credits[key]
        if key == self._holder:
            self._holder = None
        else:
            self._waiting.remove(key)

    def choose(self, price: Callable[[Key], float], quantum: float) -> Key:
        """Choose a key for the next step and charge it; there must be one.

        Args:
            price: what the next step of a key costs, above 0.
            quantum: the credit of one turn; if somebody's step costs no more, the choice takes one round.
        """
        while True:
            if self._holder is None:
                self._holder = self._waiting.popleft()
                self._credits[self._holder] += quantum
            cost = price(self._holder)
            # Prices are estimates, so they change. Credit from a time of higher prices is worth less now.
            credit = min(self._credits[self._holder], cost + quantum)
            if credit >= cost:
                self._credits[self._holder] = credit - cost
                return self._holder
            self._waiting.append(self._holder)
            self._holder = None
