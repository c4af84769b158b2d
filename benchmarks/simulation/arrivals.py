"""Request arrival times: random, by time of day, in bursts, or from a file."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Extra requests for a while."""

    start_s: float
    duration_s: float
    per_s: float
    """In addition to all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests per second: ``per_s * (1 - swing * cos(2 pi t / day))``, lowest at midnight, and bursts."""

    duration_s: float
    per_s: float
    swing: float = 0.0
    """0 for a constant rate, 1 for none at midnight and twice the mean at noon."""
    bursts: tuple[Burst, ...] = ()

    def rate(self, time_s: float) -> float:
        """Return the requests per second at a time."""
        rate = self.per_s * (1 - self.swing * math.cos(2 * math.pi * time_s / DAY_S))
        return rate + sum(
            burst.per_s for burst in self.bursts if 0 <= time_s - burst.start_s < burst.duration_s
        )


def arrivals(traffic: Traffic, *, seed: int = 0) -> Iterator[float]:
    """Draw the times of independent requests, in order (thinning: Lewis and Shedler 1979)."""
    source = random.Random(seed)
    # Each interval is drawn at its own peak rate, so that a short burst does not slow down the whole day.
    edges = {0.0, traffic.duration_s}
    for burst in traffic.bursts:
        edges |= {burst.start_s, burst.start_s + burst.duration_s}
    ordered = sorted(edge for edge in edges if edge <= traffic.duration_s)
    for start_s, end_s in itertools.pairwise(ordered):
        yield from _thinned(traffic.rate, _bound(traffic, start_s), start_s, end_s, source)


def _bound(traffic: Traffic, start_s: float) -> float:
    active = sum(burst.per_s for burst in traffic.bursts if 0 <= start_s - burst.start_s < burst.duration_s)
    return traffic.per_s * (1 + traffic.swing) + active


def _thinned(
    rate: Callable[[float], float], bound: float, start_s: float, end_s: float, source: random.Random
) -> Iterator[float]:
    time_s = start_s
    while bound:
        time_s += source.expovariate(bound)
        if time_s >= end_s:
            return
        if source.random() * bound < rate(time_s):
            yield time_s


def read_arrivals(path: Path) -> Sequence[float]:
    """Read a trace: one time in seconds per line, in any order; the first becomes 0."""
    times = sorted(float(line) for line in path.read_text(encoding="utf-8").split())
    return [time - times[0] for time in times]
