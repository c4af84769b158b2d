import base64
import hashlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.picture_files import HOSTILE_FILES, ORANGE, SIZE, file_of, noise, plain, png_of, without_bytes
from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_codec import IMAGE_FORMATS, Encoding, encode_image
from zimage_models.image_files.image_inputs import (
    ImageLimits,
    data_url_bytes,
    read_image,
    read_mask,
    read_outline,
)
from zimage_models.image_files.xmp import GENERATED

LIMITS = ImageLimits()


# Reading what is allowed


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_formats_are_read(image_format: str) -> None:
    pixels = read_image(file_of(plain(), image_format, quality=95), field="image", limits=LIMITS).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels.astype(int) - ORANGE).max() <= 6


def test_avif_is_read_where_it_is_allowed() -> None:
    limits = ImageLimits(formats=IMAGE_FORMATS)
    pixels = read_image(file_of(plain(), "avif", quality=95), field="image", limits=limits).pixels
    assert np.abs(pixels.astype(int) - ORANGE).max() <= 6


def grey_16(value: int, **options: Any) -> bytes:
    return file_of(Image.fromarray(np.full((32, 48), value, np.uint16)), "png", **options)


def rgb_16(value: int) -> bytes:
    row = b"\0" + struct.pack(">HHH", value, value, value) * 48
    return png_of(SIZE, (b"IDAT", zlib.compress(row * 32)), depth=16)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (file_of(plain("L", 99), "png"), (99, 99, 99)),
        (file_of(plain("1", 1), "png"), (255, 255, 255)),
        (file_of(plain().convert("P", palette=Image.Palette.ADAPTIVE), "png"), ORANGE),
        (grey_16(0x4000), (0x40, 0x40, 0x40)),
        (rgb_16(0x4000), (0x40, 0x40, 0x40)),
        (file_of(plain("CMYK", (0, 255, 255, 0)), "jpeg", quality=100), (255, 0, 0)),
        (file_of(plain("L", 99), "jpeg"), (99, 99, 99)),
        (file_of(plain("RGBA", (0, 0, 0, 0)), "png"), (255, 255, 255)),
        (file_of(plain("RGBA", (0, 0, 0, 51)), "png"), (204, 204, 204)),
        (file_of(plain("LA", (0, 0)), "png"), (255, 255, 255)),
        (file_of(plain("P", 0), "png", transparency=0), (255, 255, 255)),
        (file_of(plain("L", 7), "png", transparency=7), (255, 255, 255)),
        (file_of(plain(), "png", transparency=ORANGE), (255, 255, 255)),
        (grey_16(0x4000, transparency=0x4000), (255, 255, 255)),
        (grey_16(0x4000, transparency=0x4001), (0x40, 0x40, 0x40)),
        (file_of(plain("RGBA", (0, 0, 0, 0)), "webp", lossless=True), (255, 255, 255)),
    ],
    ids=without_bytes,
)
def test_colour_modes_become_rgb_on_white(data: bytes, expected: tuple[int, int, int]) -> None:
    pixels = read_image(data, field="image", limits=LIMITS).pixels
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_exif_orientation_is_applied(image_format: str) -> None:
    image = plain()
    image.paste((0, 0, 255), (0, 0, 24, 32))  # left half blue
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is left belongs on top
    pixels = read_image(file_of(image, image_format, exif=exif), field="image", limits=LIMITS).pixels
    assert pixels.shape == (48, 32, 3)
    assert pixels[4, 16, 2] > 200
    assert pixels[-4, 16, 2] < 100


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_outline_has_the_size_of_the_upright_image(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(plain(), image_format, exif=exif)
    outline, image = (read(data, field="image", limits=LIMITS) for read in (read_outline, read_image))
    assert (outline.height, outline.width) == (image.height, image.width)
    assert outline.sha256 == hashlib.sha256(data).hexdigest()


def test_outline_of_a_png_with_orientation_behind_its_pixels_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = zlib.compress(bytes(32 * (1 + 48 * 3)))
    data = png_of(SIZE, (b"IDAT", rows), (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    outline, image = (read(data, field="image", limits=LIMITS) for read in (read_outline, read_image))
    assert (outline.height, outline.width) == (image.height, image.width) == (48, 32)


def test_outline_decodes_no_pixel() -> None:
    data = png_of((4000, 4000), (b"IDAT", b"not zlib"))
    assert read_outline(data, field="image", limits=LIMITS).width == 4000
    assert peak_bytes(lambda: read_outline(data, field="image", limits=LIMITS)) < 2**20


def test_picture_keeps_what_its_file_said_of_itself() -> None:
    data = encode_image(np.asarray(noise()), Encoding(), parameters={})
    ingredient = read_image(data, field="image", limits=LIMITS).ingredient
    assert ingredient.digital_source_type == GENERATED
    assert ingredient.sha256 == hashlib.sha256(data).hexdigest()


def test_camera_jpeg_with_previews_is_a_still_image() -> None:
    data = file_of(plain(), "MPO", save_all=True, append_images=[plain(colour="blue")])
    assert np.abs(read_image(data, field="image", limits=LIMITS).pixels.astype(int) - ORANGE).max() <= 6


def test_what_hangs_behind_an_image_is_not_read() -> None:
    data = file_of(plain(), "png") + b"PK\x03\x04<script>alert(1)</script>"
    assert (read_image(data, field="image", limits=LIMITS).pixels == ORANGE).all()


# Refusing the rest


@pytest.mark.parametrize(("data", "reason"), HOSTILE_FILES, ids=without_bytes)
def test_hostile_and_foreign_files_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"image: .*({reason})") as refusal:
        read_image(data, field="image", limits=LIMITS)
    assert refusal.value.field == "image"


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp", "avif"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, -1])
def test_cut_off_files_are_refused(image_format: str, kept: float) -> None:
    data = file_of(noise(), image_format)
    cut = data[: int(len(data) * kept)] if kept > 0 else data[:-16]
    with pytest.raises(InvalidRequest, match="image: "):
        read_image(cut, field="image", limits=ImageLimits(formats=IMAGE_FORMATS))


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp", "avif"])
def test_damaged_bytes_never_raise_anything_else(image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(noise((32, 32)), image_format, exif=exif)
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in random.integers(0, min(len(data), 400), 4):
            damaged[place] = random.integers(256)
        try:
            read_image(bytes(damaged), field="image", limits=ImageLimits(formats=IMAGE_FORMATS))
        except InvalidRequest:
            refused += 1
    assert refused


def test_too_many_bytes_are_refused_unread() -> None:
    data = file_of(plain(), "png")
    limits = ImageLimits(max_bytes=len(data) - 1, max_mask_bytes=20)
    with pytest.raises(InvalidRequest, match=f"image: {len(data)} bytes; the limit is {len(data) - 1}"):
        read_image(data, field="image", limits=limits)
    with pytest.raises(InvalidRequest, match=f"mask: {len(data)} bytes; the limit is 20"):
        read_mask(data, field="mask", limits=limits, size=SIZE)


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_data_url_is_measured_before_it_is_decoded() -> None:
    text = "data:image/png;base64," + "A" * (8 * 2**20)

    def read() -> None:
        with pytest.raises(InvalidRequest, match=f"image: {6 * 2**20} bytes; the limit is 1000"):
            data_url_bytes(text, field="image", max_bytes=1000)

    assert peak_bytes(read) < 2**20


# Masks


def mask_of(left: Any, right: Any, mode: str) -> Image.Image:
    image = plain(mode, right)
    image.paste(left, (0, 0, 24, 32))
    return image


LEFT_PAINTED: npt.NDArray[np.uint8] = np.repeat(np.array([[255, 0]], np.uint8), 24, axis=1).repeat(32, axis=0)


@pytest.mark.parametrize(
    "data",
    [
        file_of(mask_of((0, 0, 0, 0), (0, 0, 0, 255), "RGBA"), "png"),
        file_of(mask_of((255, 255, 255, 0), (255, 255, 255, 1), "RGBA"), "png"),
        file_of(mask_of((0, 0), (255, 255), "LA"), "png"),
        file_of(mask_of(0, 1, "P"), "png", transparency=0),
        file_of(mask_of(255, 0, "L"), "png"),
        file_of(mask_of(128, 127, "L"), "png"),
        file_of(mask_of(1, 0, "1"), "png"),
        file_of(mask_of((255, 255, 255), (0, 0, 0), "RGB"), "png"),
        file_of(mask_of((255, 255, 255), (0, 0, 0), "RGB"), "jpeg"),
        file_of(mask_of((0, 0, 0, 0), (0, 0, 0, 255), "RGBA"), "webp", lossless=True),
        file_of(mask_of((255, 255, 255, 255), (0, 0, 0, 255), "RGBA"), "png"),
        file_of(mask_of((255, 255), (0, 255), "LA"), "png"),
    ],
    ids=without_bytes,
)
def test_mask_marks_alpha_zero_or_white_where_all_is_opaque(data: bytes) -> None:
    mask = read_mask(data, field="mask", limits=LIMITS, size=SIZE).pixels
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, LEFT_PAINTED)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (file_of(plain("L", 255, (32, 48)), "png"), "mask: 32x48 is not the image's size, 48x32"),
        (file_of(plain("L", 0), "png"), "mask: marks nothing to paint"),
        (file_of(plain("RGBA", (0, 0, 0, 255)), "png"), "mask: marks nothing to paint"),
        (file_of(plain("RGBA", (255, 255, 255, 254)), "png"), "mask: marks nothing to paint"),
        (file_of(plain("L", 255), "gif"), "mask: a GIF; only PNG, JPEG or WebP are read"),
        (b"junk", "mask: not a readable PNG, JPEG or WebP image"),
        (png_of((9000, 9000)), "mask: 9000x9000 has more than 25000000 pixels"),
    ],
    ids=without_bytes,
)
def test_unusable_masks_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refusal:
        read_mask(data, field="mask", limits=LIMITS, size=SIZE)
    assert refusal.value.field == "mask"


