"""The table of request fields: everything a request can set. It knows nothing about file formats or HTTP.

Every input and output takes its fields from here: columns of prompt tables, the work table, the parts of a
data set, bodies of the HTTP API, lines of OpenAI batch files, options of the command line, and metadata of
image files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from typing import Any

from zimage_models.model_spec import ModelSpec

MAX_SEED = 2**63 - 1


class FieldKind(StrEnum):
    """The type of a field's values."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    SIZE = "size"
    """``WIDTHxHEIGHT``, which sets two other fields."""
    PICTURE = "picture"
    PICTURES = "pictures"


class Way(Flag):
    """An input or output that has a field."""

    COLUMN = auto()
    """A column of a prompt table."""
    OPTION = auto()
    """An option of ``zimage generate``, for rows that do not set the field."""
    BATCH_LINE = auto()
    """The body of a line of an OpenAI batch file."""
    HTTP = auto()
    """The body of ``POST /v1/images/generations`` and ``/v1/images/edits``."""
    HTTP_EDIT = auto()
    """The form of ``POST /v1/images/edits`` only."""
    PART = auto()
    """A column of every part of a data set."""
    IMAGE_FILE = auto()
    """The metadata of the image file."""


_IN = Way.COLUMN | Way.BATCH_LINE
_VALUE = _IN | Way.HTTP | Way.OPTION | Way.PART


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestField:
    """One field. Its limits hold for every model; ``high_of`` returns one model's upper limit."""

    name: str
    """Name in :class:`zimage_models.requests.ImageRequest`."""
    kind: FieldKind
    ways: Way
    summary: str = ""
    """Text for help and API descriptions."""
    arrow_type: str = ""
    """Name of the Arrow type in work tables and parts; empty for pictures, which are not stored there."""
    low: float | None = None
    high: float | None = None
    is_above_low: bool = False
    """Whether values must be above ``low``, not equal to it."""
    default: Any = None
    """Default value; None if the field is required or the model decides."""
    default_of: Callable[[ModelSpec], Any] | None = None
    high_of: Callable[[ModelSpec], float] | None = None
    aliases: tuple[str, ...] = ()
    """Other names accepted for its column."""
    option: str = ""
    """Shorter name on the command line, if there is one."""
    public_name: str = ""
    """Name in tables and for clients, if it differs."""
    needs: str = ""
    """Picture field without which it has no effect."""
    hash_column: str = ""
    """Column for the sha256 of its files, in data sets made from pictures."""

    @property
    def is_picture(self) -> bool:
        """Whether its values are pictures."""
        return self.kind in (FieldKind.PICTURE, FieldKind.PICTURES)

    @property
    def is_of_edits(self) -> bool:
        """Whether only requests with pictures use it."""
        return self.is_picture or bool(self.needs)

    @property
    def outer_name(self) -> str:
        """Name in tables and for clients."""
        return self.public_name or self.name

    @property
    def option_name(self) -> str:
        """Name on the command line, in Python's spelling."""
        return self.option or self.name

    def default_for(self, spec: ModelSpec) -> Any:
        """Return a model's default for it; None if it is required."""
        return self.default if self.default_of is None else self.default_of(spec)

    def limits_for(self, spec: ModelSpec) -> tuple[float, float]:
        """Return the lowest and the highest number that a model takes."""
        high = self.high if self.high_of is None else self.high_of(spec)
        assert self.low is not None, f"{self.name} is not a number"
        assert high is not None, f"{self.name} has no fixed upper limit"
        return self.low, high


