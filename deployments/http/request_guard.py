"""The layer around all routes: body limits, content codings, HEAD, the access log and the HTTP metrics."""

import json
import logging
import time
from collections.abc import Mapping

from ray.serve.exceptions import RequestCancelledError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.openai_errors import ApiError, failed, http_error
from deployments.http.request_body import CODINGS, decompressed, limited, too_large
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
        # HEAD is answered like GET, without the body (RFC 9110, 9.3.2).
        is_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if is_head else scope

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(inner, self._checked(inner, headers, receive), observed_send)
        except ApiError as refusal:
            await refusal.response()(inner, receive, observed_send)
        except Exception as error:
            # When Serve cancels a call, as when the client disconnects, it raises its own error.
            if status != CLIENT_LEFT or isinstance(error, ClientDisconnect | RequestCancelledError):
                raise
            logger.exception("a request failed with an internal error")
            await failed("internal error", code="internal_error").response()(inner, receive, observed_send)
        finally:
            duration_s = time.monotonic() - start_s
            route = getattr(inner.get("route"), "path", "unmatched")
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

    def _checked(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> Receive:
        """Return how the body is received; raise an error if its headers show that it can't be."""
        limit = self._max_body_bytes
        is_form = headers.get("content-type", "").lower().startswith("multipart/")
        # Edits may hold pictures, as JSON too.
        if not is_form and not scope["path"].endswith("/images/edits"):
            limit = min(limit, MAX_JSON_BYTES)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            raise http_error(413, too_large(f"{length[:20]} bytes", limit))
        coding = headers.get("content-encoding", "").strip().lower()
        if coding in ("", "identity"):
            return limited(receive, limit=limit)
        if coding in CODINGS:
            return decompressed(receive, coding=coding, limit=limit)
        known = ", ".join(CODINGS)
        raise ApiError(
            415,
            f"Content-Encoding: {coding[:40]!r} is not one of {known}",
            param="Content-Encoding",
            code="unsupported_content_encoding",
            headers={"Accept-Encoding": known},
        )
