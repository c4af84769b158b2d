"""Serve's HTTP server, changed in one thing: it answers requests that offer to change the protocol.

Serve calls :func:`ignore_upgrades` in each process that runs a server if the environment variable
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` is :data:`CALLBACK`, as in ``zimage serve`` and the Dockerfile.
"""

import httptools
from starlette.middleware import Middleware
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CALLBACK = "deployments.http.server_protocol:ignore_upgrades"


def ignore_upgrades() -> list[Middleware]:
    """Make the servers that this process starts ignore upgrades; return Serve's middleware, of which none."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{UpgradeIgnoringProtocol.__name__}"
    return []


class UpgradeIgnoringProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which ignores an Upgrade header unless it asks for a WebSocket.

    A server that does not switch answers as if the header was not there (RFC 9110, 7.8). Java's HttpClient
    and ``curl --http2`` offer HTTP/2 with their first request. httptools (0.9) ends such a request after
    its headers, and uvicorn (0.54) answers it without its body. Here it starts again without the offer.
    """

    def data_received(self, data: bytes) -> None:
        """Read what the client sent."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            elif self._ignores_upgrade():
                head = self._head_without_upgrade()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                self.data_received(head + data[upgrade.args[0] :])

    def on_headers_complete(self) -> None:
        """Start a request, unless it starts again without its upgrade."""
        if not self._ignores_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request, unless it starts again without its upgrade."""
        if not self._ignores_upgrade():
            super().on_message_complete()

    def _ignores_upgrade(self) -> bool:
        # The parser sees an upgrade in CONNECT too, with and without the header.
        is_offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        return is_offer and not self._should_upgrade()

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
