"""The table of request fields: what can be asked of one image. It knows no file format and no HTTP.

One entry feeds every way in and out: columns of prompt tables, the work table, the parts of a data set,
bodies of the HTTP API, lines of OpenAI batch files, options of the command line, metadata of image files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from typing import Any

from zimage_models.model_spec import ModelSpec

MAX_SEED = 2**63 - 1


class FieldKind(StrEnum):
    """What values a field has."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    SIZE = "size"
    """``WIDTHxHEIGHT``, which stands for two other fields."""
    PICTURE = "picture"
    PICTURES = "pictures"


class Way(Flag):
    """A way in or out that a field takes."""

    COLUMN = auto()
    """A column of a prompt table."""
    OPTION = auto()
    """An option of ``zimage generate``, for rows that leave the field open."""
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
    """One field. Limits are those of any model; ``high_of`` gives a model's own."""

    name: str
    """As in :class:`zimage_models.requests.ImageRequest`."""
    kind: FieldKind
    ways: Way
    summary: str = ""
    """For help texts and API descriptions."""
    arrow_type: str = ""
    """Name of the Arrow type in work tables and parts; empty for pictures, which are not kept there."""
    low: float | None = None
    high: float | None = None
    is_above_low: bool = False
    """Whether ``low`` itself is refused."""
    default: Any = None
    """None: it is required, or the model decides."""
    default_of: Callable[[ModelSpec], Any] | None = None
    high_of: Callable[[ModelSpec], float] | None = None
    aliases: tuple[str, ...] = ()
    """Other names that a column for it may have."""
    option: str = ""
    """The command line's own name for it, where that is shorter."""
    public_name: str = ""
    """What tables and clients call it, where that is not its name."""
    needs: str = ""
    """The picture field without which it has no effect."""
    hash_column: str = ""
    """The column of a data set made from pictures that holds the sha256 of its files."""

    @property
    def is_picture(self) -> bool:
        """Whether its values are pictures."""
        return self.kind in (FieldKind.PICTURE, FieldKind.PICTURES)

    @property
    def is_of_edits(self) -> bool:
        """Whether only requests with pictures have it."""
        return self.is_picture or bool(self.needs)

    @property
    def outer_name(self) -> str:
        """What tables and clients call it."""
        return self.public_name or self.name

    @property
    def option_name(self) -> str:
        """What the command line calls it, in Python's spelling."""
        return self.option or self.name

    def default_for(self, spec: ModelSpec) -> Any:
        """Return its value in requests of a model that leave it open; None if it is required."""
        return self.default if self.default_of is None else self.default_of(spec)

    def limits_for(self, spec: ModelSpec) -> tuple[float, float]:
        """Return the least and the greatest number that a model takes."""
        high = self.high if self.high_of is None else self.high_of(spec)
        assert self.low is not None, f"{self.name} is not a number"
        assert high is not None, f"{self.name} has limits of its own"
        return self.low, high


# The order is that of the columns in work tables and parts. Addresses have their own (pipelines.unit_ids).
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
            summary="Size of the images; the model's own if not given.",
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
            summary="Limit of the guided prediction's norm, relative to the positive one; 0 sets none.",
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
            summary="Cut a prompt that is past the token limit instead of rejecting it.",
            arrow_type="bool",
            default=False,
        ),
        RequestField(
            name="seed",
            kind=FieldKind.INTEGER,
            ways=_IN | Way.HTTP | Way.PART | Way.IMAGE_FILE,
            summary="Of the first image; each further image takes the next number. Random if not given.",
            arrow_type="int64",
            low=0,
            high=MAX_SEED,
        ),
        RequestField(
            name="strength",
            kind=FieldKind.NUMBER,
            ways=_IN | Way.HTTP_EDIT | Way.OPTION | Way.IMAGE_FILE,
            summary="How far an image may depart from the picture it starts from, above 0 to 1.",
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
"""The fields that every request has a value of."""
EDIT_FIELDS = tuple(field.name for field in REQUEST_FIELDS.values() if field.is_of_edits)
"""The fields of a request that has pictures."""


def fields_of(way: Way) -> list[RequestField]:
    """Return the fields that take one of the given ways, in the table's order."""
    return [field for field in REQUEST_FIELDS.values() if field.ways & way]
