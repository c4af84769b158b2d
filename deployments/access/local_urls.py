"""Images that the endpoint itself keeps for ``response_format="url"``, and the route that gives them out."""

import re
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.access.kept_images import ImageTicket
from deployments.app_args import AppArgs
from deployments.errors import ImageGone, ObjectStoreFailed, UnknownImage
from zimage_models.image_files.image_codec import Encoding

_PATH = "/v1/images/files"
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


class LocalUrls:
    """Keeps images at the front desk, which all HTTP replicas share, and gives them out."""

    def __init__(self, args: AppArgs, desk: Any) -> None:
        self._public_url = args.public_url
        self._desk = desk

    def address(self, request: Request) -> str | None:
        """Return the address at which a request's client reaches the endpoint; None if it says none."""
        if self._public_url is not None:
            return self._public_url.rstrip("/")
        # Any client can send a wrong one. It is part of what a repeated request must have in common with the
        # first, so that nobody gets another's.
        host = request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            return None
        return f"{request.url.scheme}://{host}{request.scope.get('root_path', '')}"

    async def keep(self, address: str, data: bytes, encoding: Encoding) -> str:
        """Keep an image and return its URL.

        Raises:
            ObjectStoreFailed: the front desk has died.
        """
        try:
            ticket = await self._desk.keep_image.remote(data, encoding.mime_type, encoding.suffix)
        except (RayActorError, DeploymentUnavailableError) as error:
            raise ObjectStoreFailed("the front desk was lost before it had kept the image") from error
        return f"{address}{_PATH}/{ticket.name}?expires={ticket.expires_at}&signature={ticket.signature}"

    def router(self) -> APIRouter:
        """Return the route of the images; their signatures stand for an API key."""
        router = APIRouter()

        @router.api_route(f"{_PATH}/{{name}}", methods=["GET", "HEAD"], include_in_schema=False)
        async def image(request: Request, name: str) -> Response:
            query = request.query_params
            expires, signature = query.get("expires", ""), query.get("signature", "")
            if not (expires.isascii() and expires.isdecimal()):
                raise UnknownImage("image: this address is not complete", field="image")
            ticket = ImageTicket(name=name, expires_at=int(expires[:20]), signature=signature)
            found = await self._desk.image.remote(ticket)
            if isinstance(found, UnknownImage):
                raise found
            if found is None:
                raise ImageGone("image: is no longer kept; ask for it again", field="image")
            headers = {
                "Content-Length": str(len(found.data)),
                "Cache-Control": f"private, max-age={max(0, found.expires_at - int(time.time()))}, immutable",
                "X-Content-Type-Options": "nosniff",
            }
            body = b"" if request.method == "HEAD" else found.data
            return Response(body, media_type=found.media_type, headers=headers)

        return router
