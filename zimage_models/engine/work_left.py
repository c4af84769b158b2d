"""The work of an engine's unfinished requests, and how many seconds it takes."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from zimage_models.engine.engine_costs import EngineCosts
from zimage_models.engine.job import Job
from zimage_models.engine.step_scheduler import Bucket, Entry


@dataclass(slots=True)
class _Line:
    """The open requests of one priority and bucket."""

    steps_left: Counter[int] = field(default_factory=Counter)
    """Number of images by the steps still to compute; those that need none are to be decoded."""
    to_encode: Counter[int] = field(default_factory=Counter)
    """Number of images whose prompts are not encoded yet, by their pictures."""


class WorkLeft:
    """Knows what is left to do, bucket by bucket; any thread may ask how long it takes.

    It is kept up to date as requests come, step and go, so asking takes a time that grows with the number of
    buckets and of different numbers of steps, not of requests. A guided step counts as one with guidance to
    its end, so requests with ``cfg_truncation`` below 1 end earlier than expected. A step that reuses an
    earlier one counts with the computed one after it, whose time includes it.
    """

    def __init__(self, costs: EngineCosts, *, capacity: Callable[[Bucket], int]) -> None:
        """Start without work.

        Args:
            costs: what the work costs.
            capacity: how many images of a bucket share a step at most.
        """
        self._costs = costs
        self._capacity = capacity
        self._lock = threading.Lock()
        self._lines: defaultdict[int, dict[Bucket, _Line]] = defaultdict(dict)
        self._running: tuple[int, float, float] | None = None
        """Priority, beginning and expected seconds of what the engine is doing."""

    def add(self, entry: Entry[Job]) -> None:
        """Add a new request; any thread may call this, but `begin` to `remove` only the engine's."""
        with self._lock:
            line = self._lines[entry.priority].setdefault(entry.bucket, _Line())
            line.steps_left[entry.payload.state.num_left] += 1
            line.to_encode[entry.payload.num_pictures] += 1

    def begin(self, priority: int, seconds: float) -> None:
        """Note that the engine begins something of so many seconds; one of the methods below ends it."""
        with self._lock:
            self._running = priority, time.monotonic(), seconds

    def encoded(self, entries: Sequence[Entry[Job]]) -> None:
        """Note that requests were encoded."""
        with self._lock:
            self._running = None
            for entry in entries:
                _subtract(self._line(entry).to_encode, entry.payload.num_pictures)

    def stepped(self, entries: Sequence[Entry[Job]]) -> None:
        """Note that images have just made a step."""
        with self._lock:
            self._running = None
            for entry in entries:
                steps_left, num_left = self._line(entry).steps_left, entry.payload.state.num_left
                _subtract(steps_left, num_left + 1)
                steps_left[num_left] += 1

    def remove(self, entry: Entry[Job]) -> None:
        """Remove a request that is done or dropped."""
        with self._lock:
            self._running = None
            line = self._line(entry)
            _subtract(line.steps_left, entry.payload.state.num_left)
            if entry.payload.state.canvas is None:
                _subtract(line.to_encode, entry.payload.num_pictures)
            if not line.steps_left:
                del self._lines[entry.priority][entry.bucket]

    def seconds(self, priority: int) -> float:
        """Return how many seconds the work of a priority takes, with that of the priorities before it."""
        with self._lock:
            left_s = sum(
                self._line_s(bucket, line)
                for number, lines in self._lines.items()
                if number <= priority
                for bucket, line in lines.items()
            )
            if self._running is None:
                return left_s
            running, began_s, expected_s = self._running
            done_s = min(time.monotonic() - began_s, expected_s)
            # What a lower priority has begun is waited for, too.
            return max(0.0, left_s - done_s if running <= priority else left_s + expected_s - done_s)

    def _line(self, entry: Entry[Job]) -> _Line:
        return self._lines[entry.priority][entry.bucket]

    def _line_s(self, bucket: Bucket, line: _Line) -> float:
        num_images = line.steps_left.total()
        num_item_steps = sum(steps * number for steps, number in line.steps_left.items())
        seconds = num_images * self._costs.decoding_s(bucket.height, bucket.width)
        for num_pictures, number in line.to_encode.items():
            seconds += number * self._costs.encoding_s(num_pictures)
        if num_item_steps:
            # Steps have as many images as there are, or as they hold, but the longest image needs all of its.
            num_steps = max(max(line.steps_left), -(-num_item_steps // self._capacity(bucket)))
            size, num_larger = divmod(num_item_steps, num_steps)
            seconds += (num_steps - num_larger) * self._costs.step_s(bucket, size)
            if num_larger:
                seconds += num_larger * self._costs.step_s(bucket, size + 1)
        return seconds


def _subtract(counter: Counter[int], key: int) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
