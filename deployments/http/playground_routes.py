"""The playground: a page at ``/`` to try the endpoint in a browser, and its files below ``/playground/``."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException

_FOLDER = Path(__file__).with_name("playground")
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# The page runs its own scripts and shows the images it made; it loads nothing else.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # After an update, no script may meet another version of the page.
    "Cache-Control": "no-cache",
}


def playground_router() -> APIRouter:
    """Return the routes of the page, whose addresses are relative so that it works below any path."""
    router = APIRouter(include_in_schema=False)
    names = {path.name for path in _FOLDER.iterdir() if path.suffix in _MEDIA_TYPES}

    def answer(name: str) -> Response:
        data = (_FOLDER / name).read_bytes()
        return Response(data, media_type=_MEDIA_TYPES[Path(name).suffix], headers=_HEADERS)

    @router.get("/")
    async def page() -> Response:
        return answer("index.html")

    @router.get("/playground/{name}")
    async def file(name: str) -> Response:
        if name not in names:
            raise HTTPException(404)
        return answer(name)

    return router
