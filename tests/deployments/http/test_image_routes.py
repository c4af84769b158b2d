"""Routes of images as far as they go without a replica; the front desk is in this process."""

from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from deployments.access.api_keys import ApiKeys
from deployments.access.callers import Callers
from deployments.access.front_desk import FrontDesk
from deployments.access.local_urls import LocalUrls
from deployments.app_args import AppArgs
from deployments.http.drain_gate import OpenRequests
from deployments.http.http_app import build_http_app
from deployments.image_service import ImageService
from tests.deployments.event_loop import in_event_loop
from zimage_models.image_files.image_codec import Encoding

SMALLEST_STORE = 64 * 2**20


class InProcess:
    """A front desk in the place of a handle of its deployment."""

    def __init__(self, args: AppArgs) -> None:
        self._desk = FrontDesk(args, max_run_s=60)

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._desk, name))


def app_of(args: AppArgs, desk: InProcess) -> FastAPI:
    keys = ApiKeys(path=None, environment_variable=None)
    return build_http_app(args, ImageService({}, timeout_s=60), Callers(keys, desk), desk, OpenRequests())


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
