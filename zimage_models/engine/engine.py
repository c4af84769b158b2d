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
from itertools import count
from pathlib import Path

from zimage_models.engine.engine_costs import EngineCosts
from zimage_models.engine.engine_stats import EngineStats, StatsCollector
from zimage_models.engine.job import Job, enter
from zimage_models.engine.request_handle import PreviewCallback, RequestHandle
from zimage_models.engine.step_runner import StepRunner
from zimage_models.engine.step_scheduler import Entry, StepScheduler
from zimage_models.engine.work_left import WorkLeft
from zimage_models.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineDead,
    EngineOverloaded,
    InvalidRequest,
    ZImageError,
)
from zimage_models.model_spec import ModelSpec
from zimage_models.models.compilation import num_compiled
from zimage_models.models.device_memory import peak_bytes
from zimage_models.models.model_runner import ModelRunner
from zimage_models.models.prompt_tokenizer import PromptTokenizer
from zimage_models.requests import ImageRequest, ImageResult, Priority

logger = logging.getLogger(__name__)


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
        compiled_forms: Path | None = None,
        scheduler_class: type[StepScheduler[Job]] = StepScheduler,
    ) -> None:
        self.spec = spec
        self.compiled_forms = compiled_forms
        self._tokenizer = tokenizer
        self._runner = runner
        costs = EngineCosts(width=runner.denoiser.width)
        self._scheduler = scheduler_class(
            max_step_tokens=max_step_tokens, ageing_s=ageing_s, step_cost=costs.step_s
        )
        self._work = WorkLeft(costs, capacity=self._scheduler.capacity)
        self._steps = StepRunner(runner, self._scheduler, costs, self._work)
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
                    # One place becomes free in this time on average; all of them would take too long to tell.
                    retry_after_s=max(1.0, self._work.seconds(request.priority) / num_open),
                )
            self._num_open[request.priority] += 1
            self._work.add(entry)
            self._arrivals.append(entry)
            self._changed.notify()
        return handle

    def step(self) -> bool:
        """Advance the images of one bucket by one computed step, and the reused ones before it.

        Returns:
            False if there was nothing to do.
        """
        self._admit()
        self._drop_cancelled()
        batch = self._scheduler.schedule(time.monotonic())
        if not batch:
            return False
        started_s = time.perf_counter()
        stepped = []
        for entry, error in self._steps.denoise(batch):
            if error is None:
                stepped.append(entry)
            else:
                self._drop(entry, error)
        self._finish([entry for entry in stepped if entry.payload.state.finished])
        step_counts = [entry.payload.state.request.num_computed_steps for entry in stepped]
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
            queue_s=self._work.seconds(Priority.ONLINE),
            num_preemptions=self._scheduler.num_preemptions,
            num_caption_hits=captions.num_hits,
            num_caption_misses=captions.num_misses,
            memory_bytes=peak_bytes(self._runner.device),
            num_rebuilds=self._runner.ranks.num_rebuilds,
            num_compiled=num_compiled(),
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
                job = entry.payload
                deadline_s = job.handle.request.deadline_s
                assert deadline_s is not None, "it has a place in the heap"
                self._drop(entry, DeadlineExceeded.of(deadline_s, has_started=job.started_s is not None))

    def _finish(self, entries: Sequence[Entry[Job]]) -> None:
        """Decode finished images and hand them to their callers."""
        if not entries:
            return
        denoised_s, precision = time.monotonic(), self._runner.denoiser.precision
        for entry, outcome in zip(entries, self._steps.decode(entries), strict=True):
            if isinstance(outcome, ZImageError):
                self._drop(entry, outcome)
            else:
                result = entry.payload.result(outcome, denoised_s=denoised_s, precision=precision)
                self._drop(entry, result)

    def _drop(self, entry: Entry[Job], outcome: ImageResult | ZImageError) -> None:
        """Remove a request and hand its caller the outcome."""
        handle = entry.payload.handle
        self._scheduler.remove(entry)
        self._work.remove(entry)
        del self._entries[entry.arrival]
        with self._changed:
            self._num_open[handle.request.priority] -= 1
        self._stats.record_outcome(outcome)
        handle.settle(outcome)
