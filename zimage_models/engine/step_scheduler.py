"""Choose the requests that share the next denoising step. It is plain Python without tensors or threads.

The highest priority steps. Its buckets share the device by what their steps cost, in turns
(:mod:`.fair_turns`), so a small image does not wait for a large one to end. Within a bucket, requests fill
the step in order of arrival, to at most ``max_step_tokens``; so a new one joins its bucket's next step.
Requests of a lower priority do not join, because they would make the step longer for the others. A request
that is left out keeps its place and its tensors. So as many images are in memory at once as all buckets'
steps hold together, and those whose prompts were encoded ahead. Each has its latents (1 MiB of a 1024 x 1024
image), its refined captions and what it is made from; reference and control images weigh most, and what its
last step added, if the next one reuses it (30 MiB, twice that with guidance).

If the first request of a lower priority has been left out for ``ageing_s``, it sets the bucket once. So every
request finishes in the end, but a lower priority costs a higher one at most one step in that time, however
long its line.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import chain, islice
from typing import Generic, TypeVar

from zimage_models.engine.fair_turns import FairTurns

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
    num_tokens: int
    """Transformer tokens that one step of one image takes; with guidance, those of both forwards."""

    @property
    def sequence_tokens(self) -> int:
        """Tokens that attend to each other, about: half of them with guidance."""
        return self.num_tokens // 2 if self.negative_tokens else self.num_tokens


@dataclass(slots=True, kw_only=True, eq=False)
class Entry(Generic[Payload]):
    """A request in the scheduler."""

    priority: int
    """Priority; smaller numbers go first."""
    arrival: int
    """Unique number; smaller ones go first."""
    bucket: Bucket
    payload: Payload


def count_tokens(bucket: Bucket, num_images: int) -> float:
    """Count the tokens of a step, a measure of its cost that needs no device."""
    return float(bucket.num_tokens * num_images)


def _order(entry: Entry[Payload]) -> tuple[int, int]:
    return entry.priority, entry.arrival


def _arrival(entry: Entry[Payload]) -> int:
    return entry.arrival


class StepScheduler(Generic[Payload]):
    """Keeps requests in order and picks the batch of each step.

    The time to pick a batch grows with the number of buckets and the batch's size, not with the number of
    requests.
    """

    def __init__(
        self,
        *,
        max_step_tokens: int,
        ageing_s: float,
        step_cost: Callable[[Bucket, int], float] = count_tokens,
    ) -> None:
        """Make an empty line.

        Args:
            max_step_tokens: limit on the tokens of a step; one image always runs.
            ageing_s: seconds without a step after which the first of a lower priority has one.
            step_cost: what a step of that many images of a bucket costs, above 0, in any unit.
        """
        self.max_step_tokens = max_step_tokens
        self.num_preemptions = 0
        self._ageing_s = ageing_s
        self._step_cost = step_cost
        # By priority, then by bucket; each line is in order of arrival and never empty.
        self._lines: dict[int, dict[Bucket, list[Entry[Payload]]]] = {}
        self._turns: defaultdict[int, FairTurns[Bucket]] = defaultdict(FairTurns)
        self._num_entries = 0
        self._last_batch: list[Entry[Payload]] = []
        self._left_out_since_s: float | None = None

    def __len__(self) -> int:
        return self._num_entries

    def __iter__(self) -> Iterator[Entry[Payload]]:
        """Iterate over the requests by priority, then in order of arrival."""
        return merge(*(line for lines in self._lines.values() for line in lines.values()), key=_order)

    def add(self, entry: Entry[Payload]) -> None:
        """Put a request in line."""
        lines = self._lines.setdefault(entry.priority, {})
        if entry.bucket not in lines:
            lines[entry.bucket] = []
            self._turns[entry.priority].add(entry.bucket)
        insort(lines[entry.bucket], entry, key=_arrival)
        self._num_entries += 1

    def remove(self, entry: Entry[Payload]) -> None:
        """Remove a request from the line; it must be there."""
        lines = self._lines[entry.priority]
        line = lines[entry.bucket]
        del line[bisect_left(line, entry.arrival, key=_arrival)]
        if not line:
            del lines[entry.bucket]
            self._turns[entry.priority].remove(entry.bucket)
        if not lines:
            del self._lines[entry.priority]
        self._num_entries -= 1
        if entry in self._last_batch:
            self._last_batch.remove(entry)

    def capacity(self, bucket: Bucket) -> int:
        """Return how many images of a bucket a step holds at most."""
        return max(1, self.max_step_tokens // bucket.num_tokens)

    def schedule(self, now_s: float) -> list[Entry[Payload]]:
        """Pick the requests of the next step.

        Args:
            now_s: a monotonic time in seconds.
        """
        if not self._lines:
            return []
        highest, *others = sorted(self._lines)
        lower = self.oldest(others[0]) if others else None
        if lower is not None and self._is_aged(now_s):
            head = lower
        else:
            head = self._lines[highest][self.choose_bucket(highest)][0]
        batch = self._fill(head)
        self._count_preemptions(batch)
        if lower is None or lower in batch:
            self._left_out_since_s = None
        elif self._left_out_since_s is None:
            self._left_out_since_s = now_s
        return batch

    def choose_bucket(self, priority: int) -> Bucket:
        """Choose which of a priority's buckets has the next step; there must be one."""
        lines = self._lines[priority]
        # A turn is worth about one full step, so the choice does not take long, and a large image whose step
        # costs more waits for several turns.
        quantum = min(self._step_cost(bucket, self.capacity(bucket)) for bucket in lines)
        return self._turns[priority].choose(
            lambda bucket: self._step_cost(bucket, min(self.capacity(bucket), len(lines[bucket]))), quantum
        )

    def next_in_line(self, priority: int) -> Iterator[Entry[Payload]]:
        """Iterate over what a step of each bucket would hold, up to a priority, in order of arrival."""
        return merge(
            *(
                islice(line, self.capacity(bucket))
                for number, lines in self._lines.items()
                if number <= priority
                for bucket, line in lines.items()
            ),
            key=_order,
        )

    def oldest(self, priority: int) -> Entry[Payload]:
        """Return the first request of a priority; there must be one."""
        return min((line[0] for line in self._lines[priority].values()), key=_arrival)

    def _is_aged(self, now_s: float) -> bool:
        return self._left_out_since_s is not None and now_s - self._left_out_since_s >= self._ageing_s

    def _fill(self, head: Entry[Payload]) -> list[Entry[Payload]]:
        lines = (
            self._lines[priority].get(head.bucket, [])
            for priority in sorted(self._lines)
            if priority <= head.priority
        )
        others = (entry for entry in chain.from_iterable(lines) if entry is not head)
        return [head, *islice(others, self.capacity(head.bucket) - 1)]

    def _count_preemptions(self, batch: list[Entry[Payload]]) -> None:
        """Count the unfinished requests of the last step that this one leaves out for another priority."""
        chosen, priority = set(batch), batch[0].priority
        self.num_preemptions += sum(
            entry.priority != priority and entry not in chosen for entry in self._last_batch
        )
        self._last_batch = list(batch)
