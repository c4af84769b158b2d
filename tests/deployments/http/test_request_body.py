"""Compressed bodies, in pieces of any size."""

import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from deployments.http.request_guard import MAX_JSON_BYTES
from tests.deployments.event_loop import in_event_loop
from tests.deployments.guarded_app import post

TEXT = b"".join(b"line %d\n" % number for number in range(50_000))


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


COMPRESSED = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "capitals": ("GZip", gzip.compress(TEXT)),
    "the old name": ("x-gzip", gzip.compress(TEXT)),
    "two gzip files": ("gzip", gzip.compress(TEXT[:1000]) + gzip.compress(b"") + gzip.compress(TEXT[1000:])),
    "deflate": ("deflate", zlib.compress(TEXT)),
    "deflate without a header": ("deflate", raw_deflate(TEXT)),
}


def pieces(data: bytes, num_bytes: int) -> AsyncIterator[bytes]:
    async def iterate() -> AsyncIterator[bytes]:
        for start in range(0, len(data), num_bytes):
            yield data[start : start + num_bytes]

    return iterate()


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("piece_bytes", [1, 1000, 10**9])
@in_event_loop
async def test_compressed_body_is_read(name: str, piece_bytes: int) -> None:
    coding, data = COMPRESSED[name]
    response = await post("/text", content=pieces(data, piece_bytes), headers={"Content-Encoding": coding})
    assert response.content == TEXT


@pytest.mark.parametrize("num_bytes", [0, 1, MAX_JSON_BYTES])
@in_event_loop
async def test_body_may_decompress_to_the_limit(num_bytes: int) -> None:
    response = await post(
        "/read", content=gzip.compress(bytes(num_bytes)), headers={"Content-Encoding": "gzip"}
    )
    assert (response.status_code, response.json()) == (200, num_bytes)


@in_event_loop
async def test_request_without_a_body_may_say_that_it_is_compressed() -> None:
    response = await post("/read", headers={"Content-Encoding": "gzip"})
    assert (response.status_code, response.json()) == (200, 0)


@pytest.mark.parametrize(
    ("coding", "content", "status"),
    [
        ("gzip", gzip.compress(bytes(MAX_JSON_BYTES + 1)), 413),
        ("gzip", gzip.compress(b"") * 60_000, 413),
        ("gzip", gzip.compress(TEXT)[:-1], 400),
        ("gzip", gzip.compress(TEXT) + b"\0", 400),
        ("gzip", gzip.compress(TEXT) + b"more", 400),
        ("gzip", zlib.compress(TEXT), 400),
        ("gzip", b"\x1f", 400),
        ("deflate", zlib.compress(TEXT)[:-1], 400),
        ("deflate", zlib.compress(TEXT) * 2, 400),
        ("deflate", gzip.compress(TEXT), 400),
        ("zstd", TEXT, 415),
        ("gzip, deflate", TEXT, 415),
    ],
)
@pytest.mark.parametrize("piece_bytes", [50, 10**9])
@in_event_loop
async def test_what_cannot_be_decompressed_is_refused(
    coding: str, content: bytes, status: int, piece_bytes: int
) -> None:
    headers = {"Content-Encoding": coding}
    response = await post("/read", content=pieces(content, piece_bytes), headers=headers)
    assert response.status_code == status
    if status == 415:
        assert response.headers["accept-encoding"] == "gzip, x-gzip, deflate"
        assert response.json()["error"]["message"].startswith(f"Content-Encoding: {coding!r} is not one of")
