"""Routes of images without Serve: the front desk and the engine are in this process."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from ray.exceptions import RayActorError

from deployments.access.api_keys import ApiKeys
from deployments.access.callers import Callers
from deployments.access.front_desk import FrontDesk
from deployments.access.local_urls import LocalUrls
from deployments.app_args import AppArgs, LocalUrlArgs
from deployments.engine_actor import EngineActor
from deployments.http.drain_gate import OpenRequests
from deployments.http.http_app import build_http_app
from deployments.image_service import ImageService
from deployments.model_server import Admitted
from tests.deployments.event_loop import in_event_loop
from zimage_models.config import EngineConfig
from zimage_models.image_files.image_codec import Encoding
from zimage_models.model_spec import ModelSpec
from zimage_models.requests import ImageRequest

SMALLEST_STORE = 64 * 2**20


class InProcess:
    """A front desk in the place of a handle of its deployment."""

    def __init__(self, args: AppArgs) -> None:
        self._desk = FrontDesk(args, max_run_s=60)

    def __getattr__(self, name: str) -> SimpleNamespace:
        method = getattr(self._desk, name)
        # A handle's call goes on whether anyone waits for it or not.
        return SimpleNamespace(remote=lambda *arguments: asyncio.ensure_future(method(*arguments)))


class LostDesk(InProcess):
    """A front desk that dies whenever it is to keep an image."""

    @property
    def keep_image(self) -> SimpleNamespace:
        async def lost(*arguments: Any) -> None:
            raise RayActorError

        return SimpleNamespace(remote=lost)


class Responses:
    """What a call of a streaming handle returns."""

    def __init__(self, events: AsyncIterator[Any]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._events

    def cancel(self) -> None:
        """Do nothing: the test ends."""


class OneModel:
    """A fake engine in the place of a handle of its deployment."""

    def __init__(self) -> None:
        self._engine = EngineActor(EngineConfig(fake=True))
        self.spec = SimpleNamespace(remote=self._spec)
        self.generate = SimpleNamespace(remote=lambda requests, wait: Responses(self._events(requests, wait)))

    def options(self, **_: Any) -> "OneModel":
        return self

    async def _spec(self) -> ModelSpec:
        return self._engine.spec

    async def _events(self, requests: list[ImageRequest], wait: bool) -> AsyncIterator[Any]:
        async with self._engine.admitted(requests, wait=wait) as events:
            yield Admitted(ready_at=0)
            async for item in events:
                yield item


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"fake": OneModel()}


def app_of(
    args: AppArgs, desk: InProcess, keys_file: Path | None = None, models: Mapping[str, Any] | None = None
) -> FastAPI:
    keys = ApiKeys(path=keys_file, environment_variable=None)
    service = ImageService(models or {}, timeout_s=60)
    return build_http_app(args, service, Callers(keys, desk), desk, OpenRequests())


async def ask(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.request(method, path, **options)


async def refusal(args: AppArgs, **body: Any) -> tuple[int, str, str]:
    """Return the status, the field and the message that a generation gets."""
    app = app_of(args, InProcess(args))
    response = await ask(app, "POST", "/v1/images/generations", json={"prompt": "a red apple", **body})
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]


@pytest.mark.parametrize("body", [{"quality": "hd"}, {"style": "vivid"}, {"num_images": 2}, {"seed": -1}])
def test_strict_endpoint_refuses_what_it_would_ignore(body: dict[str, Any]) -> None:
    @in_event_loop
    async def check() -> None:
        (name,) = body
        status, field, message = await refusal(AppArgs(strict_fields=True), **body)
        assert (status, field) == (400, name)
        assert message.startswith(f"{name}: ")

    check()


@in_event_loop
async def test_numbers_of_images_that_differ_are_a_bad_request() -> None:
    assert await refusal(AppArgs(), n=1, num_images=2) == (400, "num_images", "num_images: 2, but n is 1")


@in_event_loop
async def test_url_without_a_store_names_the_flag() -> None:
    assert await refusal(AppArgs(), response_format="url") == (
        400,
        "response_format",
        "response_format: url needs zimage serve --local-urls, or an object store",
    )


@in_event_loop
async def test_kept_images_are_given_out_while_they_are_there() -> None:
    args = AppArgs.model_validate({"local_urls": {"max_bytes": SMALLEST_STORE}})
    desk = InProcess(args)
    app, urls = app_of(args, desk), LocalUrls(args, desk)
    early, late = [
        await urls.keep("http://test", bytes([number]) * (SMALLEST_STORE * 2 // 3), Encoding(format="webp"))
        for number in range(2)
    ]
    whole = await ask(app, "GET", late)
    assert (whole.status_code, whole.content[:1]) == (200, b"\1")
    assert whole.headers["content-type"] == "image/webp"
    assert int(whole.headers["content-length"]) == len(whole.content) == SMALLEST_STORE * 2 // 3
    head = await ask(app, "HEAD", late)
    assert head.content == b""
    assert head.headers.items() >= {
        (name, whole.headers[name]) for name in ("content-type", "content-length")
    }
    # The first had to leave for the second.
    gone = await ask(app, "GET", early)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "image_gone")
    for forged in (late[:-1], late.partition("&")[0], late.partition("?")[0], late.replace("=", "=1", 1)):
        unknown = await ask(app, "GET", forged)
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "image_not_found")


def test_signature_stands_for_an_api_key(tmp_path: Path) -> None:
    keys_file = tmp_path / "keys.yaml"
    keys_file.write_text("- {name: any, key: sk-0123456789abcdef}")
    args = AppArgs(local_urls=LocalUrlArgs())

    @in_event_loop
    async def check() -> None:
        desk = InProcess(args)
        app = app_of(args, desk, keys_file)
        url = await LocalUrls(args, desk).keep("http://test", b"image", Encoding(format="webp"))
        assert (await ask(app, "GET", "/v1/models")).status_code == 401
        assert (await ask(app, "GET", url)).content == b"image"

    check()


GENERATIONS = "/v1/images/generations"
LOCAL = AppArgs(local_urls=LocalUrlArgs())


def test_repeats_get_urls_of_the_address_that_they_asked(models: dict[str, Any]) -> None:
    @in_event_loop
    async def check() -> None:
        app = app_of(LOCAL, InProcess(LOCAL), models=models)

        async def made(host: str, key: str, **body: Any) -> httpx.Response:
            headers = {"Host": host, "Idempotency-Key": key}
            return await ask(app, "POST", GENERATIONS, json={"prompt": "x", **body}, headers=headers)

        first = await made("evil.example", "k")
        assert first.json()["data"][0]["url"].startswith("http://evil.example/v1/images/files/")
        again = await made("evil.example", "k")
        assert (again.headers["x-idempotent-replayed"], again.content) == ("true", first.content)
        other = await made("shop.example", "k")
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
        # Without URLs the address decides nothing.
        for host in ("evil.example", "shop.example"):
            image = (await made(host, "none", response_format="b64_json")).json()["data"][0]
            assert image["url"] is None

    check()


def test_request_without_a_host_gets_a_url_only_if_it_asks_for_one(models: dict[str, Any]) -> None:
    @in_event_loop
    async def check() -> None:
        app = app_of(LOCAL, InProcess(LOCAL), models=models)
        odd = {"Host": "a/b@c"}
        image = (await ask(app, "POST", GENERATIONS, json={"prompt": "x"}, headers=odd)).json()["data"][0]
        assert image["b64_json"]
        assert image["url"] is None
        refused = await ask(
            app, "POST", GENERATIONS, json={"prompt": "x", "response_format": "url"}, headers=odd
        )
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Host")

    check()


@pytest.mark.parametrize("stream", [False, True])
def test_image_that_the_desk_has_not_kept_is_sent_itself(models: dict[str, Any], stream: bool) -> None:
    @in_event_loop
    async def check() -> None:
        app = app_of(LOCAL, LostDesk(LOCAL), models=models)
        both = await ask(app, "POST", GENERATIONS, json={"prompt": "x", "stream": stream})
        assert both.status_code == 200
        assert '"url":null' in both.text
        assert '"b64_json":"' in both.text
        only = await ask(
            app, "POST", GENERATIONS, json={"prompt": "x", "stream": stream, "response_format": "url"}
        )
        assert only.status_code == (200 if stream else 500)  # a stream has begun
        assert '"code":"object_store_failed"' in only.text

    check()


@pytest.mark.parametrize("stream", [False, True])
def test_repeated_answers_have_the_headers_of_the_first(models: dict[str, Any], stream: bool) -> None:
    @in_event_loop
    async def check() -> None:
        app = app_of(AppArgs(), InProcess(AppArgs()), models=models)
        body = {"prompt": "x", "size": "128x64", "num_inference_steps": 1, "stream": stream}
        headers = {"Idempotency-Key": "k"}
        first, again = [await ask(app, "POST", GENERATIONS, json=body, headers=headers) for _ in range(2)]
        assert again.headers["x-idempotent-replayed"] == "true"
        assert again.content == first.content
        assert "x-zimage-warning" in first.headers
        assert first.headers.get("cache-control") == ("no-store" if stream else None)
        for name in ("x-zimage-warning", "cache-control", "content-type"):
            assert again.headers.get(name) == first.headers.get(name)

    check()
