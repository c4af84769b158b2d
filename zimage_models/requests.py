"""The two types that every package uses: a request for one image, and its result.

Only :func:`build_request` normalises values, fills in defaults and checks limits, so batch rows and HTTP
bodies are treated alike. This module knows nothing about tables or HTTP.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from zimage_models.errors import InvalidRequest
from zimage_models.field_values import read_field, read_size, shown
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import Picture
from zimage_models.request_fields import GENERATION_FIELDS, REQUEST_FIELDS
from zimage_models.request_pictures import (
    control_fields,
    picture_fields,
    read_control,
    read_images,
    size_of_images,
)
from zimage_models.step_schedules import EXACT

_READ_FIELDS = tuple(REQUEST_FIELDS[name] for name in GENERATION_FIELDS if name not in ("height", "width"))
_NEEDY_FIELDS = frozenset(field.name for field in REQUEST_FIELDS.values() if field.needs)


class Priority(IntEnum):
    """Order of requests at a denoising step; smaller numbers go first."""

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
    """Upper bound of the guided prediction's norm, relative to the positive one's; 0 switches it off."""
    cfg_truncation: float = 1.0
    """Normalised time (0 noise, 1 image) after which guidance is off."""
    quality_mode: str = EXACT
    """``exact``, or the word that stands for :attr:`step_schedule`."""
    step_schedule: tuple[int, ...] | None = None
    """Steps of the whole run that are computed, in order; the others reuse what the last computed one added
    to the image's tokens. None: all are computed."""
    truncate_prompt: bool = False
    """Whether to cut a prompt past the token limit (keeping the chat suffix) instead of rejecting it."""
    reference_images: tuple[Picture, ...] = ()
    """With a strength: one image to start from. With a control image: one image to paint in. Both have the
    output's size. Otherwise: conditions, each with its own size."""
    mask: Picture | None = None
    """Where to paint (128 and more) and where to keep the reference image; it has the output's size."""
    strength: float | None = None
    """Share of the steps to run on the start image, above 0 and up to 1; None without one."""
    control_image: Picture | None = None
    """Picture that a ControlNet follows (edges, depth, a pose and so on); it has the output's size."""
    controlnet_conditioning_scale: float | None = None
    """How closely the control image is followed, 0 .. 2; None without one."""
    priority: Priority = Priority.BATCH
    deadline_s: float | None = None
    """Seconds from submission after which the request is dropped at the next step."""
    preview_every: int = 0
    """Steps from one small preview image to the next; 0 for none."""

    def __post_init__(self) -> None:
        schedule, last = self.step_schedule, self.num_inference_steps - 1
        is_exact = self.quality_mode == EXACT
        if (schedule is None) != is_exact or (schedule is not None and schedule[-1:] != (last,)):
            raise InvalidRequest(
                f"quality_mode: {shown(self.quality_mode)} does not fit the step_schedule {schedule} of"
                f" {self.num_inference_steps} steps; build_request chooses it",
                field="quality_mode",
            )

    @property
    def is_guided(self) -> bool:
        """Whether classifier-free guidance is on, which doubles the work of a step."""
        return self.guidance_scale > 0

    @property
    def start_image(self) -> Picture | None:
        """The image that noise is added to."""
        return None if self.strength is None else self.reference_images[0]

    @property
    def condition_images(self) -> tuple[Picture, ...]:
        """The images that the model reads in addition to the prompt."""
        reads = self.strength is None and self.control_image is None
        return self.reference_images if reads else ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures that the image is made from; a mask only says where to paint."""
        return (*self.reference_images, *([self.control_image] if self.control_image else []))

    @property
    def first_step(self) -> int:
        """The first denoising step; above 0 only with a start image (diffusers, ``get_timesteps``)."""
        if self.strength is None:
            return 0
        return int(self.num_inference_steps - self.num_inference_steps * self.strength)

    @property
    def num_steps(self) -> int:
        """Number of denoising steps that are run."""
        return self.num_inference_steps - self.first_step

    @property
    def num_computed_steps(self) -> int:
        """Number of those that are computed."""
        return self.num_computed_from(self.first_step)

    def num_computed_from(self, step: int) -> int:
        """Count the computed steps among those that are run from one on."""
        if self.step_schedule is None:
            return self.num_inference_steps - step
        is_extra = step == self.first_step and step not in self.step_schedule
        return len(self.step_schedule) - bisect_left(self.step_schedule, step) + is_extra

    def computes(self, step: int) -> bool:
        """Return whether a step is computed: if the schedule says so, or it is the first that is run."""
        return self.step_schedule is None or step == self.first_step or step in self.step_schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where one request's time went, in seconds."""

    queue_s: float
    denoise_s: float
    decode_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """The finished image, and the request as it was run.

    ``pixels_HWC`` is uint8, 0..255, RGB.
    """

    pixels_HWC: npt.NDArray[np.uint8]
    request: ImageRequest
    prompt_truncated: bool = False
    num_prompt_tokens: int = 0
    """Tokens of the prompt as encoded, chat template included."""
    precision: str = ""
    """What the matrix products were made in: ``float32``, ``bf16`` or ``fp8``; empty without a model."""
    num_computed_steps: int
    """Steps that were computed; the others reused an earlier one."""
    timings: Timings