# In the order of the columns in work tables and parts. Image IDs have their own order (pipelines.unit_ids).
REQUEST_FIELDS: dict[str, RequestField] = {
    field.name: field
    for field in (
        RequestField(
            name="prompt",
            kind=FieldKind.TEXT,
            ways=_IN | Way.HTTP | Way.PART | Way.IMAGE_FILE,
            arrow_type="string",
            aliases=("text", "caption", "instruction"),
        ),
        RequestField(
            name="negative_prompt",
            kind=FieldKind.TEXT,
            ways=_VALUE | Way.IMAGE_FILE,
            summary="What the image should not show; needs guidance.",
            arrow_type="string",
            default="",
        ),
        RequestField(
            name="size",
            kind=FieldKind.SIZE,
            ways=_IN | Way.HTTP | Way.OPTION,
            summary="Size of the images; the model's default size if not given.",
        ),
        RequestField(
            name="width",
            kind=FieldKind.INTEGER,
            ways=_IN | Way.PART | Way.IMAGE_FILE,
            arrow_type="int32",
            low=1,
        ),
        RequestField(
            name="height",
            kind=FieldKind.INTEGER,
            ways=_IN | Way.PART | Way.IMAGE_FILE,
            arrow_type="int32",
            low=1,
        ),
        RequestField(
            name="num_inference_steps",
            kind=FieldKind.INTEGER,
            ways=_VALUE | Way.IMAGE_FILE,
            summary="Denoising steps.",
            arrow_type="int32",
            low=1,
            high=1000,
            default_of=lambda spec: spec.default_num_inference_steps,
            high_of=lambda spec: spec.variant.max_num_inference_steps,
            aliases=("steps",),
            option="steps",
        ),
        RequestField(
            name="guidance_scale",
            kind=FieldKind.NUMBER,
            ways=_VALUE | Way.IMAGE_FILE,
            summary="Guidance scale as in diffusers; 0 switches guidance off.",
            arrow_type="float64",
            low=0,
            high=100,
            default_of=lambda spec: spec.default_guidance_scale,
            high_of=lambda spec: spec.variant.max_guidance_scale,
            aliases=("guidance",),
            option="guidance",
        ),
        RequestField(
            name="cfg_normalization",
            kind=FieldKind.NUMBER,
            ways=_VALUE,
            summary="Limit of the guided prediction's norm, relative to the positive one's; 0 for no limit.",
            arrow_type="float64",
            low=0,
            high=10,
            default=0.0,
        ),
        RequestField(
            name="cfg_truncation",
            kind=FieldKind.NUMBER,
            ways=_VALUE,
            summary="Normalised time (0 noise, 1 image) after which guidance is off.",
            arrow_type="float64",
            low=0,
            high=1,
            default=1.0,
        ),
        RequestField(
            name="truncate_prompt",
            kind=FieldKind.BOOLEAN,
            ways=_IN | Way.HTTP | Way.OPTION,
            summary="Truncate a prompt over the token limit instead of rejecting it.",
            arrow_type="bool",
            default=False,
        ),
        RequestField(
            name="seed",
            kind=FieldKind.INTEGER,
            ways=_IN | Way.HTTP | Way.PART | Way.IMAGE_FILE,
            summary="Seed of the first image; each further image takes the next number. Random if not given.",
            arrow_type="int64",
            low=0,
            high=MAX_SEED,
        ),
        RequestField(
            name="strength",
            kind=FieldKind.NUMBER,
            ways=_IN | Way.HTTP_EDIT | Way.OPTION | Way.IMAGE_FILE,
            summary="How far an image may depart from the picture it starts from; above 0, up to 1.",
            arrow_type="float64",
            low=0,
            high=1,
            is_above_low=True,
            needs="reference_images",
        ),
        RequestField(
            name="reference_images",
            kind=FieldKind.PICTURES,
            ways=_IN | Way.HTTP_EDIT,
            aliases=("images", "reference_image", "reference_images"),
            public_name="image",
            hash_column="reference_sha256",
        ),
        RequestField(
            name="mask",
            kind=FieldKind.PICTURE,
            ways=_IN | Way.HTTP_EDIT,
            needs="reference_images",
            hash_column="mask_sha256",
        ),
        RequestField(
            name="controlnet_conditioning_scale",
            kind=FieldKind.NUMBER,
            ways=_IN | Way.HTTP_EDIT | Way.OPTION | Way.IMAGE_FILE,
            summary="How closely an image follows its control image, 0 to 2.",
            arrow_type="float64",
            low=0,
            high=2,
            default=0.75,
            needs="control_image",
        ),
        RequestField(
            name="control_image",
            kind=FieldKind.PICTURE,
            ways=_IN | Way.HTTP_EDIT,
            aliases=("conditioning_image",),
            hash_column="control_sha256",
        ),
    )
}

GENERATION_FIELDS = tuple(
    field.name
    for field in REQUEST_FIELDS.values()
    if not field.is_of_edits and field.kind is not FieldKind.SIZE
)
"""Fields that have a value in every request."""
EDIT_FIELDS = tuple(field.name for field in REQUEST_FIELDS.values() if field.is_of_edits)
"""Fields that only requests with pictures use."""


def fields_of(way: Way) -> list[RequestField]:
    """Return the fields that have one of the given ways, in the table's order."""
    return [field for field in REQUEST_FIELDS.values() if field.ways & way]
