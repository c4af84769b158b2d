"""Checks every request against its model, sends it to the model's replicas and returns the images.

It knows nothing about HTTP.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.capabilities import takes
from deployments.engine_actor import Event
from deployments.errors import NoReplica, ReplicaLost, UnknownModel
from deployments.model_server import Admitted
from zimage_models.engine.request_handle import PreviewEvent
from zimage_models.errors import DeadlineExceeded, EngineOverloaded, InvalidRequest, ZImageError
from zimage_models.model_spec import ModelSpec
from zimage_models.request_fields import EDIT_FIELDS, MAX_SEED
from zimage_models.requests import ImageRequest, ImageResult, Priority, build_request

PRIORITIES = {"online": Priority.ONLINE, "batch": Priority.BATCH}
_ATTEMPTS = 2
_STATUS_MAX_AGE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The images of one HTTP request."""

    model_id: str
    requests: tuple[ImageRequest, ...]
    arrived_at: float
    """Unix time."""
    timeout_s: float
    due_s: float
    """The deadline, on the monotonic clock."""
    warning: str | None = None
    """What may be wrong with the images, in a sentence."""


class ImageService:
    """Knows the endpoint's models and sends orders to their replicas.

    Args:
        handles: one Serve handle per model ID; the first is the default.
        timeout_s: the longest an order may take.
        aliases: further names of models, and their IDs.
    """

    def __init__(
        self, handles: Mapping[str, Any], *, timeout_s: float, aliases: Mapping[str, str] | None = None
    ) -> None:
        self._handles = dict(handles)
        self._aliases = dict(aliases or {})
        self._timeout_s = timeout_s
        self._specs: dict[str, ModelSpec] = {}
        self._num_running: dict[str, int] = {}
        self._status_s = float("-inf")
        self._last_wait_s = 1.0

    @property
    def model_ids(self) -> list[str]:
        """The IDs of the models."""
        return list(self._handles)

    @property
    def names(self) -> dict[str, str]:
        """All names that clients can request, and the ID of the model that each stands for."""
        return {model_id: model_id for model_id in self._handles} | self._aliases

    def choose(self, model_id: str | None) -> str:
        """Return the ID of a request's model; the default is the first.

        Raises:
            UnknownModel: the endpoint has no model of that name.
        """
        if model_id is None:
            return self.model_ids[0]
        chosen = self.names.get(model_id)
        if chosen is None:
            raise UnknownModel(
                f"model: {model_id!r} is unknown; models are {', '.join(self.names)}"
                f" (zimage serve --alias NAME={self.model_ids[0]} adds a name)",
                field="model",
            )
        return chosen

    async def spec(self, model_id: str) -> ModelSpec:
        """Return a model's limits; the first call asks a replica, and starts one if there is none."""
        if model_id not in self._specs:
            self._specs[model_id] = await self._handles[model_id].spec.remote()
        return self._specs[model_id]

    async def known_spec(self, model_id: str) -> ModelSpec | None:
        """Return a model's limits, or None if it has never run; start no replica."""
        if model_id in self._specs or (await self.num_running())[model_id]:
            return await self.spec(model_id)
        return None

    async def num_running(self) -> dict[str, int]:
        """Count each model's running replicas, as of at most a second ago."""
        if time.monotonic() - self._status_s > _STATUS_MAX_AGE_S:
            context = serve.get_replica_context()
            status = await asyncio.to_thread(serve.status)
            deployments = status.applications[context.app_name].deployments
            self._num_running = {
                model_id: sum(
                    count
                    for state, count in deployments[model_id].replica_states.items()
                    if state == "RUNNING"
                )
                for model_id in self._handles
            }
            self._status_s = time.monotonic()
        return self._num_running

    async def order(
        self,
        model_id: str,
        values: Mapping[str, Any],
        *,
        num_images: int,
        priority: str,
        timeout_s: float | None,
        partial_images: int = 0,
    ) -> Order:
        """Check a body's generation fields against its model and return the order.

        The images differ in their seeds, which count up from the given seed or a random one.

        Raises:
            InvalidRequest: a field has a value that the model does not accept.
            NoReplica: no replica was available in time to report the model's limits.
        """
        arrived_at, now_s = time.time(), time.monotonic()
        timeout_s = min(timeout_s or self._timeout_s, self._timeout_s)
        due_s = now_s + timeout_s
        async with _deadline(due_s, timeout_s):
            spec = await self.spec(model_id)
        last_first_seed = MAX_SEED - (num_images - 1)
        seed = values.get("seed")
        seed = secrets.randbelow(last_first_seed + 1) if seed is None else seed
        try:
            build = partial(
                build_request,
                spec,
                {**values, "seed": seed},
                priority=PRIORITIES[priority],
                deadline_s=timeout_s,
            )
            # Scaling large pictures takes too long for the event loop.
            has_pictures = values.get("reference_images") or values.get("control_image")
            request = await asyncio.to_thread(build) if has_pictures else build()
            if seed > last_first_seed:
                raise InvalidRequest(
                    f"seed: {seed} with {num_images} images ends at {seed + num_images - 1};"
                    f" the limit is {MAX_SEED}",
                    field="seed",
                )
        except InvalidRequest as error:
            raise await self._with_models_that_can(error, spec, values) from error
        if partial_images:
            # The division may give one preview too many; the stream drops it.
            every = max(1, request.num_steps // (partial_images + 1))
            request = replace(request, preview_every=every)
        requests = tuple(replace(request, seed=seed + index) for index in range(num_images))
        return Order(
            model_id=model_id,
            requests=requests,
            arrived_at=arrived_at,
            timeout_s=timeout_s,
            due_s=due_s,
            warning=spec.trained_sizes.warning(request.width, request.height),
        )

    async def _with_models_that_can(
        self, error: InvalidRequest, spec: ModelSpec, values: Mapping[str, Any]
    ) -> InvalidRequest:
        """Add to an error about an edit field which models accept it; return other errors unchanged.

        A model that has never run is not named, because its limits are unknown.
        """
        field = error.field
        if field not in EDIT_FIELDS or takes(spec, field, values):
            return error
        specs = {model_id: await self.known_spec(model_id) for model_id in self.model_ids}
        able = [model_id for model_id, known in specs.items() if known and takes(known, field, values)]
        hint = f"models that take this: {', '.join(able)}" if able else "no model that is up takes this"
        return InvalidRequest(f"{error}; {hint}", field=field)

    async def events(self, order: Order) -> AsyncGenerator[Admitted | tuple[int, PreviewEvent | ImageResult]]:
        """Make an order's images; closing the iterator cancels the unfinished ones.

        If a replica dies during an order, another one makes the unfinished images. This happens only once.

        Yields:
            :class:`Admitted` when the order is queued, then (index, preview or image).

        Raises:
            ZImageError: the order or one of its images failed.
        """
        missing = list(range(len(order.requests)))
        for attempt in range(_ATTEMPTS):
            try:
                async for item in self._call(order, list(missing)):
                    if isinstance(item, Admitted):
                        if attempt == 0:
                            yield item
                        continue
                    index, event = item
                    if isinstance(event, DeadlineExceeded):
                        # The engine's deadline is what was left of the request's.
                        raise DeadlineExceeded.of(order.timeout_s, has_started=event.has_started)
                    if isinstance(event, ZImageError):
                        raise event
                    if isinstance(event, ImageResult):
                        missing.remove(index)
                    yield index, event
                return
            except ray.exceptions.RayActorError as error:
                if attempt == _ATTEMPTS - 1:
                    raise ReplicaLost("the engine died twice while making this image") from error

    async def _call(
        self, order: Order, indices: Sequence[int]
    ) -> AsyncGenerator[Admitted | tuple[int, Event]]:
        timeout_s = order.due_s - time.monotonic()
        if timeout_s <= 0:
            raise DeadlineExceeded.of(order.timeout_s, has_started=False)
        requests = [replace(order.requests[index], deadline_s=timeout_s) for index in indices]
        handle = self._handles[order.model_id].options(stream=True)
        responses = handle.generate.remote(requests, wait=order.requests[0].priority is Priority.BATCH)
        try:
            async with _deadline(order.due_s, order.timeout_s):
                first = await anext(aiter(responses))
            if isinstance(first, EngineOverloaded):
                self._last_wait_s = first.retry_after_s
                raise first
            yield first
            async for index, event in responses:
                yield indices[index], event
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise EngineOverloaded(
                "too many requests are waiting for this model", retry_after_s=self._last_wait_s
            ) from error
        finally:
            responses.cancel()


@asynccontextmanager
async def _deadline(due_s: float, timeout_s: float) -> AsyncIterator[None]:
    """Limit the wait for a replica; the engine enforces the deadline of the requests it has accepted."""
    try:
        async with asyncio.timeout(due_s - time.monotonic()):
            yield
    except TimeoutError as error:
        late = DeadlineExceeded.of(timeout_s, has_started=False)
        raise NoReplica(f"{late}: no replica took it", retry_after_s=timeout_s) from error
