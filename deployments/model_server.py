"""The Serve replica: an engine actor for the HTTP ingress and for batch jobs; it knows nothing about HTTP."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve

from deployments.engine_actor import EngineActor, Event
from deployments.metrics import EngineMetrics
from deployments.placed_ranks import PlacedRankLauncher
from deployments.queue_seconds_policy import NUM_ONLINE, QUEUE_S
from zimage_models.config import EngineConfig
from zimage_models.engine.engine_stats import EngineStats
from zimage_models.errors import EngineDead, EngineOverloaded, ZImageError
from zimage_models.model_spec import ModelSpec
from zimage_models.requests import ImageRequest, ImageResult

logger = logging.getLogger("ray.serve")

_TELL_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Reports that all requests of a call are in the engine's queue; their events follow."""

    ready_at: float
    """Unix time at which this replica became ready."""


class ModelServer:
    """One replica of one model."""

    def __init__(
        self,
        model_id: str,
        config: EngineConfig,
        *,
        max_queue_s: float,
        placed_ranks: bool = False,
        desk: Any = None,
    ) -> None:
        """Load the engine.

        Args:
            model_id: the model's ID for clients.
            config: the engine's configuration.
            max_queue_s: seconds of queued online work above which requests are refused.
            placed_ranks: whether each rank has its own bundle in this replica's placement group.
            desk: the front desk, which is told how far the engine is.
        """
        launcher = None
        if placed_ranks:
            group = ray.util.get_current_placement_group()
            assert group is not None, "Serve creates one for a replica with bundles"
            launcher = PlacedRankLauncher(group)
        replica = serve.get_replica_context().replica_id.unique_id

        def tell(phase: str | None, failure: str | None) -> None:
            desk.report.remote(model_id, replica, phase, failure=failure).result(timeout_s=_TELL_S)

        # A thread, so that the reports arrive in order and loading does not wait for them.
        with ThreadPoolExecutor(1) as telling:

            def report(phase: str | None, failure: str | None = None) -> None:
                if desk is not None:
                    telling.submit(tell, phase, failure)

            try:
                self._engine = EngineActor(config, launcher=launcher, on_phase=report)
            except ZImageError as error:
                report(None, str(error))
                raise
            report(None)
        self._max_queue_s = max_queue_s
        self._ready_at = time.time()
        self._metrics = EngineMetrics(model_id, replica=replica)

    async def generate(
        self, requests: Sequence[ImageRequest], *, wait: bool
    ) -> AsyncIterator[Admitted | EngineOverloaded | tuple[int, Event]]:
        """Make images; if the caller disconnects, they are cancelled at the next step.

        Args:
            requests: images to make; either all of them are admitted or none.
            wait: wait for room in a full queue (batch work) instead of refusing when it is full or long.

        Yields:
            First :class:`Admitted` or the refusal, then (index, preview or outcome) as they happen.
        """
        queue_s = 0.0 if wait else self._engine.stats().queue_s
        if queue_s > self._max_queue_s:
            yield EngineOverloaded(
                f"{queue_s:.0f} s of work are queued; the limit is {self._max_queue_s:g} s",
                retry_after_s=queue_s - self._max_queue_s,
            )
            return
        try:
            async with self._engine.admitted(requests, wait=wait) as events:
                yield Admitted(ready_at=self._ready_at)
                async for index, event in events:
                    if isinstance(event, ImageResult):
                        self._metrics.made(event)
                    yield index, event
        except EngineOverloaded as error:
            yield error
        except EngineDead:
            # Serve replaces a dead process at once, but a failing health check only after three periods.
            logger.exception("the engine died; this replica exits to be replaced")
            os._exit(1)

    def spec(self) -> ModelSpec:
        """Return the model's limits and defaults."""
        return self._engine.spec

    async def weights_sha256(self) -> str:
        """Return the sha256 of the model's weights."""
        return await asyncio.to_thread(self._engine.weights_sha256)

    def stats(self) -> EngineStats:
        """Report queue, speed and memory."""
        return self._engine.stats()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the autoscaling policy's inputs and update the metrics; Serve calls it every few seconds."""
        stats = self._engine.stats()
        self._metrics.record(stats)
        return {QUEUE_S: stats.queue_s, NUM_ONLINE: stats.num_online}

    def check_health(self) -> None:
        """Raise if the engine cannot continue; Serve then replaces this replica."""
        self._engine.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()
