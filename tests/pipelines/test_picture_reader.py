import asyncio
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from pipelines.picture_reader import PictureAccess, PictureReader, parse_host
from pipelines.storage import StorageOptions
from pipelines.storage_address import open_storage
from tests.deployments.event_loop import in_event_loop
from tests.deployments.locked_endpoint.attacks import LOOPBACK_URLS
from tests.picture_site import IMAGE, UNREACHABLE, Handler, Names, Site, image, redirecting, site, trap
from tests.s3_server import S3Server
from zimage_models.errors import FetchFailed, InvalidRequest

SOON = {"backoff_s": 0.01}


def reader(root: object = "/nowhere", **access: object) -> PictureReader:
    return PictureReader(PictureAccess(root=str(root), **SOON, **access))  # type: ignore[arg-type]


def read(reader: PictureReader, address: str, max_bytes: int = 1000) -> bytes:
    return reader.read(address, field="image", max_bytes=max_bytes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.png").write_bytes(b"secret")
    root = tmp_path / "table"
    (root / "photos").mkdir(parents=True)
    (root / "photos" / "a.png").write_bytes(b"photo a")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "inner.png").symlink_to("photos/a.png")
    os.mkfifo(root / "pipe.png")
    return root


@pytest.mark.parametrize(
    "address", ["photos/a.png", "./photos/../photos/a.png", "inner.png", "{root}/photos/a.png"]
)
def test_paths_start_at_the_root(folder: Path, address: str) -> None:
    assert read(reader(folder), address.format(root=folder)) == b"photo a"


@pytest.mark.parametrize(
    "address", ["../secret.png", "/etc/passwd", "photos/../../secret.png", "link.png", "../table2/a.png", "/"]
)
def test_no_path_leaves_the_root(folder: Path, address: str) -> None:
    with pytest.raises(
        InvalidRequest, match=r"image: .* is outside .*; set another folder with --image-root"
    ) as refusal:
        read(reader(folder), address)
    assert refusal.value.error_class == "bad_input"


@pytest.mark.parametrize("address", ["none.png", "photos", "pipe.png", "a\0b", "x" * 5000, ""])
def test_what_is_no_file_cannot_be_fetched(folder: Path, address: str) -> None:
    with pytest.raises(FetchFailed, match="image: ") as failure:
        read(reader(folder), address)
    assert failure.value.error_class == "fetch_failed"


def test_a_huge_file_is_not_read_whole(folder: Path) -> None:
    with (folder / "huge.png").open("wb") as file:
        file.truncate(2**40)
    assert read(reader(folder), "huge.png", max_bytes=10) == bytes(11)


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "FILE:///etc/passwd", "ftp://host/a.png", "gs://bucket/a.png", "://a"]
)
def test_other_schemes_are_refused(folder: Path, address: str) -> None:
    with pytest.raises(InvalidRequest, match=r"image: .* is not a picture address"):
        read(reader(folder, allow_urls=True), address)


def test_objects_are_read_by_address_and_under_a_root(s3: S3Server, bucket: str) -> None:
    options = StorageOptions(s3_endpoint_url=s3.endpoint_url)
    storage = open_storage(bucket, options)
    storage.write("photos/a.png", b"photo a")
    storage.write("huge.png", bytes(2**20))
    on_disk, in_s3 = reader(storage=options), reader(f"{bucket}/photos", storage=options)
    assert read(on_disk, f"{bucket}/photos/a.png") == read(in_s3, "a.png") == b"photo a"
    assert read(on_disk, f"{bucket}/huge.png", max_bytes=10) == bytes(11)
    with pytest.raises(FetchFailed, match="does not exist"):
        read(in_s3, "b.png")
    with pytest.raises(FetchFailed, match="there is no bucket 'none-such'"):
        read(on_disk, "s3://none-such/a.png")
    for address in ("../huge.png", "/a.png", "a//b.png", ""):
        with pytest.raises(InvalidRequest, match="image: ") as refusal:
            read(in_s3, address)
        assert refusal.value.error_class == "bad_input"


# The web


def on_web(server: Site, **changes: object) -> PictureReader:
    """Make a reader to which the site's first address is the public web."""
    access = PictureAccess(root="/nowhere", allow_urls=True, **SOON)
    return PictureReader(replace(access, **changes), policy=server.policy)  # type: ignore[arg-type]


