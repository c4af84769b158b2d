import asyncio
import gzip
import ipaddress
import socket
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from deployments.access.url_fetch import UrlPolicy, fetch_image, is_public
from tests.deployments.event_loop import in_event_loop
from tests.picture_site import (
    FORBIDDEN,
    IMAGE,
    PUBLIC,
    SECRET,
    UNREACHABLE,
    Handler,
    Names,
    image,
    raw_site,
    redirecting,
    site,
    trap,
)
from zimage_models.errors import FetchFailed, InvalidRequest


class NeverAnswers(AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        pass


# What is fetched


@in_event_loop
async def test_image_comes_back() -> None:
    async with site(image) as server:
        assert await server.fetch(server.url()) == IMAGE
        assert await server.fetch(server.url(host=PUBLIC)) == IMAGE
        assert await server.fetch(server.url(), max_bytes=len(IMAGE)) == IMAGE


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@in_event_loop
async def test_redirects_are_followed(status: int) -> None:
    hops = redirecting("/1", "2?hop=2", "http://public.test:{port}/3", status=status)
    async with site(hops) as server:
        assert await server.fetch(server.url("/0")) == IMAGE
        assert await server.refusal(server.url("/0"), max_redirects=2) == "image: more than 2 redirects"


@in_event_loop
async def test_request_carries_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers)
        response = web.Response(status=302, headers={"Location": "/image"})
        response.set_cookie("session", "1")
        return response if len(seen) == 1 else web.Response(body=IMAGE)

    async with site(handle) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, server.url(host=FORBIDDEN))
        assert await server.fetch(server.url()) == IMAGE
        server.trap.assert_untouched()
    for headers in seen:
        assert headers["Accept-Encoding"] == "identity"
        assert not {"Cookie", "Authorization", "Referer"} & set(headers)


@in_event_loop
async def test_forbidden_answers_of_a_mixed_name_are_dropped() -> None:
    async with site(image) as server:
        assert await server.fetch(server.url(host="mixed.test")) == IMAGE
        server.trap.assert_untouched()


# Where a fetch may not go

# Behind a redirect these name a page of the same host.
RELATIVE = ("", "/etc/passwd", "//public.test:{port}/", "http://", "http:///path")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "not an http or https URL"),
        ("ftp://public.test:{port}/", "not an http or https URL"),
        ("gopher://public.test:{port}/_GET", "not an http or https URL"),
        ("data:image/png;base64,AAAA", "not an http or https URL"),
        ("unix:///var/run/docker.sock", "not an http or https URL"),
        ("javascript:alert(1)", "not an http or https URL"),
        ("public.test:{port}", "not an http or https URL"),
        ("//public.test:{port}/", "not an http or https URL"),
        ("/etc/passwd", "not an http or https URL"),
        ("", "not an http or https URL"),
        ("http://", "not a"),
        ("http:///path", "not a"),
        ("http://[::1", "not a URL"),
        ("http://public.test:99999/", "not a URL"),
        ("http://public.test:x/", "not a URL"),
        ("http://user@public.test:{port}/", "user name or password"),
        ("http://user:password@public.test:{port}/", "user name or password"),
        ("http://:password@public.test:{port}/", "user name or password"),
        ("http://public.test/", "port 80 is not one of"),
        ("https://public.test/", "port 443 is not one of"),
        ("http://public.test:22/", "port 22 is not one of"),
        ("http://public.test:0/", "port 0 is not one of"),
        ("http://forbidden.test:{port}/", UNREACHABLE),
        ("http://127.0.0.2:{port}/", UNREACHABLE),
        ("http://[::ffff:127.0.0.2]:{port}/", UNREACHABLE),
        ("http://public.test\\@127.0.0.2:{port}/", "image: "),
        ("http://public.test#@127.0.0.2:{port}/", "port 80 is not one of"),
        ("http://unknown.test:{port}/", UNREACHABLE),
    ],
)
@in_event_loop
async def test_url_is_refused_at_once_and_behind_a_redirect(url: str, reason: str) -> None:
    async with site(redirecting(url)) as server:
        assert reason in await server.refusal(url.format(port=server.port))
        if url not in RELATIVE:
            assert reason in await server.refusal(server.url("/0"))


