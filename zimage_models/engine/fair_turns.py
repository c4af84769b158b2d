"""Deficit round robin: who has the device next, so that all get equal shares of its time.

The algorithm is that of M. Shreedhar and G. Varghese, "Efficient Fair Queueing Using Deficit Round Robin"
(SIGCOMM 1995): at each turn a key gets a quantum of credit, pays for its steps with it, and keeps what does
not suffice for another step. Beyond that, a key that has just come overtakes those that wait for another
turn, so that a short request waits for one turn, not for a round of them. But no two newcomers in a row
overtake, so they take no more than half the device from the others, however many come.
"""

from collections import deque
from collections.abc import Callable, Hashable
from itertools import count
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class FairTurns(Generic[Key]):
    """The keys that want the device, and the credit of each."""

    def __init__(self) -> None:
        self._credits: dict[Key, float] = {}
        self._holder: Key | None = None
        # Each with the number of its coming, so that it is known who has waited longer.
        self._ring: deque[tuple[int, Key]] = deque()
        self._newcomers: deque[tuple[int, Key]] = deque()
        self._numbers = count()
        self._newcomer_was_last = False

    def add(self, key: Key) -> None:
        """Add a key, which must not be there yet."""
        self._credits[key] = 0.0
        self._newcomers.append((next(self._numbers), key))

    def remove(self, key: Key) -> None:
        """Remove a key and its credit; it must be there."""
        del self._credits[key]
        if key == self._holder:
            self._holder = None
        for waiting in (self._ring, self._newcomers):
            for place, (_, other) in enumerate(waiting):
                if other == key:
                    del waiting[place]
                    return

    def choose(self, price: Callable[[Key], float], quantum: float) -> Key:
        """Choose a key for the next step and charge it; there must be one.

        Args:
            price: what the next step of a key costs, above 0.
            quantum: the credit of one turn; if somebody's step costs no more, the choice takes one round.
        """
        while True:
            if self._holder is None:
                self._holder = self._next()
                self._credits[self._holder] += quantum
            cost = price(self._holder)
            # Prices are estimates, so they change. Credit from a time of higher prices is worth less now.
            credit = min(self._credits[self._holder], cost + quantum)
            if credit >= cost:
                self._credits[self._holder] = credit - cost
                return self._holder
            self._ring.append((next(self._numbers), self._holder))
            self._holder = None

    def _next(self) -> Key:
        if self._ring and self._newcomers:
            is_overtaking = self._newcomers[0][0] > self._ring[0][0]
            self._newcomer_was_last = not (is_overtaking and self._newcomer_was_last)
        else:
            self._newcomer_was_last = bool(self._newcomers)
        return (self._newcomers if self._newcomer_was_last else self._ring).popleft()[1]
