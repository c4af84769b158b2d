"""Real endpoints: `zimage serve` in a process of its own, as users start it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx2 as httpx
import openai
import pytest

from benchmarks import endpoint as processes


class Endpoint(processes.Endpoint):
    """A running endpoint and its clients."""

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options})

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(**{"base_url": self.url, "timeout": 60, **options})


Serve = Callable[..., AbstractContextManager[Endpoint]]


@pytest.fixture(scope="module")
def serve_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Start endpoints with other options than the default one's."""

    @contextmanager
    def start(*flags: str, **args: Any) -> Iterator[Endpoint]:
        with processes.serving(tmp_path_factory.mktemp("serve"), *flags, **args) as running:
            yield Endpoint(url=running.url, process=running.process, log=running.log)

    return start


@pytest.fixture(scope="module")
def endpoint(serve_endpoint: Serve) -> Iterator[Endpoint]:
    """Run Turbo and Base, one engine each."""
    models = [
        {"id": "z-image-turbo", "model": "tiny-zimage-turbo"},
        {"id": "z-image-base", "model": "tiny-zimage-base"},
    ]
    with serve_endpoint(models=models) as running:
        yield running
