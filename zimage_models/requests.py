"""The two nouns that cross every room: one image to make, and the image made.

Normalisation, defaults and limits live in :func:`build_request` alone, so batch rows and HTTP bodies are
treated alike. This module knows no table and no HTTP.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import ModelSpec

MAX_SEED = 2**63 - 1
MAX_PROMPT_CHARS = 16_384
_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")


class Priority(IntEnum):
    """Who goes first at a denoising step; a smaller number goes first."""

    ONLINE = 0
    BATCH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One image to make, with every setting resolved and checked."""

    prompt: str
    negative_prompt: str = ""
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    cfg_normalization: float = 0.0
    """Upper bound of the guided prediction's norm relative to the positive one; 0 switches it off."""
    cfg_truncation: float = 1.0
    """Guidance is off once the normalised time (0 noise, 1 image) passes this."""
    truncate_prompt: bool = False
    """Cut a prompt past the token limit (keeping the chat suffix) instead of rejecting it."""
    priority: Priority = Priority.BATCH
    deadline_s: float | None = None
    """Seconds from submission after which the request is dropped at the next step."""
    preview_every: int = 0
    """Emit a small preview image every so many steps; 0 for none."""


GENERATION_FIELDS = tuple(
    f.name for f in fields(ImageRequest) if f.name not in ("priority", "deadline_s", "preview_every")
)
"""The fields that decide the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where one request's time went, in seconds."""

    queue_s: float
    denoise_s: float
    decode_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """The image made, and the request as really used.

    ``pixels_HWC`` is uint8, 0..255, RGB.
    """

    pixels_HWC: npt.NDArray[np.uint8]
    request: ImageRequest
    prompt_truncated: bool = False
    timings: Timings


def build_request(spec: ModelSpec, values: Mapping[str, Any], **hosting: Any) -> ImageRequest:
    """Check outside values against a model and fill in its defaults.

    Args:
        spec: the model the request is for.
        values: generation fields by name (:data:`GENERATION_FIELDS` and ``size`` as ``"WIDTHxHEIGHT"``);
            None counts as absent. ``seed`` is required.
        hosting: ``priority``, ``deadline_s`` and ``preview_every``, set by the host.

    Raises:
        InvalidRequest: an unknown field, a wrong type, or a value past a limit; names all three.
    """
    given = {name: value for name, value in values.items() if value is not None}
    unknown = given.keys() - set(GENERATION_FIELDS) - {"size"}
    if unknown:
        name = min(unknown)
        known = ", ".join(sorted((*GENERATION_FIELDS, "size")))
        raise InvalidRequest(f"{name}: unknown field; known fields are {known}", field=name)
    height, width = _size(spec, given)
    guidance = _number(
        given, "guidance_scale", spec.default_guidance_scale, 0.0, spec.variant.max_guidance_scale
    )
    request = ImageRequest(
        prompt=_text(given, "prompt", required=True),
        negative_prompt=_text(given, "negative_prompt", required=False),
        height=height,
        width=width,
        num_inference_steps=_integer(
            given,
            "num_inference_steps",
            spec.default_num_inference_steps,
            1,
            spec.variant.max_num_inference_steps,
        ),
        guidance_scale=guidance,
        seed=_integer(given, "seed", None, 0, MAX_SEED),
        cfg_normalization=_number(given, "cfg_normalization", 0.0, 0.0, 10.0),
        cfg_truncation=_number(given, "cfg_truncation", 1.0, 0.0, 1.0),
        truncate_prompt=_boolean(given, "truncate_prompt", False),
        **hosting,
    )
    _check_guidance(spec, request)
    _check_hosting(request)
    return request


