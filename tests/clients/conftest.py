"""One endpoint for all clients, which admits the pages of another origin."""

import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.clients.client_programs import PAGES, PROGRAMS, Answers, Target
from tests.deployments.conftest import Endpoint, Serve, serve_endpoint
from tests.deployments.open_endpoint.pictures import EDIT, TURBO, plasma, png

__all__ = ["serve_endpoint"]  # a fixture


class _Pages(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="package")
def site() -> Iterator[str]:
    """Serve the pages that ask the endpoint from their own origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Pages, directory=PAGES)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="package")
def endpoint(serve_endpoint: Serve, site: str) -> Iterator[Endpoint]:
    models = [{"id": TURBO, "model": "tiny-zimage-turbo"}, {"id": EDIT, "model": "tiny-zimage-edit"}]
    aliases = dict.fromkeys(("default", "dall-e-3", "gpt-image-1"), TURBO)
    with serve_endpoint(models=models, aliases=aliases, local_urls={}, cors_origins=[site]) as running:
        yield running


@pytest.fixture(scope="package")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the picture that is edited."""
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    path.write_bytes(png(plasma(64, 64, seed=1)))
    return path


@pytest.fixture(scope="package")
def ask(endpoint: Endpoint, picture: Path, site: str) -> Callable[[str], Answers]:
    """Run a client's program, once, and return what it made of the answers."""
    target = Target(url=f"{endpoint.url}/v1", picture=picture, site=site)

    @cache
    def outcome(name: str) -> Answers | Exception:
        try:
            return PROGRAMS[name](target)
        except Exception as error:  # a program that fails does so for each of its tests, at once
            return error

    def ask(name: str) -> Answers:
        answers = outcome(name)
        if isinstance(answers, Exception):
            raise answers
        return answers

    return ask
