"""Counts of a run in progress and of attempts at its blocks, kept in one small Ray actor."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """Progress of a run, in images."""

    generated: int = 0
    """Images that left an engine, written or not."""
    failed: int = 0
    written: int = 0
    """Images committed to storage, including failed ones."""


class RunMonitor:
    """Keeps the counts for the driver's progress display, and how often each block was started."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """Count one more attempt at a block or unit, and return its number, from 1."""
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
