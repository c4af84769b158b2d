"""The table of request fields: everything a request can set. It knows nothing about file formats or HTTP.

Every input and output takes its fields from here: columns of prompt tables, the work table, the parts of a
data set, bodies of the HTTP API, lines of OpenAI batch files, options of the command line, and metadata of
image files.
"""

from zimage_models.field_spec import FieldKind, RequestField, Way
from zimage_models.step_schedules import EXACT, QUALITY_MODES

MAX_SEED = 2**32 - 1
"""The largest seed: torch's CPU generator uses 32 bits, so 2**32 + 5 would draw the same noise as 5."""

_IN = Way.COLUMN | Way.BATCH_LINE
_VALUE = _IN | Way.HTTP | Way.OPTION | Way.PART

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
            ways=_IN | Way.HTTP | Way.PART | Way.IMAGE_FILE,
            summary="Width in pixels, instead of size.",
            arrow_type="int32",
            low=1,
        ),
        RequestField(
            name="height",
            kind=FieldKind.INTEGER,
            ways=_IN | Way.HTTP | Way.PART | Way.IMAGE_FILE,
            summary="Height in pixels, instead of size.",
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
            if_high_of=lambda spec: spec.variant.guidance_hint,
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
            name="quality_mode",
            kind=FieldKind.CHOICE,
            ways=_IN | Way.HTTP | Way.OPTION | Way.IMAGE_FILE,
            summary="exact: every step is computed; high, fast: three quarters or half of them, the others"
            " reuse the last one's; needs zimage calibrate.",
            arrow_type="string",
            choices=QUALITY_MODES,
            default=EXACT,
            option="quality",
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
            if_low="leave it empty for a seed of its own",
            if_high_of=lambda spec: "larger seeds repeat the noise of smaller ones",
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
EDIT_SETTINGS = tuple(name for name in EDIT_FIELDS if not REQUEST_FIELDS[name].is_picture)
"""Those of them that are not pictures themselves."""


def fields_of(way: Way) -> list[RequestField]:
    """Return the fields that have one of the given ways, in the table's order."""
    return [field for field in REQUEST_FIELDS.values() if field.ways & way]


_RENAMED = [field for field in REQUEST_FIELDS.values() if field.public_name]


def in_outer_names(message: str) -> str:
    """Return an error message with the fields called as tables and clients call them."""
    for field in _RENAMED:
        message = message.replace(field.name, field.outer_name)
    return message
