"""How many seconds work takes on one device, learned from what was measured."""

import math
import threading
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)

_WINDOW = 9
"""Measurements whose median counts, so that a few slow ones among them change nothing."""
_MOST_ENTRIES = 256
_WARM_UP = 64
"""Measurements after each of which the fit is made anew."""
_REFRESH = 16
"""Later, it is made anew once in so many."""


@dataclass(slots=True, eq=False)
class _Measured:
    work: float
    log_work: float
    seconds: float
    window: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))


def _log_work(measured: _Measured) -> float:
    return measured.log_work


class CostTable(Generic[Kind]):
    """The seconds that amounts of work of several kinds take; any thread may use it.

    What was measured takes the median of its last times. Other amounts are predicted from the most similar
    measured one, of the same kind if there is one, scaled in proportion to ``overhead + work``; the overhead,
    in units of work, is fitted to all that was measured. A first time may include setting up (allocations,
    compilation), so until there is a second it counts only if it is below the prediction. For the same
    reason, the median of an even number of times is the lower of the middle two.
    """

    def __init__(self, *, guess_s: float) -> None:
        """Make an empty table.

        Args:
            guess_s: seconds for an amount of 1 while nothing is measured.
        """
        self._guess_s = guess_s
        self._lock = threading.Lock()
        self._table: OrderedDict[tuple[Kind, float], _Measured] = OrderedDict()
        # What was measured more than once, in order of work: all of it, and that of each kind.
        self._repeated: list[_Measured] = []
        self._by_kind: dict[Kind, list[_Measured]] = {}
        self._least_first_rate: float | None = None
        self._overhead = 0.0
        self._num_recorded = 0

    def record(self, kind: Kind, work: float, seconds: float) -> None:
        """Record how many seconds an amount of work took; both are above 0."""
        key = kind, work
        with self._lock:
            entry = self._table.get(key)
            if entry is None:
                entry = self._table[key] = _Measured(work, math.log(work), seconds)
                rate = seconds / work
                self._least_first_rate = min(rate, self._least_first_rate or rate)
                if len(self._table) > _MOST_ENTRIES:
                    self._forget_oldest()
            self._table.move_to_end(key)
            entry.window.append(seconds)
            entry.seconds = sorted(entry.window)[(len(entry.window) - 1) // 2]
            if len(entry.window) == 2:
                insort(self._repeated, entry, key=_log_work)
                insort(self._by_kind.setdefault(kind, []), entry, key=_log_work)
            self._num_recorded += 1
            if self._num_recorded <= _WARM_UP or not self._num_recorded % _REFRESH:
                self._overhead = _fit_overhead(self._repeated)

    def seconds(self, kind: Kind, work: float) -> float:
        """Return how many seconds an amount of work takes."""
        with self._lock:
            entry = self._table.get((kind, work))
            if entry is None:
                return self._predict(kind, work)
            if len(entry.window) > 1:
                return entry.seconds
            return min(self._predict(kind, work), entry.seconds)

    def _predict(self, kind: Kind, work: float) -> float:
        line = self._by_kind.get(kind) or self._repeated
        if not line:
            return work * (self._least_first_rate or self._guess_s)
        log_work = math.log(work)
        place = bisect_left(line, log_work, key=_log_work)
        nearest = min(line[max(0, place - 1) : place + 1], key=lambda one: abs(one.log_work - log_work))
        return nearest.seconds * (self._overhead + work) / (self._overhead + nearest.work)

    def _forget_oldest(self) -> None:
        (kind, _), entry = self._table.popitem(last=False)
        if len(entry.window) > 1:
            self._repeated.remove(entry)
            self._by_kind[kind].remove(entry)
            if not self._by_kind[kind]:
                del self._by_kind[kind]


def _fit_overhead(measured: Sequence[_Measured]) -> float:
    """Fit ``seconds = overhead + rate * work`` by relative errors; return overhead / rate, at least 0."""
    if not measured or measured[-1].work < 1.5 * measured[0].work:
        return 0.0
    # Least squares of 1 = overhead / seconds + rate * work / seconds.
    pairs = [(1 / one.seconds, one.work / one.seconds) for one in measured]
    uu, uv, vv = (sum(p[i] * p[j] for p in pairs) for i, j in ((0, 0), (0, 1), (1, 1)))
    u, v = (sum(pair[i] for pair in pairs) for i in (0, 1))
    overhead, rate = u * vv - v * uv, v * uu - u * uv
    return overhead / rate if overhead > 0 and rate > 0 else 0.0
