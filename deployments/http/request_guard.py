"""The outermost layer of the HTTP app: body limits, the access log and the HTTP metrics."""

import json
import logging
import time

from ray.serve.exceptions import RequestCancelledError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.openai_errors import ApiError, failed, http_error
from deployments.http.request_metrics import HttpMetrics

logger = logging.getLogger("ray.serve")

CLIENT_LEFT = 499
# Two prompts of 16,384 characters, each character written as two \uXXXX, take 384 KiB.
MAX_JSON_BYTES = 2**20
_LOGGED = ("model", "caller", "num_images", "seed", "warning", "prompt")


class RequestGuard:
    """Plain ASGI middleware, so streams pass unbuffered and a client's disconnect is noticed at once.

    Serve gives each request its ID and sets the answer's ``x-request-id`` header. Routes put what the log
    should name in ``scope["state"]``.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._metrics = HttpMetrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        status = CLIENT_LEFT
        start_s = time.monotonic()
        self._metrics.began()

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            limit = self._max_body_bytes
            is_form = headers.get("content-type", "").lower().startswith("multipart/")
            # Edits may hold pictures, as JSON too.
            if not is_form and not scope["path"].endswith("/images/edits"):
                limit = min(limit, MAX_JSON_BYTES)
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > limit:
                await _too_large(f"{length[:20]} bytes", limit).response()(scope, receive, observed_send)
            else:
                await self._app(scope, _counted(receive, limit), observed_send)
        except Exception as error:
            # When Serve cancels a call, as when the client disconnects, it raises its own error.
            if status != CLIENT_LEFT or isinstance(error, ClientDisconnect | RequestCancelledError):
                raise
            logger.exception("a request failed with an internal error")
            await failed("internal error", code="internal_error").response()(scope, receive, observed_send)
        finally:
            duration_s = time.monotonic() - start_s
            route = getattr(scope.get("route"), "path", "unmatched")
            model = state.get("model", "")
            self._metrics.ended(route=route, model=model, status=status, duration_s=duration_s)
            line = {
                "event": "access",
                "request_id": headers.get("x-request-id"),
                "method": scope["method"],
                "route": route,
                "status": status,
                "duration_s": round(duration_s, 4),
                **{name: state[name] for name in _LOGGED if name in state},
            }
            logger.info(json.dumps(line, ensure_ascii=False))


def _too_large(found: str, limit: int) -> ApiError:
    return http_error(413, f"body: {found}; the limit is {limit}")


def _counted(receive: Receive, limit: int) -> Receive:
    """Limit a body that comes without a length."""
    num_bytes = 0

    async def counted() -> Message:
        nonlocal num_bytes
        message = await receive()
        if message["type"] == "http.request":
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                # FastAPI passes on only this kind of error while it reads a body.
                raise HTTPException(413, _too_large("too many bytes", limit).detail.message)
        return message

    return counted
