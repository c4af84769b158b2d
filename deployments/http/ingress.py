"""The Serve deployment that handles HTTP: CPU only, with as many replicas as the traffic needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.access.api_keys import ApiKeys
from deployments.access.callers import Callers
from deployments.app_args import AppArgs
from deployments.http.drain_gate import OpenRequests
from deployments.http.http_app import build_http_app
from deployments.image_service import ImageService


class Ingress:
    """One HTTP replica; Serve asks it for its ASGI app once it is constructed."""

    def __init__(self, args: AppArgs, models: Mapping[str, Any], desk: Any) -> None:
        keys = ApiKeys(
            path=Path(args.auth.keys_file) if args.auth.keys_file else None,
            environment_variable=args.auth.keys_variable,
        )
        service = ImageService(models, timeout_s=args.limits.timeout_s, aliases=args.aliases)
        self._open_requests = OpenRequests()
        self._app = build_http_app(args, service, Callers(keys, desk), desk, self._open_requests)
        if args.root_path:
            self._app.add_middleware(_RootPath, root_path=args.root_path)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app."""
        return self._app

    async def drain(self) -> int:
        """Take no further requests, and return how many accepted ones are not answered yet."""
        return self._open_requests.drain()

    async def accept(self) -> None:
        """Take requests again."""
        self._open_requests.accept()


class _RootPath:
    """ASGI middleware for an endpoint at a path of a proxy, which removes the path from requests or not."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            outer = scope.get("root_path", "")  # where Serve has the app
            path = scope["path"].removeprefix(outer)
            if path == self._root_path:
                # The page's addresses are relative to it.
                await RedirectResponse(f"{outer}{path}/", status_code=308)(scope, receive, send)
                return
            if path.startswith(f"{self._root_path}/"):
                path = path.removeprefix(self._root_path)
            root_path = self._root_path + outer
            scope = {**scope, "root_path": root_path, "path": root_path + path}
        await self._app(scope, receive, send)
