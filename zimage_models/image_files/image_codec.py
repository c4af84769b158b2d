"""Write and read image files: PNG, JPEG, WebP and AVIF. It knows nothing about storage.

Every file has the mark of generated media and its parameters as XMP (:mod:`.xmp`). A PNG repeats the
parameters in the text chunk ``parameters``, which image tools display.
"""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from zimage_models.errors import InvalidRequest
from zimage_models.field_spec import Way
from zimage_models.image_files import xmp
from zimage_models.pictures import Ingredient
from zimage_models.request_fields import fields_of
from zimage_models.requests import ImageRequest

IMAGE_FORMATS = ("png", "jpeg", "webp", "avif")
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "avif": ".avif"}
MIME_TYPES = {name: f"image/{name}" for name in IMAGE_FORMATS}
MAX_DECODED_PIXELS = 64 * 10**6

# On a 1024x1024 mosaic of four photographs (Pillow 13, zlib-ng, one core): 36 to 39 dB of PSNR each.
_DEFAULT_QUALITY = {"jpeg": 92, "webp": 90, "avif": 80}
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    # The same mosaic at level 1: 82 ms, 1840 KiB; 3: 110 ms, 1796 KiB; 6: 279 ms, 1684 KiB.
    "png": {"compress_level": 3},
    # Full colour resolution; half of it smears coloured text and thin lines (36 dB instead of 39).
    "jpeg": {"subsampling": 0},
    "webp": {"method": 4},
    # Speed 8 takes 0.3 s; the default, 6, takes 0.7 s for 2 % fewer bytes.
    # One thread, because callers encode many images in parallel.
    "avif": {"speed": 8, "max_threads": 1},
}

# A JPEG segment holds 65,533 bytes, 29 of which identify it as XMP.
_MAX_JPEG_XMP_BYTES = 65_504
EMBEDDED_FIELDS = tuple(field.name for field in fields_of(Way.IMAGE_FILE))
"""Request fields that are written into the image file."""
_PROMPT_FIELDS = ("prompt", "negative_prompt")
# No "Model hash": that label means ten digits of the hash of a single checkpoint file.
_A1111_LABELS = {
    "num_inference_steps": "Steps",
    "guidance_scale": "CFG scale",
    "seed": "Seed",
    "strength": "Denoising strength",
    "model": "Model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How an image file is written."""

    format: str = "png"
    quality: int | None = None
    """Quality, 1..100; None for the format's default, and for a PNG."""
    embed_prompt: bool = True
    """Whether to write the prompts; the mark of generated media and other parameters are always written."""

    def __post_init__(self) -> None:
        if self.format not in IMAGE_FORMATS:
            raise InvalidRequest(
                f"format: {self.format!r} is not one of {', '.join(IMAGE_FORMATS)}", field="format"
            )
        if self.quality is None:
            return
        if self.format == "png":
            raise InvalidRequest(f"quality: {self.quality!r} given, but a png is lossless", field="quality")
        if isinstance(self.quality, bool) or not isinstance(self.quality, int):
            raise InvalidRequest(f"quality: {self.quality!r} is not a whole number", field="quality")
        if not 1 <= self.quality <= 100:
            raise InvalidRequest(f"quality: {self.quality} is outside 1..100", field="quality")

    @property
    def suffix(self) -> str:
        """The file name's suffix, dot included."""
        return SUFFIXES[self.format]

    @property
    def mime_type(self) -> str:
        """The media type for HTTP."""
        return MIME_TYPES[self.format]


def encode_image(
    pixels_HWC: npt.NDArray[np.uint8],
    encoding: Encoding,
    *,
    parameters: Mapping[str, Any],
    ingredients: Sequence[Ingredient] = (),
) -> bytes:
    """Encode pixels as an image file that is marked as generated. The same input gives the same bytes.

    Args:
        pixels_HWC: uint8, 0..255, RGB.
        encoding: format, quality, and whether to write the prompts.
        parameters: what made the image, as JSON values by name; None and "" are left out.
        ingredients: the pictures that it was made from.

    Raises:
        InvalidRequest: the parameters do not fit into the file.
        ValueError: the pixels are not uint8 RGB.
    """
    if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3:
        raise ValueError(
            f"pixels: {pixels_HWC.dtype} {pixels_HWC.shape} is not uint8 of shape (height, width, 3)"
        )
    hidden = () if encoding.embed_prompt else _PROMPT_FIELDS
    written = {
        name: value
        for name, value in parameters.items()
        if value is not None and value != "" and name not in hidden
    }
    packet = xmp.write_packet(written, ingredients)
    options = dict(_SAVE_OPTIONS[encoding.format])
    if encoding.format == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", packet)
        if written:
            chunks.add_text("parameters", _a1111_text(written))
        options["pnginfo"] = chunks
    else:
        if encoding.format == "jpeg" and len(packet) > _MAX_JPEG_XMP_BYTES:
            raise InvalidRequest(
                f"embed_prompt: the parameters take {len(packet)} bytes as XMP; "
                f"a jpeg holds {_MAX_JPEG_XMP_BYTES}: leave out the prompts or use another format",
                field="embed_prompt",
            )
        options["quality"] = encoding.quality or _DEFAULT_QUALITY[encoding.format]
        options["xmp"] = packet
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, encoding.format, **options)
    return buffer.getvalue()


