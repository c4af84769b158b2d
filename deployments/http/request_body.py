"""Bodies of requests as they are read: decompressed, and never longer than the limit."""

import zlib

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

GZIP = ("gzip", "x-gzip")
CODINGS = (*GZIP, "deflate")
"""Values of Content-Encoding that are decompressed."""
_PIECE_BYTES = 2**16


def limited(receive: Receive, *, limit: int) -> Receive:
    """Limit a body that comes without a length: receiving more raises an error."""
    num_bytes = 0

    async def receive_limited() -> Message:
        nonlocal num_bytes
        message = await receive()
        if message["type"] == "http.request":
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                # FastAPI passes on only this kind of error while it reads a body.
                raise HTTPException(413, too_large("too many bytes", limit))
        return message

    return receive_limited


def decompressed(receive: Receive, *, coding: str, limit: int) -> Receive:
    """Decompress a body in small pieces, with the limit on what comes in and on what comes out."""
    return limited(_Decompressed(limited(receive, limit=limit), coding), limit=limit)


def too_large(found: str, limit: int) -> str:
    """Return the message for a body above the limit."""
    return f"body: {found}; the limit is {limit}"


class _Decompressed:
    """A body's pieces, decompressed; a few bytes may stand for gigabytes, so that a piece has a limit."""

    def __init__(self, receive: Receive, coding: str) -> None:
        self._receive = receive
        self._coding = coding
        self._inflate: zlib._Decompress | None = None
        self._data = b""  # compressed
        self._comes_more = True
        self._has_ended = False

    async def __call__(self) -> Message:
        """Return the next piece, or what is not of the body as it comes."""
        while not self._has_ended:
            piece = self._next_piece()
            if piece:
                return {"type": "http.request", "body": piece, "more_body": True}
            if not self._comes_more:
                self._has_ended = True
                if self._data or (self._inflate and not self._inflate.eof):
                    raise self._invalid()
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._data += message.get("body", b"")
            self._comes_more = message.get("more_body", False)
        return await self._receive()

    def _next_piece(self) -> bytes:
        """Decompress at most one piece of what has come."""
        while True:
            inflate = self._inflate
            if inflate is None or inflate.eof:
                # The first two bytes tell formats apart. A gzip file may be followed by another one.
                if len(self._data) < 2 or (inflate and self._coding not in GZIP):
                    return b""
                inflate = self._inflate = zlib.decompressobj(self._window_bits())
            try:
                piece = inflate.decompress(self._data, _PIECE_BYTES)
            except zlib.error:
                raise self._invalid() from None
            self._data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            if piece or not self._data:
                return piece

    def _window_bits(self) -> int:
        if self._coding in GZIP:
            return 16 + zlib.MAX_WBITS
        # RFC 9110, 8.4.1.2: "deflate" is the zlib format, but some clients send it without zlib's header,
        # which is a multiple of 31.
        has_header = self._data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(self._data[:2]) % 31 == 0
        return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS

    def _invalid(self) -> HTTPException:
        return HTTPException(400, f"not valid {self._coding}, as Content-Encoding says")
