"""Check and decode the images that clients send. It knows nothing about HTTP.

Nothing here trusts a file name or a content type, and no pixel is decoded before the size in the header has
been checked. Decoding takes up to seconds of CPU time: call it outside the event loop.
"""

import binascii
import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_codec import MIME_TYPES
from zimage_models.image_files.xmp import describe_file
from zimage_models.pictures import Picture, stand_in

# A JPEG scan is one pass over all pixels and may be only 42 bytes long. At 25 million pixels, 500 scans took
# 6.5 s of one core (Pillow 13), and 50 MiB hold a million of them. Encoders write about ten.
_MAX_JPEG_SCANS = 100
_LONGEST_DATA_URL_HEAD = 64
READABLE_FORMATS = ("png", "jpeg", "webp")
"""Formats that are read from anyone. AVIF is only for trusted senders, because its header bounds nothing: a
file of 1.2 kB that declares 64x64 makes libavif decode 8192x8192 and scale down (Pillow 13); libavif's own
limit is 16384x16384."""
# What other pictures begin with, for messages. ISO 14496-12: HEIC and AVIF have their brand after "ftyp".
_STARTS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"8BPS": "a PSD",
}
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF"),
}
# EXIF orientations that swap width and height (EXIF 2.32, 4.6.4).
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """Limits of an image from outside. The byte limits are those of OpenAI's image edits."""

    max_bytes: int = 50 * 2**20
    max_mask_bytes: int = 4 * 2**20
    max_pixels: int = 25 * 10**6
    """Limit on pixels; decoding briefly holds up to 16 bytes for each."""
    min_side: int = 16
    max_aspect_ratio: float = 8.0
    formats: tuple[str, ...] = READABLE_FORMATS


def read_outline(data: bytes, *, field: str, limits: ImageLimits, is_mask: bool = False) -> Picture:
    """Check an image as far as possible without decoding its pixels.

    Returns:
        A stand-in with the size of the upright image and the file's sha256.

    Raises:
        InvalidRequest: the file is not an accepted image, is animated, is cut off or damaged in its header,
            or is outside the limits.
    """
    max_bytes = limits.max_mask_bytes if is_mask else limits.max_bytes
    image = _open(data, field=field, limits=limits, max_bytes=max_bytes)
    width, height = image.size
    # A PNG's EXIF may come after its pixels, so Pillow decodes a PNG that has none before them.
    if image.format != "PNG" or b"eXIf" in data or b"tiff:Orientation" in data:
        with _translated_errors(field, limits):
            if image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS:
                width, height = height, width
    return stand_in(height, width, sha256=hashlib.sha256(data).hexdigest(), is_mask=is_mask)


def read_image(data: bytes, *, field: str, limits: ImageLimits) -> Picture:
    """Decode one still image to RGB: upright by its EXIF orientation, with alpha composed on white.

    Raises:
        InvalidRequest: the file is not an accepted image, is animated, is damaged or cut off, or is outside
            the limits.
    """
    image = _decode(data, field=field, limits=limits, max_bytes=limits.max_bytes)
    ingredient = describe_file(data, image.info.get("xmp"))
    if image.mode == "RGBA":
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image)
        image = paper.convert("RGB")
    return Picture(pixels=np.asarray(image), ingredient=ingredient)


def read_mask(data: bytes, *, field: str, limits: ImageLimits, size: tuple[int, int]) -> Picture:
    """Decode the mask of an edit: fully transparent pixels or, if all are opaque, white ones are painted.

    Args:
        data: the file.
        field: the request's field, for errors.
        limits: limits of the file.
        size: (width, height) of the image it belongs to.

    Returns:
        A mask: 255 = paint, 0 = keep.

    Raises:
        InvalidRequest: as for an image, or the mask has another size or marks nothing.
    """
    image = _decode(data, field=field, limits=limits, max_bytes=limits.max_mask_bytes)
    if image.size != size:
        raise InvalidRequest(
            f"{field}: {image.width}x{image.height} is not the image's size, {size[0]}x{size[1]}", field=field
        )
    alpha = np.asarray(image.getchannel("A")) if image.mode == "RGBA" else None
    # Editors save an alpha channel without anything transparent with black and white masks, too.
    if alpha is not None and (alpha < 255).any():
        painted = alpha == 0
    else:
        painted = np.asarray(image.convert("L")) >= 128
    if not painted.any():
        raise InvalidRequest(
            f"{field}: marks nothing to paint: use alpha 0, or white in an opaque mask", field=field
        )
    return Picture(pixels=np.where(painted, np.uint8(255), np.uint8(0)))


