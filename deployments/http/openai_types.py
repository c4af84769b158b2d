"""Bodies of the HTTP API, as in OpenAI's Images API (openai-python 3.54, types/image_*.py), with additions.

The additions are the generation fields (``seed``, ``num_inference_steps``, ...), ``priority``, the edit
fields (``strength``, ...), and the settings that were used, which answers report.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    create_model,
    model_validator,
)

from deployments.http.client_fields import RANDOM_SEED, ClientFields
from zimage_models.field_spec import FieldKind, RequestField, Way
from zimage_models.field_values import MAX_PROMPT_CHARS
from zimage_models.request_fields import REQUEST_FIELDS, fields_of

Body = TypeVar("Body", bound="ImageBody")

MAX_PARTIAL_IMAGES = 3
ImageFormat = Literal["png", "jpeg", "webp", "avif"]
_Format = Annotated[
    ImageFormat,
    BeforeValidator(lambda value: "jpeg" if value == "jpg" else value),
    WithJsonSchema({"type": "string", "enum": ["png", "jpeg", "jpg", "webp", "avif"]}),
]


class ImageBody(ClientFields):
    """The fields that generations and edits share; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    model: str | None = Field(default=None, max_length=256)
    """By default the endpoint's first model."""
    size: Annotated[str, StringConstraints(max_length=64)] = "auto"
    """``auto`` or ``WIDTHxHEIGHT`` in pixels."""
    output_format: _Format = "png"
    output_compression: int | None = Field(default=None, ge=0, le=100)
    """Quality of jpeg, webp and avif; 100 is the best, and the default is good."""
    response_format: Literal["b64_json", "url"] | None = None
    """By default ``b64_json``, with a ``url`` too where the endpoint keeps images (``local_urls``)."""
    stream: bool = False
    partial_images: int = Field(default=0, ge=0, le=MAX_PARTIAL_IMAGES)
    priority: Literal["online", "batch"] = "online"

    def request_values(self) -> dict[str, Any]:
        """Return its request fields; None where the endpoint decides."""
        values = self.model_dump(include={*REQUEST_FIELDS})
        return values | {
            "size": None if self.size == "auto" else self.size,
            "seed": None if self.seed == RANDOM_SEED else self.seed,
        }


def _allow_null(schema: dict[str, Any]) -> None:
    for name, value in schema["properties"].items():
        if name not in schema["required"] and "anyOf" not in value:
            schema["properties"][name] = {"anyOf": [value, {"type": "null"}]}


_DECLARED = ("prompt", "size", "seed")
"""Request fields that the bodies declare themselves, as OpenAI's API does or with a meaning more."""


def _with_request_fields(ways: Way) -> Callable[[type[Body]], type[Body]]:
    """Add the request fields of some ways to a body."""

    def extend(body: type[Body]) -> type[Body]:
        added: dict[str, Any] = {
            field.outer_name: _body_field(field)
            for field in fields_of(ways)
            if field.outer_name not in _DECLARED and not field.is_picture
        }
        taken = added.keys() & body.model_fields.keys()
        assert not taken, f"{taken}: OpenAI's API has fields of these names"
        extended: type[Body] = create_model(
            body.__name__, __base__=body, __module__=body.__module__, __doc__=body.__doc__, **added
        )
        return extended

    return extend


def _body_field(field: RequestField) -> tuple[Any, Any]:
    limits: dict[str, Any] = {"max_length": MAX_PROMPT_CHARS} if field.kind is FieldKind.TEXT else {}
    body_type: Any = Literal[field.choices] if field.choices else _BODY_TYPES[field.kind]
    if field.kind in _JSON_NUMBERS:
        # Only described here: build_request checks them, so that its messages are those of a batch job.
        body_type = Annotated[body_type, WithJsonSchema(_number_schema(field))]
    return body_type | None, Field(default=None, description=field.summary or None, **limits)


def _number_schema(field: RequestField) -> dict[str, Any]:
    low = "exclusiveMinimum" if field.is_above_low else "minimum"
    limits = {low: field.low, "maximum": field.high}
    return {
        "type": _JSON_NUMBERS[field.kind],
        **{name: limit for name, limit in limits.items() if limit is not None},
    }


