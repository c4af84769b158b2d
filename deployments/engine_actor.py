"""The class that hosts an engine, both in a Ray Data actor pool and in a Serve replica.

It is a plain class, so each host can make it an actor in its own way. It knows nothing about tables or HTTP.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial

from zimage_models.checkpoints.resolve_model import model_weights_sha256
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import build_engine, warm_up
from zimage_models.engine.engine_stats import EngineStats
from zimage_models.engine.request_handle import PreviewEvent, RequestHandle
from zimage_models.errors import EngineDead, EngineOverloaded, ZImageError
from zimage_models.model_spec import ModelSpec
from zimage_models.requests import ImageRequest, ImageResult
from zimage_models.tensor_parallel.rank_launcher import RankLauncher

Outcome = ImageResult | ZImageError
Event = PreviewEvent | Outcome
"""Any previews that a request asks for, then its outcome."""

PHASES = FETCHING, LOADING, WARMING = "fetching", "loading", "warming up"
"""What an engine goes through before it is ready."""


class EngineActor:
    """Loads and warms up an engine, generates images, and reports health and stats."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        launcher: RankLauncher | None = None,
        on_phase: Callable[[str], None] | None = None,
    ) -> None:
        """Load the engine and make a few images to warm it up.

        Args:
            config: the engine.
            launcher: starts the other ranks of a tensor-parallel engine; None starts local processes.
            on_phase: told what is done next, one of ``PHASES``.
        """
        # OpenMP threads that spin while waiting would slow down Ray's other workers on the same cores.
        # torch reads this when it is imported, which happens below.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._config = config
        enter = on_phase or _ignore
        enter(FETCHING)
        self._engine = build_engine(config, launcher=launcher, on_found=partial(enter, LOADING))
        enter(WARMING)
        warm_up(self._engine)
        # The loaded objects stay; otherwise each full collection would walk them all and stop the engine.
        gc.freeze()

    @property
    def spec(self) -> ModelSpec:
        """The model's limits and defaults."""
        return self._engine.spec

    def weights_sha256(self) -> str:
        """Return the weights' sha256; the first call may take as long as reading them."""
        return model_weights_sha256(self._config, self.spec)

    async def generate(self, requests: Sequence[ImageRequest]) -> AsyncIterator[tuple[int, Outcome]]:
        """Make many images at once, yielding each as it finishes.

        It waits while the queue is full, so any number of requests may be given.

        Yields:
            (index into ``requests``, the image or its own error).

        Raises:
            EngineDead: the engine cannot continue; the host replaces this actor.
        """
        async with self.admitted(requests, wait=True) as events:
            async for index, event in events:
                if not isinstance(event, PreviewEvent):
                    yield index, event

    @asynccontextmanager
    async def admitted(
        self, requests: Sequence[ImageRequest], *, wait: bool
    ) -> AsyncIterator[AsyncIterator[tuple[int, Event]]]:
        """Queue all requests or none and yield their events; leaving the block cancels unfinished ones.

        Args:
            requests: the images to make.
            wait: wait for room in a full queue instead of raising.

        Raises:
            EngineOverloaded: the queue has no room for all of them, and ``wait`` is false.
            EngineDead: the engine cannot continue; the host replaces this actor.
        """
        loop = asyncio.get_running_loop()
        happened: asyncio.Queue[tuple[int, PreviewEvent | Future[ImageResult]]] = asyncio.Queue()
        handles: list[RequestHandle] = []

        def report(index: int, event: PreviewEvent | Future[ImageResult]) -> None:
            loop.call_soon_threadsafe(happened.put_nowait, (index, event))

        async def events() -> AsyncIterator[tuple[int, Event]]:
            num_running = len(handles)
            while num_running:
                index, event = await happened.get()
                if isinstance(event, PreviewEvent):
                    yield index, event
                else:
                    num_running -= 1
                    yield index, _outcome(event)

        try:
            for index, request in enumerate(requests):
                handle = await self._submit(request, partial(report, index), wait=wait)
                handles.append(handle)
                if handle.future.done():
                    happened.put_nowait((index, handle.future))
                else:
                    handle.future.add_done_callback(partial(report, index))
            yield events()
        finally:
            for handle in handles:
                handle.cancel()

    async def _submit(
        self, request: ImageRequest, on_preview: "partial[None]", *, wait: bool
    ) -> RequestHandle:
        while True:
            try:
                return self._engine.submit(request, on_preview=on_preview)
            except EngineOverloaded as error:
                if not wait:
                    raise
                await asyncio.sleep(min(error.retry_after_s, 1.0))

    def stats(self) -> EngineStats:
        """Report queue, speed and memory."""
        return self._engine.stats()

    def check_health(self) -> None:
        """Raise :class:`EngineDead` if the engine cannot continue; return at once, even during a step."""
        if self._engine.death is not None:
            raise self._engine.death

    def close(self) -> None:
        """Stop the engine and cancel unfinished requests."""
        self._engine.close()


def _ignore(phase: str) -> None:
    """Do nothing: nobody asks."""


def _outcome(future: Future[ImageResult]) -> Outcome:
    try:
        return future.result()
    except EngineDead:
        raise
    except ZImageError as error:
        return error