@in_event_loop
async def test_trusted_host_may_have_any_address_and_port_and_no_other_may() -> None:
    hops = redirecting("/1", "http://127.0.0.2:{port}/")
    async with site(hops) as server:
        strict = replace(server.policy, is_allowed=lambda ip: False)
        trusted = frozenset({("public.test", server.port)})
        assert await server.refusal(server.url("/2"), policy=strict) == UNREACHABLE
        assert await server.fetch(server.url("/2"), policy=replace(strict, trusted=trusted)) == IMAGE
        assert await server.refusal(server.url("/0"), policy=replace(strict, trusted=trusted)) == UNREACHABLE
        no_ports = replace(strict, trusted=trusted, allowed_ports=frozenset({80}))
        assert await server.fetch(server.url("/2"), policy=no_ports) == IMAGE
        assert "is not one of 80" in await server.refusal(server.url(host="mixed.test"), policy=no_ports)


@pytest.mark.parametrize(
    ("status", "is_transient"), [(404, False), (403, False), (429, True), (500, True), (503, True)]
)
@in_event_loop
async def test_failures_that_may_pass_are_told_apart(status: int, is_transient: bool) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    async with site(handle) as server:
        with pytest.raises(FetchFailed) as failure:
            await server.fetch(server.url())
    assert failure.value.is_transient is is_transient
    assert failure.value.error_class == "fetch_failed"


def test_default_ports_are_those_of_the_web() -> None:
    with pytest.raises(InvalidRequest, match="image: port 8080 is not one of 80, 443"):
        asyncio.run(fetch_image("http://example.com:8080/", field="image", max_bytes=1, timeout_s=30))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "localhost.", "LOCALHOST", "127.0.0.1.", "127.1", "0x7f.1", "0x7f000001",
        "2130706433", "017700000001", "0177.0.0.1", "127.000.000.001", "0", "0.0.0.0", "[::]", "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
        "①②⑦.⓪.⓪.①", "127。0。0。1", "%31%32%37.0.0.1", "[::1%25lo]",
    ],
)  # fmt: skip
@in_event_loop
async def test_no_spelling_reaches_this_machine(host: str) -> None:
    with trap(socket.AF_INET, "0.0.0.0") as ipv4:
        port = ipv4.socket.getsockname()[1]
        with trap(socket.AF_INET6, "::", port) as ipv6:
            policy = UrlPolicy(allowed_ports=frozenset({port}))
            with pytest.raises(InvalidRequest, match="image: "):
                await fetch_image(
                    f"http://{host}:{port}/", field="image", max_bytes=1000, timeout_s=30, policy=policy
                )
            ipv4.assert_untouched()
            ipv6.assert_untouched()


def test_host_that_is_no_name_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="image: "):
        asyncio.run(
            fetch_image(f"http://{'a' * 70}.example.com/", field="image", max_bytes=1000, timeout_s=30)
        )


