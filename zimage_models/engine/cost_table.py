"""How many seconds work takes on one device, learned from what was measured."""

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)

_WINDOW = 9
"""Measurements whose median counts, so that a few slow ones among them change nothing."""
_MOST_ENTRIES = 256
_REFRESH = 16
"""Measurements after which predictions are made anew."""


@dataclass(slots=True)
class _Measured:
    log_work: float
    seconds: float
    is_first: bool = True
    """Whether only its first time was measured, which may include setting up."""
    window: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))


class CostTable(Generic[Kind]):
    """The seconds that amounts of work of several kinds take; any thread may use it.

    What was measured takes the median of its last times. Other amounts are predicted from the most similar
    measured one, of the same kind if there is one, as ``overhead + rate * amount``; the ratio of the two is
    fitted to all that was measured. A first time may include setting up (allocations, compilation), so until
    there is a second it counts only if it is below the prediction.
    """

    def __init__(self, *, guess_s: float) -> None:
        """Make an empty table.

        Args:
            guess_s: seconds for an amount of 1 while nothing is measured.
        """
        self._guess_s = guess_s
        self._lock = threading.Lock()
        self._table: OrderedDict[tuple[Kind, float], _Measured] = OrderedDict()
        self._predicted: dict[tuple[Kind, float], float] = {}
        self._overhead = 0.0
        self._num_recorded = 0

    def record(self, kind: Kind, work: float, seconds: float) -> None:
        """Record how many seconds an amount of work took; both are above 0."""
        key = kind, work
        with self._lock:
            entry = self._table.get(key)
            if entry is None:
                self._table[key] = _Measured(math.log(work), seconds)
                if len(self._table) > _MOST_ENTRIES:
                    self._table.popitem(last=False)
            else:
                entry.is_first = False
                entry.window.append(seconds)
                entry.seconds = sorted(entry.window)[len(entry.window) // 2]
                self._table.move_to_end(key)
            self._num_recorded += 1
            if entry is None or len(entry.window) == 1 or not self._num_recorded % _REFRESH:
                self._predicted.clear()
                self._overhead = _fit_overhead([one for one in self._table.values() if not one.is_first])

    def seconds(self, kind: Kind, work: float) -> float:
        """Return how many seconds an amount of work takes."""
        key = kind, work
        with self._lock:
            entry = self._table.get(key)
            if entry is not None and not entry.is_first:
                return entry.seconds
            predicted = self._predicted.get(key)
            if predicted is None:
                predicted = self._predict(kind, work, entry)
                self._predicted[key] = predicted
            return predicted

    def _predict(self, kind: Kind, work: float, first: _Measured | None) -> float:
        log_work = math.log(work)
        candidates = [
            (other != kind, abs(one.log_work - log_work), one)
            for (other, _), one in self._table.items()
            if not one.is_first
        ]
        if not candidates:
            return self._from_first_times(work)
        *_, nearest = min(candidates, key=lambda candidate: candidate[:2])
        scale = (self._overhead + work) / (self._overhead + math.exp(nearest.log_work))
        predicted = nearest.seconds * scale
        return min(predicted, first.seconds) if first else predicted

    def _from_first_times(self, work: float) -> float:
        rates = [one.seconds / math.exp(one.log_work) for one in self._table.values()]
        return work * min(rates, default=self._guess_s)


def _fit_overhead(measured: Sequence[_Measured]) -> float:
    """Fit ``seconds = overhead + rate * work`` by relative errors; return overhead / rate, at least 0."""
    works = [math.exp(one.log_work) for one in measured]
    if not works or max(works) < 1.5 * min(works):
        return 0.0
    # Least squares of 1 = overhead / seconds + rate * work / seconds.
    pairs = [(1 / one.seconds, work / one.seconds) for one, work in zip(measured, works, strict=True)]
    uu, uv, vv = (sum(p[i] * p[j] for p in pairs) for i, j in ((0, 0), (0, 1), (1, 1)))
    u, v = (sum(pair[i] for pair in pairs) for i in (0, 1))
    overhead, rate = u * vv - v * uv, v * uu - u * uv
    return overhead / rate if overhead > 0 and rate > 0 else 0.0
