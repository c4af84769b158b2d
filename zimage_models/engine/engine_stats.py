"""Counters and speeds of one engine."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from zimage_models.errors import Cancelled, ZImageError
from zimage_models.requests import ImageResult

_WINDOW = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """One engine's state and speed, with counts since its start."""

    num_open: int
    """Requests waiting or running."""
    num_online: int
    """Online requests among them."""
    num_images: int
    num_failed: int
    num_cancelled: int
    num_steps: int
    """Step batches run."""
    num_item_steps: int
    """Computed steps summed over all images."""
    num_preemptions: int
    num_caption_hits: int
    num_caption_misses: int
    step_s: float
    """Mean time of the last step batches, in seconds."""
    images_per_s: float
    """Speed while busy, over the last step batches."""
    queue_s: float
    """Estimated seconds until the online requests of now are done: their work left, at the speed measured."""
    memory_bytes: int
    """Peak memory of the accelerator, or of the process if there is none; with several ranks, rank 0's."""
    num_rebuilds: int = 0
    """Number of times that the ranks of a divided engine were replaced because one was lost."""
    num_compiled: int = 0
    """Graphs compiled, or loaded as compiled, by the engine's process: no more of them after the warm-up."""


class StatsCollector:
    """Collects what the engine's thread records; any thread may read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_images = self._num_failed = self._num_cancelled = 0
        self._num_steps = self._num_item_steps = 0
        self._steps: deque[tuple[float, float]] = deque(maxlen=_WINDOW)

    def record_step(self, duration_s: float, step_counts: Sequence[int]) -> None:
        """Record one step batch: its time in seconds, and the computed steps of each image in it."""
        with self._lock:
            self._num_steps += 1
            self._num_item_steps += len(step_counts)
            self._steps.append((duration_s, sum(1 / num_steps for num_steps in step_counts)))

    def record_outcome(self, outcome: ImageResult | ZImageError) -> None:
        """Count one request as made, cancelled or failed."""
        with self._lock:
            if isinstance(outcome, ImageResult):
                self._num_images += 1
            elif isinstance(outcome, Cancelled):
                self._num_cancelled += 1
            else:
                self._num_failed += 1

    def report(
        self,
        *,
        num_open: int,
        num_online: int,
        queue_s: float,
        num_preemptions: int,
        num_caption_hits: int,
        num_caption_misses: int,
        memory_bytes: int,
        num_rebuilds: int = 0,
        num_compiled: int = 0,
    ) -> EngineStats:
        """Report what was recorded, together with the engine's own counts."""
        with self._lock:
            return EngineStats(
                num_open=num_open,
                num_online=num_online,
                num_images=self._num_images,
                num_failed=self._num_failed,
                num_cancelled=self._num_cancelled,
                num_steps=self._num_steps,
                num_item_steps=self._num_item_steps,
                num_preemptions=num_preemptions,
                num_caption_hits=num_caption_hits,
                num_caption_misses=num_caption_misses,
                step_s=self._busy_s() / len(self._steps) if self._steps else 0.0,
                images_per_s=self._images_per_s(),
                queue_s=queue_s,
                memory_bytes=memory_bytes,
                num_rebuilds=num_rebuilds,
                num_compiled=num_compiled,
            )

    def _images_per_s(self) -> float:
        busy_s = self._busy_s()
        return sum(images for _, images in self._steps) / busy_s if busy_s else 0.0

    def _busy_s(self) -> float:
        return sum(duration_s for duration_s, _ in self._steps)
