"""Bodies of the HTTP API, as in OpenAI's Images API (openai-python 3.54, types/image_*.py), with additions.

Added are the fields of generation (``seed``, ``num_inference_steps``, ...), ``priority``, those of edits
(``strength``, ...), and what answers say of the settings really used. It knows no engine.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from zimage_models.request_pictures import MAX_CONDITIONING_SCALE
from zimage_models.requests import MAX_SEED

MAX_PARTIAL_IMAGES = 3
ImageFormat = Literal["png", "jpeg", "webp", "avif"]


class ImageBody(BaseModel):
    """What generations and edits share; an unknown field is an error.

    ``quality``, ``background``, ``moderation`` and ``style`` take only the value that changes nothing.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=32_000)
    model: str | None = Field(default=None, max_length=256)
    """Absent: the endpoint's first model."""
    n: int = Field(default=1, ge=1, le=10)
    size: Annotated[str, StringConstraints(pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$")] = "auto"
    output_format: ImageFormat = "png"
    output_compression: int | None = Field(default=None, ge=0, le=100)
    """Quality of jpeg, webp and avif, 100 the best; absent: a good one."""
    response_format: Literal["b64_json", "url"] = "b64_json"
    stream: bool = False
    partial_images: int = Field(default=0, ge=0, le=MAX_PARTIAL_IMAGES)
    user: str | None = Field(default=None, max_length=512)
    """Taken and not used."""
    quality: Literal["auto"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None

    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    """Of the first image; the next one's is one more. Absent: random."""
    num_inference_steps: int | None = Field(default=None, ge=1, le=1000)
    guidance_scale: float | None = Field(default=None, ge=0, le=100)
    negative_prompt: str | None = Field(default=None, max_length=32_000)
    cfg_normalization: float | None = Field(default=None, ge=0)
    cfg_truncation: float | None = Field(default=None, ge=0)
    truncate_prompt: bool | None = None
    priority: Literal["online", "batch"] = "online"


def _allow_null(schema: dict[str, Any]) -> None:
    for name, value in schema["properties"].items():
        if name not in schema["required"] and "anyOf" not in value:
            schema["properties"][name] = {"anyOf": [value, {"type": "null"}]}


class GenerateBody(ImageBody):
    """``POST /v1/images/generations``: JSON, null is as good as absent, no type passes for another."""

    model_config = ConfigDict(strict=True, json_schema_extra=_allow_null)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}


class EditBody(ImageBody):
    """The fields of ``POST /v1/images/edits`` beside its pictures."""

    strength: float | None = Field(default=None, gt=0, le=1)
    """How far from the picture: near 0 keeps it, 1 starts from pure noise. Not for a model that edits."""
    controlnet_conditioning_scale: float | None = Field(default=None, ge=0, le=MAX_CONDITIONING_SCALE)
    """How far the control image is followed."""


class ImageData(BaseModel):
    """One image of an answer."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: None = None
    seed: int


class TokenDetails(BaseModel):
    """Tokens by kind."""

    image_tokens: int
    text_tokens: int


class Usage(BaseModel):
    """Tokens that went through the transformer: of prompts in, of images out."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int
    output_tokens_details: TokenDetails
    total_tokens: int


class Settings(BaseModel):
    """The settings really used."""

    model: str
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: ImageFormat
    num_inference_steps: int
    guidance_scale: float
    prompt_truncated: bool
    usage: Usage


class ImagesResponse(Settings):
    """The answer of both image routes."""

    created: int
    data: list[ImageData]


class PartialImageEvent(BaseModel):
    """A preview in a stream: a smaller picture of where the image is going."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    b64_json: str
    partial_image_index: int
    created_at: int
    size: str
    """Of the final image; the preview itself is smaller."""
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: ImageFormat


class CompletedEvent(Settings):
    """The image at the end of a stream."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    b64_json: str | None = None
    url: str | None = None
    created_at: int
    seed: int


class Model(BaseModel):
    """One model that can be asked for; what it takes is null until it has been up."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "zimage-ray"
    capabilities: list[str] | None = None
    """Of ``generations``, ``image_to_image``, ``inpainting``, ``edits``, ``control_image``,
    ``control_image_inpainting``, ``negative_prompt``."""
    max_reference_images: int | None = None
    """Pictures of one edit; 0 for a model that starts from a picture instead."""
    default_size: str | None = None
    max_side: int | None = None
    max_pixels: int | None = None
    size_multiple: int | None = None
    default_num_inference_steps: int | None = None
    default_guidance_scale: float | None = None
    max_guidance_scale: float | None = None
    max_prompt_tokens: int | None = None


class ModelList(BaseModel):
    """``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetail


class Health(BaseModel):
    """``GET /health`` and ``GET /ready``."""

    status: Literal["ok", "starting"]
    models: dict[str, Literal["ready", "cold", "starting"]] = Field(default_factory=dict)


ERROR_STATUSES: dict[int, str] = {
    400: "The request can't be honoured; the message names the field.",
    401: "No API key, or a wrong one.",
    404: "No such model, or no such route.",
    405: "The route takes another method.",
    409: "The Idempotency-Key was used with another request.",
    413: "The body is too large.",
    415: "The body is of another media type.",
    429: "Too many requests for this key, or the queue is full; see Retry-After.",
    500: "The image could not be made.",
    503: "No replica can take the request now; see Retry-After.",
    504: "The deadline passed.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers for OpenAPI."""
    return {status: {"model": ErrorBody, "description": ERROR_STATUSES[status]} for status in statuses}
