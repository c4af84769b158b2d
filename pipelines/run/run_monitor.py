"""Counts and speed of a run in progress and attempts at its blocks, kept in one small Ray actor."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from zimage_models.errors import InvalidRequest

MAX_REFUSALS = 10
"""Number of engines in a row that may not be made, without an image meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """Progress of a run, in images, and its speed."""

    generated: int = 0
    """Images that left an engine, written or not."""
    failed: int = 0
    written: int = 0
    """Images committed to storage, including failed ones."""
    generate_s: float = 0.0
    """Time from the end of the first block to the end of the last one so far, so without start-up."""
    images_per_s: float = 0.0
    """Images written after the first block, over ``generate_s``; 0 while there is only one block."""

    def left_s(self, num_images: int) -> float | None:
        """Return the time that the rest of a run of so many images takes at this speed, if one is known."""
        if not self.images_per_s:
            return None
        return round(max(0, num_images - self.written) / self.images_per_s, 1)


class RunMonitor:
    """Keeps the counts for the driver's progress display, and how often each block was started.

    It is the only clock of the run's speed, so that progress, manifest and final report tell the same.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._first: tuple[float, int] | None = None
        self._last_s = 0.0
        self._refusal: InvalidRequest | None = None
        self._num_refusals = 0

    def begin(self, name: str) -> int:
        """Count one more attempt at a block or unit, and return its number, from 1."""
        self._attempts[name] += 1
        return self._attempts[name]

    def end(self, name: str) -> None:
        """Forget the attempts at a finished block or unit."""
        self._attempts.pop(name, None)

    def add(self, *, generated: int = 0, failed: int = 0, written: int = 0) -> None:
        """Add to the counts; ``written`` are the images of one finished block."""
        self._counts.update(generated=generated, failed=failed, written=written)
        if generated:
            self._num_refusals = 0
        if written:
            self._last_s = self._clock()
            self._first = self._first or (self._last_s, written)

    def refuse(self, error: InvalidRequest) -> bool:
        """Count an engine that could not be made; return whether that ends the run.

        It does if no engine has made an image yet. Later, what an engine lacks may come back, such as the
        memory that a dead one still holds; but not if nothing is made any more.
        """
        # Kept, as Ray would give the driver only a traceback, as text.
        self._refusal = error
        self._num_refusals += 1
        return not self._counts["generated"] or self._num_refusals >= MAX_REFUSALS

    def refusal(self) -> InvalidRequest | None:
        """Return why no engine can be made, if an engine said so."""
        return self._refusal

    def counts(self) -> RunCounts:
        """Return the counts and the speed so far."""
        first_s, num_first = self._first or (0.0, 0)
        generate_s = self._last_s - first_s
        num_after = self._counts["written"] - num_first
        return RunCounts(
            **self._counts,
            generate_s=round(generate_s, 3),
            images_per_s=round(num_after / generate_s, 3) if generate_s else 0.0,
        )
