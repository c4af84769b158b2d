"""Counts of a run in progress, and attempts of its blocks, kept in one small Ray actor."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """How far a run is, in images."""

    generated: int = 0
    """Left an engine, whether or not written since."""
    failed: int = 0
    written: int = 0
    """Committed to storage, failed ones included."""


class RunMonitor:
    """Answers the driver's progress display and the engines' question how often a block was begun."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """Count one more attempt at a block or unit; returns its number, from 1."""
        self._attempts[name] += 1
        return self._attempts[name]

    def end(self, name: str) -> None:
        """Forget the attempts at a finished block or unit."""
        self._attempts.pop(name, None)

    def add(self, *, generated: int = 0, failed: int = 0, written: int = 0) -> None:
        """Add to the counts."""
        self._counts.update(generated=generated, failed=failed, written=written)

    def counts(self) -> RunCounts:
        """Return the counts so far."""
        return RunCounts(**self._counts)