def parse_size(text: str) -> tuple[int, int]:
    """Read ``"WIDTHxHEIGHT"`` in pixels, as in the OpenAI API.

    Returns:
        (height, width).

    Raises:
        InvalidRequest: the text is not of that form.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise InvalidRequest(
            f"size: {_shown(text)} is not of the form WIDTHxHEIGHT, such as 1024x768", field="size"
        )
    width, height = map(int, match.groups())
    return height, width


def _size(spec: ModelSpec, given: Mapping[str, Any]) -> tuple[int, int]:
    if "size" in given:
        if "height" in given or "width" in given:
            raise InvalidRequest("size: give either size or height and width, not both", field="size")
        height, width = parse_size(_text(given, "size", required=True))
        names = ("size", "size")
    else:
        height = _integer(given, "height", spec.default_height, 1, spec.max_side)
        width = _integer(given, "width", spec.default_width, 1, spec.max_side)
        names = ("height", "width")
    for name, side in zip(names, (height, width), strict=True):
        if not 1 <= side <= spec.max_side:
            raise InvalidRequest(f"{name}: {side} px is outside 1..{spec.max_side}", field=name)
        if side % spec.size_multiple:
            raise InvalidRequest(f"{name}: {side} px is not a multiple of {spec.size_multiple}", field=name)
    if height * width > spec.variant.max_pixels:
        raise InvalidRequest(
            f"{names[0]}: {width}x{height} is {height * width} px; the limit is {spec.variant.max_pixels}",
            field=names[0],
        )
    return height, width


def _check_guidance(spec: ModelSpec, request: ImageRequest) -> None:
    """Refuse what only guidance uses where there is none: it would change nothing, silently."""
    if request.guidance_scale > 0:
        return
    defaults = {"negative_prompt": "", "cfg_normalization": 0.0, "cfg_truncation": 1.0}
    for name, default in defaults.items():
        value = getattr(request, name)
        if value != default:
            raise InvalidRequest(
                f"{name}: {_shown(value)} has no effect at guidance_scale 0"
                f" ({spec.variant.name} allows up to {spec.variant.max_guidance_scale:g})",
                field=name,
            )


def _check_hosting(request: ImageRequest) -> None:
    deadline_s = request.deadline_s
    if deadline_s is not None and not (math.isfinite(deadline_s) and deadline_s > 0):
        raise InvalidRequest(f"deadline_s: {deadline_s} is not a finite number above 0", field="deadline_s")
    if request.preview_every < 0:
        raise InvalidRequest(f"preview_every: {request.preview_every} is below 0", field="preview_every")


def _text(given: Mapping[str, Any], name: str, *, required: bool) -> str:
    value = given.get(name)
    if value is None:
        if required:
            raise InvalidRequest(f"{name}: missing", field=name)
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: {_shown(value)} is {type(value).__name__}, not text", field=name)
    if required and not value.strip():
        raise InvalidRequest(f"{name}: {_shown(value)} is empty", field=name)
    if len(value) > MAX_PROMPT_CHARS:
        raise InvalidRequest(f"{name}: {len(value)} characters; the limit is {MAX_PROMPT_CHARS}", field=name)
    if "\x00" in value:
        raise InvalidRequest(f"{name}: {_shown(value)} contains a NUL character", field=name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name}: {_shown(value)} is not valid Unicode text ({error.reason})", field=name
        ) from error
    return str(value)


def _integer(given: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int:
    value = given.get(name, default)
    if value is None:
        raise InvalidRequest(f"{name}: missing", field=name)
    number = _as_number(value, name)
    if number != int(number):
        raise InvalidRequest(f"{name}: {_shown(value)} is not a whole number", field=name)
    if not low <= number <= high:
        raise InvalidRequest(f"{name}: {_shown(value)} is outside {low}..{high}", field=name)
    return int(number)


def _number(given: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = given.get(name, default)
    number = _as_number(value, name)
    if not low <= number <= high:
        limit = f"must be {low:g}" if low == high else f"is outside {low:g}..{high:g}"
        raise InvalidRequest(f"{name}: {_shown(value)} {limit}", field=name)
    return float(number)


def _as_number(value: Any, name: str) -> int | float:
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value  # nearly all values, at a table's every row
    number = value
    if isinstance(value, str):  # CSV has no types
        try:
            number = int(value) if re.fullmatch(r"\s*[+-]?\d+\s*", value) else float(value)
        except ValueError:
            raise InvalidRequest(f"{name}: {_shown(value)} is not a number", field=name) from None
    # Real takes numpy's numbers in; their booleans are none.
    if isinstance(number, bool) or not isinstance(number, Real):
        raise InvalidRequest(f"{name}: {_shown(value)} is {type(value).__name__}, not a number", field=name)
    if isinstance(number, Integral):
        return int(number)
    if not math.isfinite(number):
        raise InvalidRequest(f"{name}: {_shown(value)} is not a finite number", field=name)
    return float(number)


def _boolean(given: Mapping[str, Any], name: str, default: bool) -> bool:
    value = given.get(name, default)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool | np.bool_):
        raise InvalidRequest(f"{name}: {_shown(value)} is not true or false", field=name)
    return bool(value)


def _shown(value: Any) -> str:
    # str first for numbers: numpy writes their types around them.
    text = str(value) if isinstance(value, Real) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
