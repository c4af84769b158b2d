"""The stage that generates images: it holds an engine and runs as an actor in Ray Data's pool.

One Arrow table in, one out. It knows nothing about image files or storage.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from ray.actor import ActorHandle

from pipelines.run.picture_stage import RowFailure, is_decoded, read_pictures, without_pixels
from pipelines.run.served_engine import ServedEngine, ServedModel
from pipelines.work_table import REQUEST_COLUMNS, to_request
from zimage_models.config import EngineConfig
from zimage_models.errors import EngineDead, GenerationFailed, InvalidRequest, ZImageError
from zimage_models.requests import ImageResult

if TYPE_CHECKING:
    from deployments.engine_actor import Outcome

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Number of engine deaths after which a unit becomes an error instead of being retried forever."""
_REPORT_INTERVAL_S = 1.0
_RETRY_S = 5.0


class GenerateStage:
    """Generates the images of blocks of work; several blocks are in flight, so the step batch stays full.

    Args:
        engine: the configuration of an engine to start, or the model of a running endpoint.
        monitor: receives the run's counts.
    """

    def __init__(self, engine: EngineConfig | ServedModel, monitor: "ActorHandle[Any]") -> None:
        # Import torch only where engines run, not in the driver, which plans and waits.
        from deployments.engine_actor import EngineActor

        self._own = isinstance(engine, EngineConfig)
        self._refusal: InvalidRequest | None = None
        try:
            self._engine = EngineActor(engine) if isinstance(engine, EngineConfig) else ServedEngine(engine)
        except InvalidRequest as error:
            # Raised here, it would make Ray Data (2.60) start the actor again and again, with a traceback
            # each time. Raised for the first block, it ends the run.
            self._refusal = error
        self._monitor = monitor
        self._sharing = _Sharing()

    async def __call__(self, work: pa.Table) -> pa.Table:
        """Add pixels, or an error, to every row.

        Raises:
            InvalidRequest: the engine could not be made, and the monitor says that this ends the run.
        """
        if self._refusal is not None:
            if await self._monitor.refuse.remote(self._refusal):
                raise self._refusal
            await asyncio.sleep(_RETRY_S)
            os._exit(1)  # Ray starts another one
        rows = work.select(REQUEST_COLUMNS).to_pylist()
        failures: dict[int, RowFailure] = {}
        if is_decoded(work):
            for index, found in enumerate(read_pictures(work)):
                if isinstance(found, RowFailure):
                    failures[index] = found
                else:
                    rows[index] |= found
            work = without_pixels(work)
            self._monitor.add.remote(failed=len(failures))
        usable = [row for index, row in enumerate(rows) if index not in failures]
        block = _block_name(rows)
        while True:
            attempt = await self._monitor.begin.remote(block)
            try:
                if attempt == 1:
                    async with self._sharing.together():
                        made = await self._generate(usable)
                else:
                    made = [await self._generate_alone(row) for row in usable]
                break
            except EngineDead:
                if self._own:
                    # An exception would fail the job; Ray restarts a dead process and retries its block.
                    logger.exception("the engine died; this actor exits and Ray replaces it")
                    os._exit(1)
                logger.warning("the endpoint lost a replica; retrying its block")
        self._monitor.end.remote(block)
        images = iter(made)
        outcomes = [failures[index] if index in failures else next(images) for index in range(len(rows))]
        return _with_outcomes(work, outcomes, attempt)

    async def _generate(self, rows: Sequence[dict[str, Any]]) -> "list[Outcome]":
        outcomes: dict[int, Outcome] = {}
        unreported: list[Outcome] = []
        reported_s = time.monotonic()
        async for index, outcome in self._engine.generate([to_request(row) for row in rows]):
            outcomes[index] = outcome
            unreported.append(outcome)
            if time.monotonic() - reported_s > _REPORT_INTERVAL_S or len(outcomes) == len(rows):
                num_failed = sum(isinstance(outcome, ZImageError) for outcome in unreported)
                self._monitor.add.remote(generated=len(unreported), failed=num_failed)
                unreported, reported_s = [], time.monotonic()
        return [outcomes[index] for index in range(len(rows))]

    async def _generate_alone(self, row: dict[str, Any]) -> "Outcome":
        """Generate one row of a block that lost its engine, to find a row that kills engines."""
        async with self._sharing.alone():
            attempt = await self._monitor.begin.remote(row["unit_id"])
            if attempt > MAX_ATTEMPTS - 1:
                return GenerationFailed(f"its engine died {MAX_ATTEMPTS} times on this row")
            [outcome] = await self._generate([row])
            self._monitor.end.remote(row["unit_id"])
            return outcome


class _Sharing:
    """Lets blocks share an engine, but runs a suspect row alone: only then is it to blame for a death."""

    def __init__(self) -> None:
        # Held from when a suspect row asks for the engine until it is done, so that no block gets in first.
        self._door = asyncio.Lock()
        self._num_together = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._door:
            self._num_together += 1
            self._is_empty.clear()
        try:
            yield
        finally:
            self._num_together -= 1
            if not self._num_together:
                self._is_empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._door:
            await self._is_empty.wait()
            yield


def _block_name(rows: Sequence[dict[str, Any]]) -> str:
    return hashlib.sha256("".join(row["unit_id"] for row in rows).encode()).hexdigest()


def _with_outcomes(work: pa.Table, outcomes: "Sequence[Outcome]", attempt: int) -> pa.Table:
    images = [outcome if isinstance(outcome, ImageResult) else None for outcome in outcomes]
    errors = [outcome if isinstance(outcome, ZImageError) else None for outcome in outcomes]
    added: dict[str, pa.Array[Any]] = {
        "pixels": pa.array([image and image.pixels_HWC.tobytes() for image in images], pa.binary()),
        "prompt_truncated": pa.array([bool(image and image.prompt_truncated) for image in images]),
        "engine_precision": pa.array([image and image.precision for image in images], pa.string()),
        "error_class": pa.array([error and error.error_class for error in errors], pa.string()),
        "message": pa.array([error and str(error) for error in errors], pa.string()),
        "attempts": pa.array([attempt] * len(outcomes), pa.int32()),
    }
    for name, column in added.items():
        work = work.append_column(name, column)
    place = work.schema.get_field_index("num_computed_steps")
    if place >= 0:
        # The plan's number is what was promised; this is what was done.
        computed = pa.array([image and image.num_computed_steps for image in images], pa.int32())
        work = work.set_column(place, "num_computed_steps", computed)
    return work
