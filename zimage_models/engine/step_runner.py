"""Runs one step of a batch, or decodes it, and measures it; in smaller parts when memory runs out."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
import torch

from zimage_models.engine.engine_costs import EngineCosts
from zimage_models.engine.job import Job
from zimage_models.engine.request_handle import PreviewEvent
from zimage_models.engine.step_scheduler import Entry, StepScheduler
from zimage_models.engine.work_left import WorkLeft
from zimage_models.errors import GenerationFailed, OutOfMemory
from zimage_models.models.device_memory import release_cached
from zimage_models.models.model_runner import ModelRunner
from zimage_models.models.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

_ENCODE_AHEAD = 32
"""At most so many requests have their prompts encoded together with a step's."""


class StepRunner:
    """Runs what the scheduler has picked; only the engine's thread uses it."""

    def __init__(
        self, runner: ModelRunner, scheduler: StepScheduler[Job], costs: EngineCosts, work: WorkLeft
    ) -> None:
        """Run batches of a scheduler's entries.

        Args:
            runner: the models.
            scheduler: says whose prompts to encode ahead; its token limit shrinks to what memory holds.
            costs: gets what was measured.
            work: is told what was done.
        """
        self._runner = runner
        self._scheduler = scheduler
        self._costs = costs
        self._work = work
        self._measuring: deque[tuple[Stopwatch, Callable[[float], None]]] = deque()

    def denoise(
        self, batch: Sequence[Entry[Job]], num_ahead: int = _ENCODE_AHEAD
    ) -> list[tuple[Entry[Job], OutOfMemory | None]]:
        """Step a batch, halving it when memory runs out.

        Returns:
            Each entry with the reason why it made no step, if so.
        """
        problem = self._try_step(batch, num_ahead)
        if problem is None:
            self._work.stepped(batch)
            for entry in batch:
                self._preview(entry.payload)
            return [(entry, None) for entry in batch]
        release_cached(self._runner.device)
        if num_ahead and any(entry.payload.state.canvas is None for entry in batch):
            # The prompts encoded ahead may have used the memory, not the step.
            return self.denoise(batch, 0)
        size = batch[0].payload.size
        if len(batch) == 1:
            return [(batch[0], OutOfMemory(f"out of memory on one {size} image ({problem})"))]
        middle = len(batch) // 2
        limit = (len(batch) - middle) * batch[0].bucket.num_tokens
        if limit < self._scheduler.max_step_tokens:
            logger.warning(
                "out of memory at %d images of %s: steps now have at most %d tokens", len(batch), size, limit
            )
            self._scheduler.max_step_tokens = limit
        return [outcome for half in (batch[:middle], batch[middle:]) for outcome in self.denoise(half, 0)]

    def decode(self, batch: Sequence[Entry[Job]]) -> list[npt.NDArray[np.uint8] | GenerationFailed]:
        """Decode finished images of one bucket, one by one if memory runs out."""
        bucket, num_images = batch[0].bucket, len(batch)
        sides = bucket.height, bucket.width
        self._work.begin(batch[0].priority, num_images * self._costs.decoding_s(*sides))
        try:
            stopwatch = Stopwatch(self._runner.device)
            outcomes = self._runner.decode([entry.payload.state for entry in batch])
            self._measured(stopwatch, lambda s: self._costs.record_decoding(*sides, num_images, s))
            return list(outcomes)
        except torch.OutOfMemoryError as error:
            problem = str(error)
        release_cached(self._runner.device)
        if num_images > 1:
            return [outcome for entry in batch for outcome in self.decode([entry])]
        return [OutOfMemory(f"out of memory decoding one {batch[0].payload.size} image ({problem})")]

    def _try_step(self, batch: Sequence[Entry[Job]], num_ahead: int) -> str | None:
        """Step a batch; return why memory ran out, if it did (not the error, which holds the tensors)."""
        bucket, num_images = batch[0].bucket, len(batch)
        try:
            self._prepare(batch, num_ahead)
            self._work.begin(batch[0].priority, self._costs.step_s(bucket, num_images))
            stopwatch = Stopwatch(self._runner.device)
            self._reuse(batch)
            self._runner.denoise_step([entry.payload.state for entry in batch])
        except torch.OutOfMemoryError as error:
            return str(error)
        self._measured(stopwatch, lambda s: self._costs.record_step(bucket, num_images, s))
        return None

    def _prepare(self, batch: Sequence[Entry[Job]], num_ahead: int) -> None:
        now_s = time.monotonic()
        for entry in batch:
            if entry.payload.started_s is None:
                entry.payload.started_s = now_s
        if all(entry.payload.state.canvas for entry in batch):
            return
        # Encoding many prompts at once is far cheaper than one by one: those of all buckets' next steps, then
        # the oldest. But no request waits for prompts of a lower priority, or for other requests' pictures,
        # which are encoded one by one.
        priority = batch[0].priority
        ahead = (
            e
            for e in chain(
                self._scheduler.next_in_line(priority) if num_ahead else (),
                islice(self._scheduler, num_ahead),
            )
            if e.priority <= priority and e.payload.state.canvas is None and not e.payload.num_pictures
        )
        needed = [e for e in batch if e.payload.state.canvas is None]
        wanted = list(islice(dict.fromkeys(chain(needed, ahead)), max(len(needed), num_ahead)))
        pictures = [e.payload.num_pictures for e in wanted]
        self._work.begin(batch[0].priority, sum(map(self._costs.encoding_s, pictures)))
        stopwatch = Stopwatch(self._runner.device)
        self._runner.prepare([e.payload.state for e in wanted])
        self._measured(stopwatch, lambda s: self._costs.record_encoding(pictures, s))
        self._work.encoded(wanted)

    def _reuse(self, batch: Sequence[Entry[Job]]) -> None:
        """Run the steps that come before each image's next computed one; they are measured with that."""
        while reusing := [entry.payload for entry in batch if entry.payload.state.reuses]:
            self._runner.reuse_step([job.state for job in reusing])
            for job in reusing:
                self._preview(job)

    def _measured(self, stopwatch: Stopwatch, record: Callable[[float], None]) -> None:
        """Record what the device has done, which may be behind its host."""
        stopwatch.stop()
        self._measuring.append((stopwatch, record))
        while self._measuring and (seconds := self._measuring[0][0].seconds()) is not None:
            self._measuring.popleft()[1](seconds)

    def _preview(self, job: Job) -> None:
        handle, state = job.handle, job.state
        every = handle.request.preview_every
        if not (handle.on_preview and every) or state.num_done % every or state.finished:
            return
        event = PreviewEvent(
            step=state.num_done,
            num_steps=handle.request.num_steps,
            pixels_HWC=self._runner.preview(state),
        )
        try:
            handle.on_preview(event)
        except Exception:
            # The caller's code failed, not ours: its image continues without previews.
            logger.exception("a preview callback failed")
            handle.on_preview = None
