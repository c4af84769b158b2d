"""The open endpoint's models, and pictures as they go in and come out."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from openai.types import ImagesResponse
from PIL import Image

from zimage_models.image_files.image_codec import decode_image, is_marked_generated

TURBO, BASE, EDIT = "z-image-turbo", "z-image-base", "z-image-edit"
# Rounding differs between batch shapes and numbers of threads.
TOLERANCE = 1

Pixels = npt.NDArray[np.uint8]


def files(response: ImagesResponse) -> list[bytes]:
    return [base64.b64decode(image.b64_json or "") for image in response.data or ()]


def pixels(file: bytes | str | None) -> Pixels:
    return decode_image(file if isinstance(file, bytes) else base64.b64decode(file or ""))


def assert_same(one: Pixels, other: Pixels) -> None:
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).max() <= TOLERANCE


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def plasma(width: int, height: int, seed: int) -> Pixels:
    """Draw smooth colours; (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def assert_streamed(partials: Sequence[Any], completed: Any, kind: str, num_partials: int) -> None:
    """Check the events of a stream of 96x64 pixels and seed 5, as OpenAI's client gives them."""
    assert [event.partial_image_index for event in partials] == list(range(num_partials))
    for event in (*partials, completed):
        # What OpenAI's types declare is there and of its type, which the client does not check itself.
        type(event).model_validate(event.model_dump())
        assert event.size == "96x64"
        assert event.output_format == "png"
        assert is_marked_generated(base64.b64decode(event.b64_json))
    assert {event.type for event in partials} <= {f"{kind}.partial_image"}
    assert completed.type == f"{kind}.completed"
    assert completed.usage.output_tokens == 96
    assert completed.seed == 5
    assert pixels(completed.b64_json).shape == (64, 96, 3)
    previews = [pixels(event.b64_json) for event in partials]
    assert all(preview.shape[1] * 2 == preview.shape[0] * 3 for preview in previews)
    assert len({preview.tobytes() for preview in previews}) == num_partials
