"""The HTTP app: FastAPI with OpenAI's routes, errors in OpenAI's format, and a playground page."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from deployments.access.callers import Callers
from deployments.access.local_urls import LocalUrls
from deployments.access.object_store import ObjectStore
from deployments.app_args import AppArgs
from deployments.http.drain_gate import DrainGate, OpenRequests
from deployments.http.image_routes import image_router
from deployments.http.model_routes import model_router
from deployments.http.openai_errors import ApiError, api_error, http_error, validation_error
from deployments.http.playground_routes import playground_router
from deployments.http.request_guard import RequestGuard
from deployments.image_service import ImageService
from zimage_models.errors import ZImageError


def build_http_app(
    args: AppArgs, service: ImageService, callers: Callers, desk: Any, open_requests: OpenRequests
) -> FastAPI:
    """Build the app with all its routes; ``desk`` is a Serve handle of the front desk."""
    # No redirects: their target would come from the Host header, which any client can set.
    app = FastAPI(title="zimage-ray", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    store = ObjectStore(args.object_store) if args.object_store else None
    local_urls = LocalUrls(args, desk) if args.local_urls else None
    app.include_router(image_router(args, service, callers, store, local_urls))
    if local_urls:
        app.include_router(local_urls.router())
    app.include_router(model_router(args, service, callers, open_requests))
    app.add_exception_handler(ApiError, _answer_with(lambda error: error))
    app.add_exception_handler(RequestValidationError, _answer_with(validation_error))
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(ZImageError, _answer_with(api_error))
    if args.playground:
        app.include_router(playground_router())
    app.add_middleware(DrainGate, open_requests=open_requests)
    app.add_middleware(RequestGuard, max_body_bytes=args.limits.max_body_bytes)
    if args.cors_origins:
        # Around the guard: a page can read its errors too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=args.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            # Clients have headers of their own (x-stainless-*). Cookies are not let in, so a page can send
            # only keys that it knows.
            allow_headers=["*"],
            expose_headers=["*"],
            # With "*", any web page could ask an endpoint that only a visitor's own network reaches.
            allow_private_network="*" not in args.cors_origins,
        )
    app.openapi = _without_default_errors(app.openapi)  # type: ignore[method-assign]
    return app


def _answer_with(translate: Callable[[Any], ApiError]) -> Callable[[Request, Any], Awaitable[JSONResponse]]:
    async def answer(request: Request, error: Any) -> JSONResponse:
        return translate(error).response()

    return answer


async def _answer_http_error(request: Request, error: Any) -> Response:
    headers = error.headers
    if error.status_code == 405:
        methods = set(headers["Allow"].split(", "))
        allow = sorted({*methods, "OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))
        headers = {**headers, "Allow": ", ".join(allow)}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    return http_error(error.status_code, error.detail, headers).response()


def _without_default_errors(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Remove FastAPI's own 422 from the schema: bad input is a 400 here, in OpenAI's format."""

    def described() -> dict[str, Any]:
        schema = openapi()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema.get("components", {}).get("schemas", {}).pop(name, None)
        return schema

    return described
