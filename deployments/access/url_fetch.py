"""Fetches images from clients' URLs, only from public addresses (no server-side request forgery).

The address is checked where its socket is opened, so the connection goes to the very address checked: no odd
host spelling, redirect or second DNS answer gets past the check.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from zimage_models.errors import FetchFailed, InvalidRequest

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV6_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Global according to the registry, but internal to a cloud: Azure's wire server, and the block of Oracle's
# metadata service, which Python before 3.11.10 considers global.
_CLOUD_INTERNAL = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHUNK_BYTES = 2**16


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is on the public internet; an embedded IPv4 address decides, if any."""
    if isinstance(address, IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            embedded = IPv4Address(address.packed[-4:])
        if embedded is not None:
            return is_public(embedded)
        return address in _IPV6_GLOBAL_UNICAST and address.is_global
    is_internal = address.is_multicast or any(address in network for network in _CLOUD_INTERNAL)
    return address.is_global and not is_internal


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlPolicy:
    """Where images may be fetched from."""

    allowed_ports: frozenset[int] = frozenset({80, 443})
    is_allowed: Callable[[IPv4Address | IPv6Address], bool] = is_public
    resolver: AbstractResolver | None = None
    """None uses the system's."""
    trusted: frozenset[tuple[str, int]] = frozenset()
    """Hosts and ports allowed whatever their addresses, such as those of a private store."""

    def trusts(self, url: URL) -> bool:
        """Return whether a URL's host and port are trusted."""
        return (url.host, url.port) in self.trusted


PUBLIC_WEB = UrlPolicy()


async def fetch_image(
    url: str,
    *,
    field: str,
    max_bytes: int,
    timeout_s: float,
    max_redirects: int = 3,
    policy: UrlPolicy = PUBLIC_WEB,
    too_large: str | None = None,
) -> bytes:
    """Fetch the bytes behind an http(s) URL, following redirects under the same policy.

    Args:
        url: as the client wrote it.
        field: the request's field, for errors.
        max_bytes: limit of the body, counted as it arrives, so that no more is held.
        timeout_s: limit for everything, including name resolution and redirects.
        max_redirects: redirects to follow before giving up.
        policy: ports and addresses that may be connected to.
        too_large: why a body above ``max_bytes`` is refused, if that is not the limit of one file.

    Raises:
        InvalidRequest: the URL is refused, or the body is too large.
        FetchFailed: no usable body came back. The message contains nothing of the answer, and is the same for
            a forbidden address as for an unreachable one.
    """
    too_large = too_large or f"more than {max_bytes} bytes"
    fetch = _Fetch(field=field, max_bytes=max_bytes, policy=policy, too_large=too_large)
    try:
        async with asyncio.timeout(timeout_s):
            return await fetch.follow(url, max_redirects)
    except TimeoutError as error:
        raise fetch.failure(f"took longer than {timeout_s:g} s", is_transient=True) from error
    except aiohttp.ClientSSLError as error:
        raise fetch.failure("the TLS connection failed") from error
    except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
        reason = "no permitted address of the host could be reached"
        raise fetch.failure(reason, is_transient=True) from error
    # ValueError: an invalid host name (IDNA).
    except (aiohttp.ClientError, OSError, ValueError) as error:
        reason = f"the fetch failed ({type(error).__name__})"
        raise fetch.failure(reason, is_transient=not isinstance(error, ValueError)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetch:
    field: str
    max_bytes: int
    policy: UrlPolicy
    too_large: str

    def refusal(self, reason: str) -> InvalidRequest:
        return InvalidRequest(f"{self.field}: {reason}", field=self.field)

    def failure(self, reason: str, *, is_transient: bool = False) -> FetchFailed:
        return FetchFailed(f"{self.field}: {reason}", field=self.field, is_transient=is_transient)

    async def follow(self, url: str, max_redirects: int) -> bytes:
        target = self.checked(URL(), url)
        for _ in range(max_redirects + 1):
            # One session per hop: a trusted host's connection must not serve another host.
            async with (
                self.session(is_trusted=self.policy.trusts(target)) as session,
                session.get(target, allow_redirects=False) as response,
            ):
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    return await self.body(response)
                target = self.checked(target, location)
        raise self.refusal(f"more than {max_redirects} redirects")

    def session(self, *, is_trusted: bool) -> aiohttp.ClientSession:
        is_allowed = _anywhere if is_trusted else self.policy.is_allowed
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=self.policy.resolver,
                socket_factory=partial(_open_socket, is_allowed),
                use_dns_cache=False,
            ),
            headers={"Accept": "image/*", "Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),
            trust_env=False,
        )

    def checked(self, base: URL, url: str) -> URL:
        try:
            target = base.join(URL(url))
            scheme, port, has_login = target.scheme, target.port, bool(target.user or target.password)
        except ValueError as error:
            raise self.refusal("not a URL") from error
        if scheme not in ("http", "https") or not target.host:
            raise self.refusal("not an http or https URL with a host")
        if has_login:
            raise self.refusal("a URL with a user name or password is refused")
        if port not in self.policy.allowed_ports and not self.policy.trusts(target):
            allowed = ", ".join(map(str, sorted(self.policy.allowed_ports)))
            raise self.refusal(f"port {port} is not one of {allowed}")
        return target

    async def body(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            reason = f"the host answered with status {response.status}, not 200"
            raise self.failure(reason, is_transient=response.status in _TRANSIENT)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self.failure("the host sent a compressed body though none was asked for")
        if (response.content_length or 0) > self.max_bytes:
            raise self.refusal(self.too_large)
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > self.max_bytes:
                raise self.refusal(self.too_large)
        return bytes(body)


def _anywhere(address: IPv4Address | IPv6Address) -> bool:
    return True


def _open_socket(
    is_allowed: Callable[[IPv4Address | IPv6Address], bool], address_info: aiohttp.AddrInfoType
) -> socket.socket:
    family, kind, protocol, _, address = address_info
    if not is_allowed(ipaddress.ip_address(address[0])):
        # An OSError makes aiohttp try the host's next address.
        raise PermissionError("forbidden address")
    return socket.socket(family, kind, protocol)
