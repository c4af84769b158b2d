"""The engine: many requests at once, one denoising step at a time.

The loop is three calls, ``schedule -> denoise_step -> finish``. Requests join and leave at every step. It
knows nothing about Ray, HTTP or tables.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count, islice

import numpy as np
import numpy.typing as npt
import torch

from zimage_models.engine.engine_stats import EngineStats, StatsCollector
from zimage_models.engine.job import Job, enter
from zimage_models.engine.request_handle import PreviewCallback, PreviewEvent, RequestHandle
from zimage_models.engine.step_scheduler import Entry, StepScheduler
from zimage_models.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineDead,
    EngineOverloaded,
    GenerationFailed,
    InvalidRequest,
    OutOfMemory,
    ZImageError,
)
from zimage_models.model_spec import ModelSpec
from zimage_models.models.device_memory import peak_bytes, release_cached
from zimage_models.models.model_runner import ModelRunner
from zimage_models.models.prompt_tokenizer import PromptTokenizer
from zimage_models.requests import ImageRequest, ImageResult, Priority

logger = logging.getLogger(__name__)

_ENCODE_AHEAD = 32
"""Number of requests at the head of the line that have their prompts encoded together with a step's."""


class Engine:
    """Generates images for many callers at once.

    Call :meth:`start` for a thread that steps it, or :meth:`step` yourself.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        tokenizer: PromptTokenizer,
        runner: ModelRunner,
        max_step_tokens: int,
        max_queued: int,
        ageing_s: float,
    ) -> None:
        self.spec = spec
        self._tokenizer = tokenizer
        self._runner = runner
        self._scheduler: StepScheduler[Job] = StepScheduler(
            max_step_tokens=max_step_tokens, ageing_s=ageing_s
        )
        self._max_queued = max_queued
        self._arrivals: deque[Entry[Job]] = deque()
        self._arrival_numbers = count()
        self._cancelled: deque[int] = deque()
        # Only the engine's thread uses these: scheduled entries by arrival number, and a heap of deadlines.
        self._entries: dict[int, Entry[Job]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._changed = threading.Condition()
        self._num_open: Counter[int] = Counter()
        self._closing = False
        self._death: EngineDead | None = None
        self._thread: threading.Thread | None = None
        self._stats = StatsCollector()

    def submit(self, request: ImageRequest, *, on_preview: PreviewCallback | None = None) -> RequestHandle:
        """Queue one request; any thread may call this.

        A prompt past the token limit fails the handle's future with :class:`InvalidRequest`.

        Args:
            request: the image to make.
            on_preview: called from the engine's thread every ``request.preview_every`` steps.

        Raises:
            EngineOverloaded: ``max_queued`` requests of its priority are already waiting or running.
            EngineDead: the engine has failed or is closed.
        """
        arrival = next(self._arrival_numbers)
        handle = RequestHandle(
            request=request, on_preview=on_preview, on_cancel=partial(self._cancelled.append, arrival)
        )
        try:
            # In the caller's thread, so that no step waits for the tokenizer.
            entry = enter(handle, arrival=arrival, spec=self.spec, tokenizer=self._tokenizer)
        except InvalidRequest as error:
            self._stats.record_outcome(error)
            handle.settle(error)
            return handle
        with self._changed:
            if self._death or self._closing:
                raise EngineDead(str(self._death or "the engine is closed"))
            # Each priority has its own limit, so that batch work never fills the queue for online requests.
            num_open = self._num_open[request.priority]
            if num_open >= self._max_queued:
                raise EngineOverloaded(
                    f"{num_open} requests are queued; the limit is {self._max_queued}",
                    retry_after_s=self._stats.seconds_for(num_open),
                )
            self._num_open[request.priority] += 1
            self._arrivals.append(entry)
            self._changed.notify()
        return handle

    def step(self) -> bool:
        """Advance the images of one bucket by one denoising step.

        Returns:
            False if there was nothing to do.
        """
        self._admit()
        self._drop_cancelled()
        batch = self._scheduler.schedule(time.monotonic())
        if not batch:
            return False
        started_s = time.perf_counter()
        stepped = self._denoise_step(batch)
        self._finish([entry for entry in stepped if entry.payload.state.finished])
        step_counts = [entry.payload.state.request.num_steps for entry in stepped]
        self._stats.record_step(time.perf_counter() - started_s, step_counts)
        return True

    def start(self) -> None:
        """Start the thread that steps the engine."""
        assert self._thread is None, "it is already running"
        self._thread = threading.Thread(target=self._run, name="zimage-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, fail unfinished requests with :class:`Cancelled`, and end the other ranks."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._fail_all(Cancelled, "the engine was closed")
        self._runner.ranks.close()

    def stats(self) -> EngineStats:
        """Report queue, speed and memory."""
        captions = self._runner.captions
        return self._stats.report(
            num_open=self._num_open.total(),
            num_online=self._num_open[Priority.ONLINE],
            num_preemptions=self._scheduler.num_preemptions,
            num_caption_hits=captions.num_hits,
            num_caption_misses=captions.num_misses,
            memory_bytes=peak_bytes(self._runner.device),
            num_rebuilds=self._runner.ranks.num_rebuilds,
        )

    @property
    def death(self) -> EngineDead | None:
        """Why the engine cannot continue, or None while it can."""
        return self._death

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or self._arrivals or len(self._scheduler))
                    if self._closing:
                        return
                self.step()
        except Exception as error:
            logger.exception("the engine died")
            message = f"the engine died of {type(error).__name__}: {error}"
            with self._changed:
                self._death = EngineDead(message)
            self._fail_all(EngineDead, message)

    def _fail_all(self, error_class: type[ZImageError], message: str) -> None:
        self._admit()
        for entry in list(self._scheduler):
            self._drop(entry, error_class(message))

    def _admit(self) -> None:
        """Move the requests submitted since the last step into the scheduler."""
        while self._arrivals:
            entry = self._arrivals.popleft()
            handle = entry.payload.handle
            self._scheduler.add(entry)
            self._entries[entry.arrival] = entry
            if handle.request.deadline_s is not None:
                due_s = handle.submitted_s + handle.request.deadline_s
                heappush(self._deadlines, (due_s, entry.arrival))
            if handle.cancelled:
                # It was cancelled before it reached the scheduler.
                self._cancelled.append(entry.arrival)

    def _drop_cancelled(self) -> None:
        """Drop the requests that were cancelled or are past their deadline."""
        while self._cancelled:
            entry = self._entries.get(self._cancelled.popleft())
            if entry is not None:
                self._drop(entry, Cancelled("the request was cancelled"))
        while self._deadlines and self._deadlines[0][0] <= time.monotonic():
            entry = self._entries.get(heappop(self._deadlines)[1])
            if entry is not None:
                deadline_s = entry.payload.handle.request.deadline_s
                self._drop(entry, DeadlineExceeded(f"deadline_s: {deadline_s:g} s have passed"))

    def _denoise_step(self, batch: Sequence[Entry[Job]], num_ahead: int = _ENCODE_AHEAD) -> list[Entry[Job]]:
        """Step a batch, halving it when memory runs out; return the entries that stepped."""
        problem = self._try_step(batch, num_ahead)
        if problem is None:
            for entry in batch:
                self._preview(entry.payload)
            return list(batch)
        release_cached(self._runner.device)
        if num_ahead and any(entry.payload.state.canvas is None for entry in batch):
            # The prompts encoded ahead may have used the memory, not the step.
            return self._denoise_step(batch, 0)
        if len(batch) == 1:
            job = batch[0].payload
            self._drop(batch[0], OutOfMemory(f"out of memory on one {job.size} image ({problem})"))
            return []
        middle = len(batch) // 2
        limit = (len(batch) - middle) * batch[0].bucket.num_tokens
        if limit < self._scheduler.max_step_tokens:
            size = batch[0].payload.size
            logger.warning(
                "out of memory at %d images of %s: steps now have at most %d tokens", len(batch), size, limit
            )
            self._scheduler.max_step_tokens = limit
        halves = (batch[:middle], batch[middle:])
        return [entry for half in halves for entry in self._denoise_step(half, 0)]

    def _try_step(self, batch: Sequence[Entry[Job]], num_ahead: int) -> str | None:
        """Step a batch; return why memory ran out, if it did (not the error, which holds the tensors)."""
        try:
            self._prepare(batch, num_ahead)
            self._runner.denoise_step([entry.payload.state for entry in batch])
        except torch.OutOfMemoryError as error:
            return str(error)
        return None

    def _prepare(self, batch: Sequence[Entry[Job]], num_ahead: int) -> None:
        now_s = time.monotonic()
        for entry in batch:
            if entry.payload.started_s is None:
                entry.payload.started_s = now_s
        if all(entry.payload.state.canvas for entry in batch):
            return
        # Encoding many prompts at once is far cheaper than one by one. But no request waits for prompts of a
        # lower priority, or for other requests' pictures, which are encoded one by one.
        ahead = (
            e
            for e in islice(self._scheduler, num_ahead)
            if e.priority <= batch[0].priority and not e.payload.state.request.pictures
        )
        wanted = dict.fromkeys((*batch, *ahead))
        self._runner.prepare([e.payload.state for e in wanted if e.payload.state.canvas is None])

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

    def _finish(self, entries: Sequence[Entry[Job]]) -> None:
        """Decode finished images and hand them to their callers."""
        if not entries:
            return
        denoised_s = time.monotonic()
        for entry, outcome in zip(entries, self._decode(entries), strict=True):
            if isinstance(outcome, ZImageError):
                self._drop(entry, outcome)
            else:
                self._drop(entry, entry.payload.result(outcome, denoised_s=denoised_s))

    def _decode(self, entries: Sequence[Entry[Job]]) -> list[npt.NDArray[np.uint8] | GenerationFailed]:
        try:
            return list(self._runner.decode([entry.payload.state for entry in entries]))
        except torch.OutOfMemoryError as error:
            problem = str(error)
        release_cached(self._runner.device)
        if len(entries) > 1:
            return [outcome for entry in entries for outcome in self._decode([entry])]
        return [OutOfMemory(f"out of memory decoding one {entries[0].payload.size} image ({problem})")]

    def _drop(self, entry: Entry[Job], outcome: ImageResult | ZImageError) -> None:
        """Remove a request and hand its caller the outcome."""
        handle = entry.payload.handle
        self._scheduler.remove(entry)
        del self._entries[entry.arrival]
        with self._changed:
            self._num_open[handle.request.priority] -= 1
        self._stats.record_outcome(outcome)
        handle.settle(outcome)
