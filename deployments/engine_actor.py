"""The one class that hosts an engine, in a Ray Data actor pool and in a Serve replica alike.

It knows no table and no HTTP; it is a plain class, so either host makes it an actor its own way.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from functools import partial

from zimage_models.build_engine import build_engine, warm_up
from zimage_models.config import EngineConfig
from zimage_models.engine_stats import EngineStats
from zimage_models.errors import EngineDead, EngineOverloaded, ZImageError
from zimage_models.request_handle import RequestHandle
from zimage_models.requests import ImageRequest, ImageResult

Outcome = ImageResult | ZImageError


class EngineActor:
    """Loads, warms up, generates, and reports health and stats."""

    def __init__(self, config: EngineConfig) -> None:
        # Ray's other workers share the cores: OpenMP threads that spin while they wait take a fifth of the speed.
        # Read when torch is imported, which is below.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._engine = build_engine(config)
        warm_up(self._engine)

    async def generate(self, requests: Sequence[ImageRequest]) -> AsyncIterator[tuple[int, Outcome]]:
        """Make many images at once, yielding each as it finishes.

        A full queue is waited out, so any number of requests may be given.

        Yields:
            (index into ``requests``, the image or its own error).

        Raises:
            EngineDead: the engine can't go on; the host replaces this actor.
        """
        loop = asyncio.get_running_loop()
        finished: asyncio.Queue[tuple[int, Future[ImageResult]]] = asyncio.Queue()
        running: dict[int, RequestHandle] = {}

        def report(index: int, future: Future[ImageResult]) -> None:
            loop.call_soon_threadsafe(finished.put_nowait, (index, future))

        try:
            for index, request in enumerate(requests):
                handle = await self._submit(request)
                if handle.future.done():
                    yield index, _outcome(handle.future)
                    continue
                running[index] = handle
                handle.future.add_done_callback(partial(report, index))
            while running:
                index, future = await finished.get()
                del running[index]
                yield index, _outcome(future)
        finally:
            for handle in running.values():
                handle.cancel()

    async def _submit(self, request: ImageRequest) -> RequestHandle:
        while True:
            try:
                return self._engine.submit(request)
            except EngineOverloaded as error:
                await asyncio.sleep(min(error.retry_after_s, 1.0))

    def stats(self) -> EngineStats:
        """Report queue, speed and memory."""
        return self._engine.stats()

    def check_health(self) -> None:
        """Raise :class:`EngineDead` when the engine can't go on; answers at once, never behind a step."""
        if self._engine.death is not None:
            raise self._engine.death

    def close(self) -> None:
        """Stop the engine; unfinished requests are cancelled."""
        self._engine.close()


def _outcome(future: Future[ImageResult]) -> Outcome:
    try:
        return future.result()
    except EngineDead:
        raise
    except ZImageError as error:
        return error
