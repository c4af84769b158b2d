"""A small app behind a `RequestGuard`, and requests to it without a network."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from deployments.http.request_guard import MAX_JSON_BYTES, RequestGuard


def guarded() -> FastAPI:
    app = FastAPI()
    app.add_middleware(RequestGuard, max_body_bytes=2 * MAX_JSON_BYTES)

    @app.post("/read")
    async def read(request: Request) -> int:
        return len(await request.body())

    @app.post("/text")
    async def text(request: Request) -> Response:
        return Response(await request.body())

    @app.post("/fail")
    async def fail() -> None:
        raise ZeroDivisionError("a secret of ours")

    @app.post("/fail-midway")
    async def fail_midway() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"a part"
            raise ZeroDivisionError

        return StreamingResponse(chunks())

    return app


async def post(path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(guarded())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(path, **options)
