"""A web site for tests, and a listening socket beside it that nothing may connect to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from deployments.access.url_fetch import UrlPolicy, fetch_image
from zimage_models.errors import InvalidRequest

# In these tests 127.0.0.1 plays the public internet, and 127.0.0.2 a forbidden address.
PUBLIC, FORBIDDEN = "127.0.0.1", "127.0.0.2"
IMAGE = b"\x89PNG not really"
SECRET = "internal secret"
UNREACHABLE = "image: no permitted address of the host could be reached"


class Names(AbstractResolver):
    """Answers each name with its next list of addresses; the last one stays."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): list(lists) for name, lists in answers.items()}

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        if host not in self._answers:
            raise OSError(f"{host} is not known")
        answers = self._answers[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        pass


@dataclass
class Trap:
    """A listening socket that nothing may connect to."""

    socket: socket.socket

    def assert_untouched(self) -> None:
        with pytest.raises(BlockingIOError):
            self.socket.accept()


@contextmanager
def trap(family: socket.AddressFamily, address: str, port: int = 0) -> Iterator[Trap]:
    with socket.create_server((address, port), family=family) as listener:
        listener.setblocking(False)
        yield Trap(listener)


@dataclass
class Site:
    port: int
    policy: UrlPolicy
    trap: Trap

    def url(self, path: str = "/", host: str = "public.test") -> str:
        return f"http://{host}:{self.port}{path}"

    async def fetch(self, url: str, **changes: object) -> bytes:
        options = {"field": "image", "max_bytes": 1000, "timeout_s": 30.0, "policy": self.policy, **changes}
        return await fetch_image(url, **options)  # type: ignore[arg-type]

    async def refusal(self, url: str, **changes: object) -> str:
        with pytest.raises(InvalidRequest) as refusal:
            await self.fetch(url, **changes)
        assert refusal.value.field == "image"
        assert SECRET not in str(refusal.value)
        self.trap.assert_untouched()
        return str(refusal.value)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def site(handler: Handler) -> AsyncIterator[Site]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, PUBLIC, 0).start()
    port = runner.addresses[0][1]
    names = Names(public_test=[[PUBLIC]], forbidden_test=[[FORBIDDEN]], mixed_test=[[FORBIDDEN, PUBLIC]])
    policy = UrlPolicy(
        allowed_ports=frozenset({port}), is_allowed=lambda ip: str(ip) == PUBLIC, resolver=names
    )
    with trap(socket.AF_INET, FORBIDDEN, port) as forbidden:
        try:
            yield Site(port=port, policy=policy, trap=forbidden)
        finally:
            await runner.cleanup()


@asynccontextmanager
async def raw_site(reply: bytes) -> AsyncIterator[Site]:
    """Serve fixed bytes, then close the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, PUBLIC, 0)
    port = server.sockets[0].getsockname()[1]
    policy = UrlPolicy(
        allowed_ports=frozenset({port}), is_allowed=lambda ip: True, resolver=Names(public_test=[[PUBLIC]])
    )
    async with server:
        with trap(socket.AF_INET, FORBIDDEN, port) as forbidden:
            yield Site(port=port, policy=policy, trap=forbidden)


async def image(request: web.Request) -> web.StreamResponse:
    return web.Response(body=IMAGE)


def redirecting(*locations: str, status: int = 302) -> Handler:
    """Redirect along the locations, then serve the image; ``{port}`` in a location is the server's."""

    async def handle(request: web.Request) -> web.StreamResponse:
        hop = int(request.query.get("hop", request.match_info["path"] or 0))
        if hop == len(locations):
            return web.Response(body=IMAGE)
        location = locations[hop].format(port=request.url.port)
        response = web.Response(status=status, headers={"Location": location}, text=SECRET)
        response.force_close()  # so that the next hop resolves and connects anew
        return response

    return handle