_BODY_TYPES: dict[FieldKind, Any] = {
    FieldKind.TEXT: str,
    FieldKind.INTEGER: int,
    FieldKind.NUMBER: float,
    FieldKind.BOOLEAN: bool,
}
_JSON_NUMBERS = {FieldKind.INTEGER: "integer", FieldKind.NUMBER: "number"}


class JsonBody(BaseModel):
    """JSON: null counts as absent, and types are not converted."""

    model_config = ConfigDict(strict=True, json_schema_extra=_allow_null)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}


@_with_request_fields(Way.HTTP)
class GenerateBody(JsonBody, ImageBody):
    """``POST /v1/images/generations``: JSON."""


@_with_request_fields(Way.HTTP | Way.HTTP_EDIT)
class EditBody(ImageBody):
    """The fields of ``POST /v1/images/edits``, apart from its pictures."""


class ImageData(BaseModel):
    """One image in an answer."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: None = None
    seed: int


class TokenDetails(BaseModel):
    """Tokens by kind."""

    image_tokens: int
    text_tokens: int


class Usage(BaseModel):
    """Tokens that went through the transformer: in from the prompt and pictures, out as images."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int
    output_tokens_details: TokenDetails
    total_tokens: int


class Settings(BaseModel):
    """The settings that were used."""

    model: str
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: ImageFormat
    num_inference_steps: int
    guidance_scale: float
    precision: str
    """What the transformer's matrix products were made in: ``float32``, ``bf16`` or ``fp8``."""
    quality_mode: str
    num_computed_steps: int
    """Steps that were computed; the others reused an earlier one."""
    prompt_truncated: bool
    usage: Usage
    ignored: list[str]
    """Fields of the request that were accepted and change nothing."""
    warning: str | None
    """What may be wrong with the images, in a sentence."""


class ImagesResponse(Settings):
    """The answer of both image routes."""

    created: int
    data: list[ImageData]


class PartialImageEvent(BaseModel):
    """A preview in a stream: a smaller picture of the unfinished image."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    b64_json: str
    partial_image_index: int
    created_at: int
    size: str
    """Size of the final image; the preview is smaller."""
    warning: str | None
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
    """One model that clients can request; what depends on its weights is null until it has run."""

    id: str
    alias_of: str | None = None
    """The model that answers requests for this one, if that is another."""
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "zimage-ray"
    capabilities: list[str] | None = None
    """Any of ``generations``, ``image_to_image``, ``inpainting``, ``edits``, ``control_image``,
    ``control_image_inpainting``, ``negative_prompt``."""
    max_reference_images: int | None = None
    """Reference images of one edit; 0 for a model that starts from a picture instead."""
    default_size: str | None = None
    recommended_sizes: list[str] | None = None
    """Sizes that the model was trained on, the best first; images of others carry a ``warning``."""
    max_side: int | None = None
    max_pixels: int | None = None
    size_multiple: int | None = None
    default_num_inference_steps: int | None = None
    default_guidance_scale: float | None = None
    max_guidance_scale: float | None = None
    quality_modes: dict[str, list[int]] | None = None
    """The modes besides ``exact``, and the numbers of steps that each can be used with."""
    max_prompt_tokens: int | None = None
    image_types: list[str]
    """Media types of the pictures that edits take."""
    max_image_bytes: int
    max_image_pixels: int
    """Of all pictures of a request together."""
    max_body_bytes: int


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
    """The body of every error answer."""

    error: ErrorDetail


class Health(BaseModel):
    """``GET /health`` and ``GET /ready``."""

    status: Literal["ok", "starting", "draining"]
    models: dict[str, Literal["ready", "cold", "starting"]] = Field(default_factory=dict)


ERROR_STATUSES: dict[int, str] = {
    400: "The request is invalid; the message names the field.",
    401: "No API key, or a wrong one.",
    404: "No such model, or no such route.",
    405: "The route does not accept this method.",
    409: "The Idempotency-Key was used with another request.",
    413: "The body is too large.",
    415: "The body's media type is not accepted.",
    429: "Too many requests for this key, or the queue is full; see Retry-After.",
    500: "The image could not be made.",
    503: "No replica can take the request now; see Retry-After.",
    504: "The deadline passed.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers for OpenAPI."""
    return {status: {"model": ErrorBody, "description": ERROR_STATUSES[status]} for status in statuses}