# Data URLs


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:image/WebP;BASE64,", "data:image/jpeg;base64,"]
)
@pytest.mark.parametrize("content", [b"", b"a", b"ab", b"abc", bytes(range(256))])
def test_data_url_comes_back(head: str, content: bytes) -> None:
    text = head + base64.b64encode(content).decode()
    assert data_url_bytes(text, field="image", max_bytes=len(content)) == content


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://example.com/a.png", "not a data URL"),
        ("file:///etc/passwd", "not a data URL"),
        ("iVBORw0KGgo=", "not a data URL"),
        ("data:image/png,abc", "not a data URL"),
        ("data:image/svg+xml;base64,AAAA", "not a data URL"),
        ("data:text/html;base64,AAAA", "not a data URL"),
        ("data:;base64,AAAA", "not a data URL"),
        ("data:image/png;charset=x;base64,AAAA", "not a data URL"),
        ("data:image/png;base64,AAA", "not base64"),
        ("data:image/png;base64,A-_A", "not base64"),
        ("data:image/png;base64,AA AA", "not base64"),
        ("data:image/png;base64,AAAA\n", "not base64"),
        ("data:image/png;base64,AA==AAAA", "not base64"),
        ("data:image/png;base64,ÄÄÄÄ", "not base64"),
        ("data:image/png;base64," + "A" * 136, "102 bytes; the limit is 100"),
    ],
)
def test_other_data_urls_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"image: {reason}") as refusal:
        data_url_bytes(text, field="image", max_bytes=100)
    assert refusal.value.field == "image"
    assert len(str(refusal.value)) < 200
