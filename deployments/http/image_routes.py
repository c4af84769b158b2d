"""``POST /v1/images/generations`` and ``POST /v1/images/edits``, answered whole or as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from deployments.access.api_keys import ApiKey
from deployments.access.callers import Callers, Claim
from deployments.access.idempotency import Answer
from deployments.access.local_urls import LocalUrls
from deployments.access.object_store import ObjectStore
from deployments.app_args import AppArgs
from deployments.http.answers import AnswerWriter, Keep, Operation, encoding_of
from deployments.http.edit_form import EDIT_BODY_SCHEMA, read_edit
from deployments.http.openai_errors import ApiError, api_error
from deployments.http.openai_types import (
    CompletedEvent,
    GenerateBody,
    ImageBody,
    ImagesResponse,
    PartialImageEvent,
    error_responses,
)
from deployments.image_service import ImageService, Order
from deployments.model_server import Admitted
from zimage_models.errors import ZImageError

_MAX_DECODING = 2
COLD_START_HEADER = "x-zimage-cold-start-s"
WARNING_HEADER = "x-zimage-warning"
_STREAM = "text/event-stream"
_JSON = "application/json"
_ERRORS = error_responses(400, 401, 404, 409, 413, 415, 429, 500, 503, 504)
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {_STREAM: {"schema": {"type": "string", "description": "With stream=true: events."}}}}
}


class Call(NamedTuple):
    """What both image routes share once their bodies are read."""

    operation: Operation
    body: ImageBody
    values: dict[str, Any]
    fingerprint: str


class _Headers(NamedTuple):
    timeout_s: float | None
    idempotency_key: str | None


# Async because FastAPI uses a pool thread for every call of a plain function.
async def _headers(
    x_request_timeout: Annotated[
        float | None,
        Header(gt=0, allow_inf_nan=False, description="Seconds until the request is dropped."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1, max_length=255, description="Requests with the same key and body are made once."
        ),
    ] = None,
) -> _Headers:
    return _Headers(x_request_timeout, idempotency_key)


def image_router(
    args: AppArgs,
    service: ImageService,
    callers: Callers,
    store: ObjectStore | None,
    local_urls: LocalUrls | None,
) -> APIRouter:
    """Return the routes that make images."""
    router = APIRouter(responses=_ERRORS)
    routes = _ImageRoutes(args, service, callers, store, local_urls)
    decoding = asyncio.Semaphore(_MAX_DECODING)

    @router.post("/v1/images/generations", response_model=ImagesResponse, responses=_ANSWER)
    async def generate(
        request: Request,
        key: Annotated[ApiKey | None, Depends(callers.identify)],
        body: GenerateBody,
        headers: Annotated[_Headers, Depends(_headers)],
    ) -> Response:
        """Make images from a prompt."""

        async def read() -> Call:
            return Call("image_generation", body, body.request_values(), body.model_dump_json())

        return await routes.answer(request, key, read, headers)

    @router.post(
        "/v1/images/edits",
        response_model=ImagesResponse,
        responses=_ANSWER,
        openapi_extra={"requestBody": EDIT_BODY_SCHEMA},
    )
    async def edit(
        request: Request,
        key: Annotated[ApiKey | None, Depends(callers.identify)],
        headers: Annotated[_Headers, Depends(_headers)],
    ) -> Response:
        """Make images from pictures: edit them by instruction or, with other models, start from one.

        Starting from a picture, ``strength`` sets how much may change, and a ``mask`` limits where. The image
        follows the edges, depth or pose of a ``control_image``, which needs no other picture.
        """

        async def read() -> Call:
            body, pictures = await read_edit(request, args, decoding)
            values = body.request_values() | {
                "reference_images": pictures.images,
                "mask": pictures.mask,
                "control_image": pictures.control_image,
            }
            # A picture's text is its hash.
            return Call("image_edit", body, values, f"{body.model_dump_json()}{pictures}")

        return await routes.answer(request, key, read, headers)

    return router


class _ImageRoutes:
    def __init__(
        self,
        args: AppArgs,
        service: ImageService,
        callers: Callers,
        store: ObjectStore | None,
        local_urls: LocalUrls | None,
    ) -> None:
        self._args = args
        self._service = service
        self._callers = callers
        self._store = store
        self._local_urls = local_urls

    async def answer(
        self, request: Request, key: ApiKey | None, read: Callable[[], Awaitable[Call]], headers: _Headers
    ) -> Response:
        async with AsyncExitStack() as stack:
            # This comes first because reading a form may decode and fetch pictures.
            caller = await stack.enter_async_context(self._callers.admitted(key))
            call = await read()
            body = call.body
            self._check(body)
            keep, address = self._keep(body, request)
            model_id = self._service.choose(body.model)
            request.state.model, request.state.num_images = model_id, body.n
            if self._args.log_prompts:
                request.state.prompt = body.prompt
            claim = None
            if headers.idempotency_key is not None:
                # Images of a repeated request have the URLs of the first.
                fingerprint = call.fingerprint if address is None else f"{call.fingerprint} {address}"
                names = (caller, call.operation, headers.idempotency_key, fingerprint)
                claim = await stack.enter_async_context(self._callers.claimed(*names))
                if claim.answer is not None:
                    return _repeated(claim.answer)
            order = await self._service.order(
                model_id,
                call.values,
                num_images=body.n,
                priority=body.priority,
                timeout_s=headers.timeout_s,
                partial_images=body.partial_images if body.stream else 0,
            )
            request.state.seed = order.requests[0].seed
            writer = AnswerWriter(body, order, await self._service.spec(model_id), keep)
            events = await stack.enter_async_context(aclosing(self._service.events(order)))
            extra = _cold_start(order, await anext(events))
            if order.warning is not None:
                request.state.warning = order.warning
                extra[WARNING_HEADER] = order.warning
            if not body.stream:
                content = (await writer.response(events)).model_dump_json().encode()
                if claim is not None:
                    claim.keep(
                        Answer(status=200, media_type=_JSON, body=content, headers=tuple(extra.items()))
                    )
                return Response(content, media_type=_JSON, headers=extra)
            extra["Cache-Control"] = "no-store"
            chunks = _chunks(writer.stream(events, call.operation), claim, extra)
            return _EventStream(chunks, stack.pop_all(), headers=extra)

    def _check(self, body: ImageBody) -> None:
        if body.n > self._args.limits.max_images:
            raise _refused("n", f"n: {body.n} is above {self._args.limits.max_images}")
        if body.stream and body.n > 1:
            raise _refused("n", f"n: {body.n} images can't be streamed; stream one, or leave stream out")
        if body.partial_images and not body.stream:
            raise _refused("partial_images", f"partial_images: {body.partial_images} needs stream=true")
        if self._args.strict_fields:
            body.check_strictly()
        encoding_of(body)

    def _keep(self, body: ImageBody, request: Request) -> tuple[Keep | None, str | None]:
        """Return what stores the images, if they are to have URLs, and where the endpoint's own begin."""
        needs_url = body.response_format == "url"
        if self._local_urls is not None and body.response_format != "b64_json":
            address = self._local_urls.address(request)
            if address is not None:
                return partial(self._local_urls.keep, address), address
            if needs_url:
                raise _refused("Host", "Host: is not the name of a host, which the images' URLs need")
        if not needs_url:
            return None, None
        if self._store is None:
            raise _refused(
                "response_format",
                "response_format: url needs zimage serve --local-urls, or an object store",
            )
        return self._store.keep, None


