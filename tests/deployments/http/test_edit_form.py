"""Edits as they are read, without an endpoint: what stays in memory, and what is fetched."""

import asyncio
import base64
import gc
import json
import tracemalloc
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import web
from fastapi import Request
from fastapi.exceptions import RequestValidationError

from deployments.access import edit_pictures
from deployments.access.edit_pictures import EditPictures
from deployments.access.url_fetch import fetch_image
from deployments.app_args import AppArgs
from deployments.http.edit_form import EDIT_BODY_SCHEMA, read_edit
from deployments.http.openai_types import EditBody
from tests.deployments.event_loop import in_event_loop
from tests.deployments.locked_endpoint.attacks import png_of_bytes
from tests.picture_site import site
from zimage_models.errors import InvalidRequest

LARGE = 4_000_000
JSON, PLAIN, FORM = "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"


class Counted(asyncio.Semaphore):
    """Counts how often it was entered."""

    num_entered = 0

    async def acquire(self) -> bool:
        Counted.num_entered += 1
        return await super().acquire()


def request_of(media_type: str, text: bytes) -> Request:
    pieces = [text[start : start + 2**16] for start in range(0, len(text), 2**16)]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    headers = [(b"content-type", media_type.encode())]
    return Request({"type": "http", "headers": headers, "app": None}, receive)


async def read(request: Request, args: AppArgs) -> tuple[EditBody, EditPictures]:
    return await read_edit(request, args, asyncio.Semaphore(2))


def body_of(media_type: str, *image_urls: str) -> bytes:
    if media_type == JSON:
        return json.dumps({"prompt": "x", "images": [{"image_url": url} for url in image_urls]}).encode()
    fields = [("prompt", "x"), *(("image", url) for url in image_urls)]
    if media_type == PLAIN:
        return urlencode(fields, safe="/+").replace("+", "%2B").encode()
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields
    ]
    return "".join([*parts, "--b--\r\n"]).encode()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("media_type", [JSON, PLAIN, FORM])
def test_a_body_is_not_kept_until_its_request_is_answered(media_type: str) -> None:
    @in_event_loop
    async def check() -> None:
        args = AppArgs()
        await read(request_of(media_type, body_of(media_type, data_url(png_of_bytes(1)))), args)
        request = request_of(media_type, body_of(media_type, data_url(png_of_bytes(LARGE))))
        tracemalloc.start()
        try:
            read_of = await read(request, args)
            gc.collect()  # Pillow leaves cycles
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(read_of[1].images) == 1
        assert kept < LARGE / 4

    check()


@pytest.mark.parametrize(("media_type", "text"), [(JSON, b"{"), (PLAIN, b"prompt=x")])
def test_parsing_is_limited_too(media_type: str, text: bytes) -> None:
    @in_event_loop
    async def check() -> None:
        Counted.num_entered = 0
        with pytest.raises((RequestValidationError, InvalidRequest)):
            await read_edit(request_of(media_type, text), AppArgs(), Counted(1))
        assert Counted.num_entered == 1

    check()


@pytest.mark.parametrize("media_type", [PLAIN, FORM])
def test_more_pictures_than_files_are_refused(media_type: str) -> None:
    @in_event_loop
    async def check() -> None:
        text = body_of(media_type, *["http://example.com/x.png"] * 17)
        with pytest.raises(InvalidRequest, match="image: 17 given; the limit is 16"):
            await read(request_of(media_type, text), AppArgs(image_urls="fetch"))

    check()


def test_fetched_pictures_together_are_no_larger_than_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = png_of_bytes(300)
    asked = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(body=picture)

    @in_event_loop
    async def check() -> None:
        limits = {"max_body_bytes": 1024}
        args = AppArgs.model_validate({"image_urls": "fetch", "limits": limits})
        fitting = 1024 // len(picture)
        async with site(handle) as server:
            monkeypatch.setattr(edit_pictures, "fetch_image", partial(fetch_image, policy=server.policy))
            urls = [server.url(f"/{number}") for number in range(16)]
            _, pictures = await read(request_of(JSON, body_of(JSON, *urls[:fitting])), args)
            assert len(pictures.images) == fitting > 1
            asked.clear()
            with pytest.raises(InvalidRequest, match=r"^image: more than 1024 bytes in all$"):
                await read(request_of(JSON, body_of(JSON, *urls)), args)
        assert len(asked) == fitting + 1

    check()


@in_event_loop
async def test_null_counts_as_absent_in_a_reference() -> None:
    url = data_url(png_of_bytes(1))
    body = {"prompt": "x", "images": [{"image_url": url, "file_id": None}], "mask": None}
    _, pictures = await read(request_of(JSON, json.dumps(body).encode()), AppArgs())
    assert len(pictures.images) == 1


@pytest.mark.parametrize("pictures", [{"images": ["data:"]}, {"mask": "data:"}])
def test_text_for_a_reference_says_what_is_wanted(pictures: dict[str, Any]) -> None:
    @in_event_loop
    async def check() -> None:
        text = json.dumps({"prompt": "x", **pictures}).encode()
        with pytest.raises(RequestValidationError, match="not an object: use"):
            await read(request_of(JSON, text), AppArgs())

    check()


def test_all_bodies_are_described() -> None:
    assert set(EDIT_BODY_SCHEMA["content"]) == {"multipart/form-data", JSON, PLAIN}