async def failure(server: Site, url: str, **changes: object) -> str:
    with pytest.raises(InvalidRequest) as refusal:
        await asyncio.to_thread(read, on_web(server, **changes), url)
    server.trap.assert_untouched()
    return f"{refusal.value.error_class}: {refusal.value}"


@in_event_loop
async def test_urls_are_fetched_where_allowed() -> None:
    async with site(image) as server:
        assert await asyncio.to_thread(read, on_web(server), server.url()) == IMAGE
        assert "URLs are fetched only with --allow-urls" in await failure(
            server, server.url(), allow_urls=False
        )


@in_event_loop
async def test_a_trusted_host_needs_no_further_permission() -> None:
    async with site(image) as server:
        trusting = reader(trusted_hosts=parse_host(f"127.0.0.1:{server.port}"))
        assert await asyncio.to_thread(read, trusting, server.url(host="127.0.0.1")) == IMAGE
        with pytest.raises(InvalidRequest, match="--allow-urls"):
            await asyncio.to_thread(read, trusting, "http://127.0.0.2/")


@pytest.mark.parametrize("template", LOOPBACK_URLS)
def test_no_spelling_of_this_machine_is_fetched(folder: Path, template: str) -> None:
    # Names are resolved by the system: without a network none of a cloud's is known.
    with trap(2, "127.0.0.1") as listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(InvalidRequest, match="image: "):
            read(reader(folder, allow_urls=True, num_attempts=1), template.format(port=port))
        listener.assert_untouched()


@in_event_loop
async def test_redirects_and_rebinding_lead_nowhere_else() -> None:
    async with site(redirecting("http://forbidden.test:{port}/")) as server:
        assert await failure(server, server.url("/0")) == f"fetch_failed: {UNREACHABLE}"
    async with site(redirecting("http://rebinding.test:{port}/1")) as server:
        server.policy = replace(server.policy, resolver=Names(rebinding_test=[["127.0.0.1"], ["127.0.0.2"]]))
        assert (
            await failure(server, server.url("/0", host="rebinding.test")) == f"fetch_failed: {UNREACHABLE}"
        )


async def slow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(2**16))


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (slow, "fetch_failed: image: took longer than 0.2 s"),
        (endless, "bad_input: image: more than 1000 bytes"),
    ],
)
@in_event_loop
async def test_hostile_servers_are_given_up(handler: Handler, reason: str) -> None:
    async with site(handler) as server:
        timeout_s = 0.2 if handler is slow else 20.0
        tracemalloc.start()
        assert await failure(server, server.url(), timeout_s=timeout_s, num_attempts=1) == reason
        assert tracemalloc.get_traced_memory()[1] < 2**23
        tracemalloc.stop()


@pytest.mark.parametrize(("failures", "num_calls", "works"), [(2, 3, True), (9, 3, False)])
@in_event_loop
async def test_what_may_pass_is_tried_again(failures: int, num_calls: int, works: bool) -> None:
    calls = []

    async def handle(request: web.Request) -> web.StreamResponse:
        calls.append(request)
        return web.Response(status=503) if len(calls) <= failures else web.Response(body=IMAGE)

    async with site(handle) as server:
        if works:
            assert await asyncio.to_thread(read, on_web(server), server.url()) == IMAGE
        else:
            assert "status 503" in await failure(server, server.url())
    assert len(calls) == num_calls


@in_event_loop
async def test_what_will_not_pass_is_tried_once() -> None:
    calls = []

    async def handle(request: web.Request) -> web.StreamResponse:
        calls.append(request)
        return web.Response(status=404)

    async with site(handle) as server:
        assert "status 404" in await failure(server, server.url())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("images.test", {("images.test", 80), ("images.test", 443)}),
        ("Images.test:8080", {("images.test", 8080)}),
        ("10.0.0.1:9000", {("10.0.0.1", 9000)}),
        ("[::1]:9000", {("::1", 9000)}),
    ],
)
def test_hosts_are_read(text: str, hosts: set[tuple[str, int]]) -> None:
    assert parse_host(text) == hosts


@pytest.mark.parametrize("text", ["", "http://a", "a/b", "user@a", "a:x", ":80", "a:"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST or HOST:PORT"):
        parse_host(text)
