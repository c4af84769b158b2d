"""Real endpoints: `zimage serve` in a process of its own, as users start it."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import httpx2 as httpx
import openai
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from benchmarks import endpoint as processes


class Endpoint(processes.Endpoint):
    """A running endpoint and its clients."""

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options})

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(**{"base_url": self.url, "timeout": 120, **options})


HOST = "endpoint.test"
"""A name of this machine in the browser, which trusts the pages of 127.0.0.1 more than those of others."""
Serve = Callable[..., AbstractContextManager[Endpoint]]


@pytest.fixture(scope="session")
def serve_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start endpoints; those that several modules ask are in folders of their own.

    One stops while the next tests run: it waits more than it works. All have stopped when the session ends.
    """
    with ThreadPoolExecutor() as stopping:
        stopped: list[Future[None]] = []

        @contextmanager
        def start(*flags: str, **args: Any) -> Iterator[Endpoint]:
            serving = ExitStack()
            running = serving.enter_context(
                processes.serving(tmp_path_factory.mktemp("serve"), *flags, **args)
            )
            try:
                yield Endpoint(url=running.url, process=running.process, log=running.log)
            finally:
                stopped.append(stopping.submit(serving.close))

        yield start
        for stop in stopped:
            stop.result()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium, which is not installed")
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", f"--host-resolver-rules=MAP {HOST} 127.0.0.1"]
        )
        yield browser
        browser.close()
