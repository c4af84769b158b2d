"""Image files of every kind that a stranger may send, and why each hostile one is refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SIZE = (48, 32)
ORANGE = (240, 120, 40)


def without_bytes(value: object) -> str | None:
    """Name a case by what is expected, not by a file's bytes."""
    return "file" if isinstance(value, bytes) else None


def file_of(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def plain(mode: str = "RGB", colour: Any = ORANGE, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new(mode, size, colour)


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_of(
    size: tuple[int, int], *chunks: tuple[bytes, bytes], depth: int = 8, colour_type: int = 2
) -> bytes:
    """Make a PNG of any header, however little stands behind it."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, body in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return b"".join(parts)


def animated(image_format: str) -> bytes:
    return file_of(
        plain(), image_format, save_all=True, append_images=[plain(colour=(1, 2, 3))], duration=100
    )


def jpeg_of_many_scans() -> bytes:
    data = file_of(noise(), "jpeg", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last_scan * 200 + data[-2:]


def webp_of_canvas(size: tuple[int, int]) -> bytes:
    canvas = b"".join((side - 1).to_bytes(3, "little") for side in size)
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + file_of(noise(), "webp")[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


HOSTILE_FILES: list[tuple[bytes, str]] = [
    (b"", "not a readable PNG, JPEG or WebP image"),
    (b"<html>not an image</html>", "not a readable PNG, JPEG or WebP image"),
    (
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "not a readable",
    ),
    (b"<script>alert(1)</script>" + file_of(plain(), "png"), "not a readable"),
    (b"%PDF-1.7\n" + file_of(plain(), "jpeg"), "a PDF; only"),
    (b"GIF89a/*" + file_of(plain(), "gif")[8:], "a GIF; only PNG, JPEG or WebP are read"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a readable"),
    (b"%PDF-1.7\n", "a PDF; only"),
    (file_of(plain(), "gif"), "a GIF; only PNG, JPEG or WebP are read"),
    (file_of(plain(), "tiff"), "a TIFF; only"),
    (file_of(plain(), "bmp"), "a BMP; only"),
    (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC; only PNG, JPEG or WebP are read"),
    (file_of(plain(), "ico"), "not a readable"),
    (file_of(plain(), "pdf"), "a PDF; only"),
    (file_of(plain(), "jpeg2000"), "not a readable"),
    (file_of(plain(), "ppm"), "not a readable"),
    (file_of(plain(), "avif"), "an AVIF; only"),
    (animated("png"), "animated PNG"),
    (animated("webp"), "animated WEBP"),
    (file_of(plain(size=(1, 1)), "png"), "1x1 has a side below 16 pixels"),
    (file_of(plain(size=(30_000, 1)), "png"), "30000x1 has a side below 16 pixels"),
    (file_of(plain(size=(15, 100)), "png"), "15x100 has a side below 16 pixels"),
    (file_of(plain(size=(16, 129)), "png"), "16x129 is more elongated than 8 to 1"),
    (png_of((5001, 5000)), "5001x5000 has more than 25000000 pixels"),
    (png_of((2**31 - 1, 2**31 - 1)), "more than 25000000 pixels"),
    (png_of((0, 64)), "not a readable"),
    (png_of((64, 64)), "damaged or cut off"),
    (png_of((64, 64), (b"IDAT", b"not zlib")), "damaged or cut off"),
    (png_of((64, 64), (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))), (b"IDAT", b"")), "damaged"),
    (webp_of_canvas((8000, 8000)), "damaged or cut off|more than 25000000 pixels"),
    (file_of(plain(size=(5008, 5008)), "webp", method=0), "5008x5008 has more than 25000000 pixels"),
    (jpeg_of_many_scans(), "JPEG scans; the limit is 100"),
]
"""Each with what the refusal says."""