def ingredients_of(request: ImageRequest) -> tuple[Ingredient, ...]:
    """Return the ingredients that :func:`encode_image` writes for a request's pictures."""
    return tuple(picture.ingredient for picture in request.pictures)


def image_parameters(request: ImageRequest, **identity: str) -> dict[str, Any]:
    """Return the parameters that :func:`encode_image` writes: a request's settings and its identity."""
    return {name: getattr(request, name) for name in EMBEDDED_FIELDS} | identity


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a whole PNG, JPEG, WebP or AVIF file.

    Returns:
        Pixels (height, width, 3), uint8, 0..255, RGB; an alpha channel is dropped.

    Raises:
        ValueError: the data are damaged, cut off, in another format or more than 64 million pixels.
    """
    image = _open(data)
    if image.width * image.height > MAX_DECODED_PIXELS:
        raise ValueError(
            f"image: {image.width}x{image.height} has {image.width * image.height} pixels; "
            f"the limit is {MAX_DECODED_PIXELS}"
        )
    # Pillow accepts a PNG without its end once it has read the last pixel.
    if image.format == "PNG" and _PNG_END not in data:
        raise ValueError(f"image: PNG of {len(data)} bytes is cut off")
    try:
        return np.asarray(image.convert("RGB"))
    except _PILLOW_ERRORS as error:
        raise ValueError(f"image: damaged {image.format} of {len(data)} bytes ({error})") from error


def read_parameters(data: bytes) -> dict[str, Any]:
    """Read the parameters that :func:`encode_image` wrote; empty for a file without any.

    Raises:
        ValueError: the data are not an image file, or its metadata are damaged.
    """
    return xmp.read_parameters(_packet(data))


def is_marked_generated(data: bytes) -> bool:
    """Return whether an image file is marked as generated media, from a prompt or from pictures.

    Raises:
        ValueError: the data are not an image file, or its metadata are damaged.
    """
    return xmp.read_source_type(_packet(data)) in (xmp.GENERATED, xmp.EDITED)


def read_ingredients(data: bytes) -> tuple[Ingredient, ...]:
    """Read which pictures an image was made from; empty if it was made from a prompt alone.

    Raises:
        ValueError: the data are not an image file, or its metadata are damaged.
    """
    return xmp.read_ingredients(_packet(data))


# What Pillow's four plugins raise on damaged bytes, found by cutting and flipping bytes of small files.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, struct.error, Image.DecompressionBombError)
_PNG_END = b"IEND\xaeB`\x82"


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        names = ", ".join(IMAGE_FORMATS)
        raise ValueError(f"image: {len(data)} bytes starting {data[:12]!r} are none of {names}") from None
    except _PILLOW_ERRORS as error:
        raise ValueError(f"image: {len(data)} bytes are not a readable image ({error})") from error


def _packet(data: bytes) -> bytes | None:
    packet: bytes | None = _open(data).info.get("xmp")
    return packet


def _a1111_text(parameters: Mapping[str, Any]) -> str:
    # The format of stable-diffusion-webui (modules/infotext_utils.py): prompt lines, then one line of
    # "Label: value" pairs, where a value with a comma, colon or line break is written as JSON.
    lines = []
    if "prompt" in parameters:
        lines.append(parameters["prompt"])
    if "negative_prompt" in parameters:
        lines.append(f"Negative prompt: {parameters['negative_prompt']}")
    settings = {_A1111_LABELS.get(name, name): value for name, value in parameters.items()}
    for name in (*_PROMPT_FIELDS, "width", "height"):
        settings.pop(name, None)
    if "width" in parameters and "height" in parameters:
        settings["Size"] = f"{parameters['width']}x{parameters['height']}"
    lines.append(", ".join(f"{label}: {_a1111_value(value)}" for label, value in settings.items()))
    return "\n".join(lines)


def _a1111_value(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text
