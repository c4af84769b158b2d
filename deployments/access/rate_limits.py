"""Limits on each caller's request rate and concurrency. It knows nothing about HTTP or Ray."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

# A bucket is full again after a minute, so forgetting a caller that was idle longer changes nothing.
_IDLE_S = 60.0
_BUSY_RETRY_S = 1.0


class RateLimiter:
    """Admits requests by a token bucket, with bursts up to the limit per minute, and by how many run.

    Args:
        max_run_s: a request not released by then counts as lost with its replica; longer than any deadline.
        clock: monotonic, in seconds.
    """

    def __init__(self, *, max_run_s: float = 3600.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_run_s = max_run_s
        self._clock = clock
        self._callers: dict[str, _Caller] = {}
        self._swept_at = clock()

    @property
    def num_callers(self) -> int:
        """Number of callers remembered."""
        return len(self._callers)

    def acquire(self, name: str, requests_per_minute: int | None, max_concurrent: int | None) -> float | None:
        """Admit a request, which must be released when it ends; a limit of None is no limit.

        Returns:
            None if admitted, else the seconds until a retry may succeed. A refused request uses no tokens.
        """
        now = self._clock()
        self._forget_idle(now)
        caller = self._callers.setdefault(name, _Caller(seen_at=now))
        caller.drop_lost(now - self._max_run_s)
        if requests_per_minute is not None:
            refill = (now - caller.seen_at) * requests_per_minute / 60
            caller.tokens = min(caller.tokens + refill, requests_per_minute)
        caller.seen_at = now
        if max_concurrent is not None and len(caller.running_since) >= max_concurrent:
            return _BUSY_RETRY_S
        if requests_per_minute is not None:
            if caller.tokens < 1:
                return (1 - caller.tokens) * 60 / requests_per_minute
            caller.tokens -= 1
        caller.running_since.append(now)
        return None

    def release(self, name: str) -> None:
        """Release one admitted request; ignore an unknown one, as after a restart of the limiter."""
        caller = self._callers.get(name)
        if caller is not None and caller.running_since:
            caller.running_since.popleft()

    def _forget_idle(self, now: float) -> None:
        if now - self._swept_at < _IDLE_S:
            return
        self._swept_at = now
        for name, caller in list(self._callers.items()):
            caller.drop_lost(now - self._max_run_s)
            if not caller.running_since and now - caller.seen_at >= _IDLE_S:
                del self._callers[name]


@dataclass(slots=True, kw_only=True)
class _Caller:
    seen_at: float
    tokens: float = math.inf
    """Infinity means full, whatever the limit."""
    running_since: deque[float] = field(default_factory=deque)

    def drop_lost(self, started_before: float) -> None:
        while self.running_since and self.running_since[0] <= started_before:
            self.running_since.popleft()