def format_names(formats: Sequence[str] = READABLE_FORMATS) -> str:
    """Return the names of formats as text: ``PNG, JPEG or WebP``."""
    *others, last = ("WebP" if name == "webp" else name.upper() for name in formats)
    return f"{', '.join(others)} or {last}" if others else last


def data_url_bytes(text: str, *, field: str, max_bytes: int) -> bytes:
    """Decode a ``data:image/...;base64,`` URL, after checking its length.

    Raises:
        InvalidRequest: it is another kind of URL, has more than ``max_bytes``, or is not strict base64.
    """
    head, comma, _ = text[:_LONGEST_DATA_URL_HEAD].partition(",")
    if not comma or head.lower() not in {f"data:{MIME_TYPES[name]};base64" for name in READABLE_FORMATS}:
        kinds = format_names()
        raise InvalidRequest(
            f"{field}: not a data URL 'data:image/...;base64,...' of a {kinds} image", field=field
        )
    start = len(head) + 1
    num_bytes = (len(text) - start) // 4 * 3 - text.count("=", -2)
    _check_num_bytes(num_bytes, max_bytes, field)
    try:
        return binascii.a2b_base64(text[start:], strict_mode=True)
    except ValueError as error:
        raise InvalidRequest(f"{field}: not base64 ({error})", field=field) from error


def _open(data: bytes, *, field: str, limits: ImageLimits, max_bytes: int) -> Image.Image:
    _check_num_bytes(len(data), max_bytes, field)
    with _translated_errors(field, limits, data):
        image: Image.Image = Image.open(io.BytesIO(data), formats=limits.formats)
    _check_size(image.size, limits, field)
    # A camera's MPO is a JPEG followed by previews, not an animation.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InvalidRequest(f"{field}: animated {image.format}; only still images are read", field=field)
    if image.info.get("progressive") and (num_scans := data.count(b"\xff\xda")) > _MAX_JPEG_SCANS:
        raise InvalidRequest(f"{field}: {num_scans} JPEG scans; the limit is {_MAX_JPEG_SCANS}", field=field)
    # Pillow accepts a PNG without its end once it has read the last pixel.
    if image.format == "PNG" and b"IEND" not in data:
        raise InvalidRequest(f"{field}: PNG of {len(data)} bytes is cut off", field=field)
    return image


def _decode(data: bytes, *, field: str, limits: ImageLimits, max_bytes: int) -> Image.Image:
    image = _open(data, field=field, limits=limits, max_bytes=max_bytes)
    with _translated_errors(field, limits):
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image = _eight_bit(image)
        return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode != "I;16":
        return image
    # Pillow 13 clips 16-bit grey instead of scaling it, and so misses its transparent shade.
    grey = np.asarray(image)
    scaled = Image.fromarray((grey >> 8).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:
        scaled.putalpha(Image.fromarray(np.where(grey == transparent, np.uint8(0), np.uint8(255))))
    return scaled


@contextmanager
def _translated_errors(field: str, limits: ImageLimits, data: bytes = b"") -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError:
        kinds = format_names(limits.formats)
        found = _other_format(data, limits)
        told = f"{found}; only {kinds} are read" if found else f"not a readable {kinds} image"
        raise InvalidRequest(f"{field}: {told}", field=field) from None
    except Image.DecompressionBombError as error:
        raise InvalidRequest(f"{field}: more than {limits.max_pixels} pixels", field=field) from error
    # Pillow's plugins raise undocumented errors of any type (struct.error, KeyError, SyntaxError...).
    except Exception as error:
        raise InvalidRequest(f"{field}: damaged or cut off ({error})", field=field) from error


def _other_format(data: bytes, limits: ImageLimits) -> str | None:
    """Return the name of a picture format that is not read, if its first bytes show it."""
    if data[4:8] != b"ftyp":
        return next((name for start, name in _STARTS.items() if data.startswith(start)), None)
    found = _BRANDS.get(data[8:12])
    return None if found == "an AVIF" and "avif" in limits.formats else found


def _check_num_bytes(num_bytes: int, max_bytes: int, field: str) -> None:
    if num_bytes > max_bytes:
        raise InvalidRequest(f"{field}: {num_bytes} bytes; the limit is {max_bytes}", field=field)


def _check_size(size: tuple[int, int], limits: ImageLimits, field: str) -> None:
    width, height = size
    shown = f"{field}: {width}x{height}"
    if width * height > limits.max_pixels:
        raise InvalidRequest(f"{shown} has more than {limits.max_pixels} pixels", field=field)
    if min(size) < limits.min_side:
        raise InvalidRequest(f"{shown} has a side below {limits.min_side} pixels", field=field)
    if max(size) > limits.max_aspect_ratio * min(size):
        raise InvalidRequest(f"{shown} is more elongated than {limits.max_aspect_ratio:g} to 1", field=field)