def build_request(spec: ModelSpec, values: Mapping[str, Any], **hosting: Any) -> ImageRequest:
    """Check values from outside against a model and fill in its defaults.

    Args:
        spec: the model the request is for.
        values: fields by name (:data:`.REQUEST_FIELDS`); None counts as absent, and ``seed`` is required. A
            start image, its mask and a control image are scaled and cropped to the output's size; if no size
            is given, it is the nearest to the image's own. Images that a model reads keep their sizes, but
            those above ``spec.max_reference_pixels`` shrink to the output's area; if no size is given, it is
            the last one's.
        hosting: ``priority``, ``deadline_s`` and ``preview_every``, set by the host.

    Raises:
        InvalidRequest: a field is unknown, has the wrong type or is past a limit; the message names the
            field, the value and the limit.
    """
    given = {name: value for name, value in values.items() if value is not None}
    unknown = given.keys() - REQUEST_FIELDS.keys()
    if unknown:
        name = min(unknown)
        known = ", ".join(sorted(REQUEST_FIELDS))
        raise InvalidRequest(f"{name}: unknown field; known fields are {known}", field=name)
    _check_needs(given)
    images = read_images(spec, given)
    control = read_control(spec, given)
    default_height, default_width = size_of_images(spec, images or ([control] if control else []))
    height, width = read_size(spec, given, default_height, default_width)
    resolved = {field.name: read_field(field, spec, given) for field in _READ_FIELDS}
    schedule = _step_schedule(spec, resolved)
    request = ImageRequest(height=height, width=width, step_schedule=schedule, **resolved, **hosting)
    _check_guidance(spec, request)
    _check_hosting(request)
    if control:
        request = replace(request, **control_fields(spec, given, control, height, width))
    if images:
        request = replace(request, **picture_fields(spec, given, images, height, width))
    return request


def _check_needs(given: Mapping[str, Any]) -> None:
    """Refuse fields that have no effect without a picture that is not given."""
    for name in given.keys() & _NEEDY_FIELDS:
        needed = REQUEST_FIELDS[name].needs
        if not given.get(needed):
            raise InvalidRequest(f"{name}: {shown(given[name])} has no effect without {needed}", field=name)


def _step_schedule(spec: ModelSpec, resolved: Mapping[str, Any]) -> tuple[int, ...] | None:
    mode, num_steps = resolved["quality_mode"], resolved["num_inference_steps"]
    return None if mode == EXACT else spec.step_schedules.steps_of(mode, num_steps, model=spec.model_id)


def _check_guidance(spec: ModelSpec, request: ImageRequest) -> None:
    """Refuse settings that have no effect without guidance, instead of silently ignoring them."""
    if request.is_guided:
        return
    for name in ("negative_prompt", "cfg_normalization", "cfg_truncation"):
        value = getattr(request, name)
        if value != REQUEST_FIELDS[name].default:
            raise InvalidRequest(
                f"{name}: {shown(value)} has no effect at guidance_scale 0"
                f" ({spec.variant.name} allows up to {spec.variant.max_guidance_scale:g})",
                field=name,
            )


def _check_hosting(request: ImageRequest) -> None:
    deadline_s = request.deadline_s
    if deadline_s is not None and not (math.isfinite(deadline_s) and deadline_s > 0):
        raise InvalidRequest(f"deadline_s: {deadline_s} is not a finite number above 0", field="deadline_s")
    if request.preview_every < 0:
        raise InvalidRequest(f"preview_every: {request.preview_every} is below 0", field="preview_every")