@in_event_loop
async def test_rebinding_name_is_judged_at_every_connection() -> None:
    async with site(redirecting("http://rebinding.test:{port}/1")) as server:
        url = server.url("/0", host="rebinding.test")
        both_public = replace(server.policy, resolver=Names(rebinding_test=[[PUBLIC]]))
        assert await server.fetch(url, policy=both_public) == IMAGE
        rebinding = replace(server.policy, resolver=Names(rebinding_test=[[PUBLIC], [FORBIDDEN]]))
        assert await server.refusal(url, policy=rebinding) == UNREACHABLE


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("1.1.1.1", True), ("172.32.0.1", True), ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True), ("64:ff9b::808:808", True), ("2002:808:808::1", True),
        ("0.0.0.0", False), ("10.1.2.3", False), ("100.64.0.1", False), ("100.100.100.200", False),
        ("127.0.0.1", False), ("127.255.255.254", False), ("169.254.169.254", False), ("169.254.0.2", False),
        ("172.16.0.1", False), ("172.31.255.255", False), ("192.168.1.1", False), ("192.0.0.192", False),
        ("192.0.2.1", False), ("168.63.129.16", False), ("198.18.0.1", False), ("224.0.0.1", False),
        ("239.1.1.1", False), ("240.0.0.1", False), ("255.255.255.255", False),
        ("::", False), ("::1", False), ("::127.0.0.1", False), ("::8.8.8.8", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False), ("64:ff9b:1::1", False), ("100::1", False), ("2001::1", False),
        ("2001:db8::1", False), ("2002:a9fe:a9fe::1", False), ("fc00::1", False), ("fd00:ec2::254", False),
        ("fe80::1", False), ("fe80::1%eth0", False), ("fec0::1", False), ("ff02::1", False),
        ("ff0e::1", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


# What comes back


async def declared_too_large(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1001"})
    await response.prepare(request)
    await asyncio.Event().wait()  # the refusal needs no byte of the body
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(1000))


@pytest.mark.parametrize("handler", [declared_too_large, endless])
@in_event_loop
async def test_too_large_body_is_refused(handler: Handler) -> None:
    async with site(handler) as server:
        assert await server.refusal(server.url()) == "image: more than 1000 bytes"


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("handler", [silent, dripping])
@in_event_loop
async def test_slow_server_is_given_up(handler: Handler) -> None:
    async with site(handler) as server:
        assert await server.refusal(server.url(), timeout_s=0.2) == "image: took longer than 0.2 s"


@in_event_loop
async def test_slow_name_resolution_is_given_up() -> None:
    async with site(image) as server:
        policy = replace(server.policy, resolver=NeverAnswers())
        reason = await server.refusal(server.url(), policy=policy, timeout_s=0.2)
        assert reason == "image: took longer than 0.2 s"


def reply(status: str, *headers: str, body: bytes = SECRET.encode()) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


BOMB = gzip.compress(bytes(10**7))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply("404 Not Found"), "the host answered with status 404, not 200"),
        (reply("500 " + SECRET), "the host answered with status 500, not 200"),
        (reply("204 No Content", body=b""), "the host answered with status 204, not 200"),
        (reply("304 Not Modified", body=b""), "the host answered with status 304, not 200"),
        (reply("206 Partial Content"), "the host answered with status 206, not 200"),
        (reply("302 Found"), "the host answered with status 302, not 200"),
        (reply("200 OK", "Content-Encoding: gzip", body=BOMB[:900]), "compressed body"),
        (reply("200 OK", "Content-Encoding: br, gzip"), "compressed body"),
        (reply("200 OK", "Content-Length: 999999999999"), "more than 1000 bytes"),
        (reply("200 OK", "Content-Length: -1"), "the fetch failed"),
        (reply("200 OK", "Content-Length: 500"), "the fetch failed"),
        (reply("200 OK", "Transfer-Encoding: chunked", body=b"zz\r\n"), "the fetch failed"),
        (reply("200 OK", "X: " + "x" * 100_000), "the fetch failed"),
        (b"220 smtp " + SECRET.encode() + b"\r\n\r\n", "the fetch failed"),
        (b"", "the fetch failed"),
    ],
)
@in_event_loop
async def test_unusable_answers_are_refused(answer: bytes, reason: str) -> None:
    async with raw_site(answer) as server:
        assert f"image: {reason}" in (await server.refusal(server.url())).replace("the host sent a ", "")


@in_event_loop
async def test_plain_http_on_a_tls_port_is_refused() -> None:
    async with site(image) as server:
        assert (
            await server.refusal(server.url().replace("http", "https")) == "image: the TLS connection failed"
        )


@in_event_loop
async def test_closed_port_reads_like_a_forbidden_address() -> None:
    async with site(image) as server:
        policy = replace(
            server.policy, resolver=Names(public_test=[["127.0.0.3"]]), is_allowed=lambda ip: True
        )
        assert await server.refusal(server.url(), policy=policy) == UNREACHABLE