async def _chunks(
    events: AsyncIterator[PartialImageEvent | CompletedEvent], claim: Claim | None, headers: dict[str, str]
) -> AsyncIterator[bytes]:
    """Write the events as server-sent events; an error becomes the last event."""
    sent = []
    try:
        async for event in events:
            sent.append(_server_sent(event.type, event))
            yield sent[-1]
    except (ApiError, ZImageError) as error:
        answer = api_error(error) if isinstance(error, ZImageError) else error
        yield _server_sent("error", answer.body())
        return
    if claim is not None:
        claim.keep(
            Answer(status=200, media_type=_STREAM, body=b"".join(sent), headers=tuple(headers.items()))
        )


def _server_sent(name: str, event: BaseModel) -> bytes:
    return f"event: {name}\ndata: {event.model_dump_json()}\n\n".encode()


class _EventStream(StreamingResponse):
    """A stream that releases its resources however it ends."""

    def __init__(
        self, chunks: AsyncIterator[bytes], stack: AsyncExitStack, *, headers: dict[str, str]
    ) -> None:
        super().__init__(chunks, media_type=_STREAM, headers=headers)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


def _repeated(answer: Answer) -> Response:
    headers = {**dict(answer.headers), "x-idempotent-replayed": "true"}
    return Response(answer.body, status_code=answer.status, media_type=answer.media_type, headers=headers)


def _cold_start(order: Order, admitted: object) -> dict[str, str]:
    """Return a header with the seconds that a request waited for a replica to start, if it did."""
    assert isinstance(admitted, Admitted), "comes first"
    waited_s = admitted.ready_at - order.arrived_at
    return {COLD_START_HEADER: f"{waited_s:.1f}"} if waited_s > 0 else {}


def _refused(field: str, message: str) -> ApiError:
    return ApiError(400, message, param=field, code="invalid_value")
