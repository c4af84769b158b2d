"""Choose the requests that share the next denoising step. It is plain Python without tensors or threads.

The first request in line, by priority and then by arrival, sets the bucket of the step. Other requests of the
same bucket fill it up in order, to at most ``max_step_tokens``. Requests of a lower priority do not join,
because they would make the step longer for the first. A request that is left out keeps its place and its
latents.

If the first request of a lower priority has been left out for ``ageing_s``, it sets the bucket once. So every
request finishes in the end, but a lower priority costs a higher one at most one step in that time, however
long its line.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import chain, islice
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The properties that all items of one step share, so that they need no attention mask."""

    height: int
    width: int
    caption_tokens: int
    """Padded caption length of the positive prompt."""
    negative_tokens: int
    """Padded caption length of the negative prompt; 0 without guidance."""
    reference_tokens: int = 0
    """Padded tokens of the images that the model reads."""
    feature_tokens: int = 0
    """Padded tokens of their features."""
    controlled: bool = False
    """Whether a ControlNet runs with the transformer."""


@dataclass(slots=True, kw_only=True, eq=False)
class Entry(Generic[Payload]):
    """A request in the scheduler."""

    priority: int
    """Priority; smaller numbers go first."""
    arrival: int
    """Unique number; smaller ones go first."""
    bucket: Bucket
    num_step_tokens: int
    """Transformer tokens that one step of this request takes; the same for all requests of one bucket."""
    payload: Payload


def _order(entry: Entry[Payload]) -> tuple[int, int]:
    return entry.priority, entry.arrival


def _arrival(entry: Entry[Payload]) -> int:
    return entry.arrival


class StepScheduler(Generic[Payload]):
    """Keeps requests in order and picks the batch of each step.

    The time to pick a batch grows with the number of buckets and the batch's size, not with the number of
    requests.
    """

    def __init__(self, *, max_step_tokens: int, ageing_s: float) -> None:
        self.max_step_tokens = max_step_tokens
        self.num_preemptions = 0
        self._ageing_s = ageing_s
        # By priority, then by bucket; each line is in order of arrival and never empty.
        self._lines: dict[int, dict[Bucket, list[Entry[Payload]]]] = {}
        self._num_entries = 0
        self._last_batch: list[Entry[Payload]] = []
        self._left_out_since_s: float | None = None

    def __len__(self) -> int:
        return self._num_entries

    def __iter__(self) -> Iterator[Entry[Payload]]:
        """Iterate over the requests in line, first come first."""
        return merge(*(line for lines in self._lines.values() for line in lines.values()), key=_order)

    def add(self, entry: Entry[Payload]) -> None:
        """Put a request in line."""
        line = self._lines.setdefault(entry.priority, {}).setdefault(entry.bucket, [])
        insort(line, entry, key=_arrival)
        self._num_entries += 1

    def remove(self, entry: Entry[Payload]) -> None:
        """Remove a request from the line; it must be there."""
        lines = self._lines[entry.priority]
        line = lines[entry.bucket]
        del line[bisect_left(line, entry.arrival, key=_arrival)]
        if not line:
            del lines[entry.bucket]
        if not lines:
            del self._lines[entry.priority]
        self._num_entries -= 1
        if entry in self._last_batch:
            self._last_batch.remove(entry)

    def schedule(self, now_s: float) -> list[Entry[Payload]]:
        """Pick the requests of the next step.

        Args:
            now_s: a monotonic time in seconds.
        """
        if not self._lines:
            return []
        first, *lower = (self._first(priority) for priority in sorted(self._lines))
        head = self._aged(lower, now_s) or first
        batch = self._fill(head)
        self._count_preemptions(batch)
        if not lower or lower[0] in batch:
            self._left_out_since_s = None
        elif self._left_out_since_s is None:
            self._left_out_since_s = now_s
        return batch

    def _first(self, priority: int) -> Entry[Payload]:
        return min((line[0] for line in self._lines[priority].values()), key=_arrival)

    def _aged(self, lower: list[Entry[Payload]], now_s: float) -> Entry[Payload] | None:
        if not lower or self._left_out_since_s is None or now_s - self._left_out_since_s < self._ageing_s:
            return None
        return lower[0]

    def _fill(self, head: Entry[Payload]) -> list[Entry[Payload]]:
        capacity = max(1, self.max_step_tokens // head.num_step_tokens)
        lines = (
            self._lines[priority].get(head.bucket, [])
            for priority in sorted(self._lines)
            if priority <= head.priority
        )
        others = (entry for entry in chain.from_iterable(lines) if entry is not head)
        return [head, *islice(others, capacity - 1)]

    def _count_preemptions(self, batch: list[Entry[Payload]]) -> None:
        """Count the unfinished requests of the last step that this one leaves out."""
        chosen = set(batch)
        self.num_preemptions += sum(entry not in chosen for entry in self._last_batch)
        self._last_batch = list(batch)
