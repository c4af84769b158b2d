"""Refuses new work once an HTTP replica drains, and counts what it has accepted."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import ShuttingDown
from deployments.http.openai_errors import api_error

_RETRY_AFTER_S = 5.0


class OpenRequests:
    """The requests that one HTTP replica has accepted and not yet answered."""

    def __init__(self) -> None:
        self._num_open = 0
        self.draining = False

    def drain(self) -> int:
        """Refuse requests from now on and return how many accepted ones are still open."""
        self.draining = True
        return self._num_open

    def accept(self) -> None:
        """Take requests again."""
        self.draining = False

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """Count a request until its answer has ended.

        Raises:
            ShuttingDown: the replica drains.
        """
        if self.draining:
            raise ShuttingDown("the endpoint is shutting down", retry_after_s=_RETRY_AFTER_S)
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1


class DrainGate:
    """ASGI middleware that lets a request in if its replica still takes any.

    Only POST makes images. Everything else, like the health checks, is always answered.
    """

    def __init__(self, app: ASGIApp, *, open_requests: OpenRequests) -> None:
        self._app = app
        self._open_requests = open_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            with self._open_requests.accepted():
                await self._app(scope, receive, send)
        except ShuttingDown as error:
            answer = api_error(error)
            # The client's next request goes to another server, if there is a load balancer.
            answer.headers["Connection"] = "close"
            await answer.response()(scope, receive, send)
