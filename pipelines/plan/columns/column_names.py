"""Names of columns: which mean a field, which only look like one, which the output has itself."""

from collections.abc import Collection, Iterable

from pipelines.part_schema import COLUMN_NAMES
from pipelines.work_table import (
    MADE_FROM_FIELDS,
    PICTURE_WORK_FIELDS,
    QUALITY_FIELDS,
    STAGE_COLUMNS,
    WORK_FIELDS,
)
from zimage_models.field_spec import Way
from zimage_models.request_fields import REQUEST_FIELDS, fields_of

COLUMN_FIELDS = {field.outer_name: field for field in fields_of(Way.COLUMN)}
"""Fields of a request that a column can set, by their names in tables."""

ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": REQUEST_FIELDS["prompt"].aliases,
    "key": ("id", "sku", "custom_id"),
    "model": (),
    "variants": ("n",),
    **{name: field.aliases for name, field in COLUMN_FIELDS.items()},
}
"""Fields that a column can be mapped to, and other names that a column for each may have."""

NEEDED = {
    name: REQUEST_FIELDS[field.needs].outer_name for name, field in COLUMN_FIELDS.items() if field.needs
}
"""Fields that have no effect without another field, and that field."""

QUALITY_COLUMNS = frozenset(field.name for field in QUALITY_FIELDS)
"""Column names of a data set with quality modes, which say how its images were computed."""

RESERVED_COLUMNS = frozenset(
    {*COLUMN_NAMES, *STAGE_COLUMNS, *QUALITY_COLUMNS, *(field.name for field in WORK_FIELDS)}
)
"""Column names that the output, the work table and the stages of a run use themselves."""

PICTURE_COLUMNS = frozenset(field.name for field in (*PICTURE_WORK_FIELDS, *MADE_FROM_FIELDS))
"""Further names that they use for a table with pictures."""

MADE_FROM_COLUMNS = frozenset(field.name for field in MADE_FROM_FIELDS)
"""Those of them that say what an image was made from."""

_LOOK_ALIKES: dict[str, tuple[str, ...]] = {
    "num_inference_steps": (
        "step",
        "n_steps",
        "num_steps",
        "sampling_steps",
        "sampler_steps",
        "denoising_steps",
        "diffusion_steps",
        "inference_steps",
    ),
    "guidance_scale": ("cfg", "cfg_scale", "guidance_strength", "classifier_free_guidance"),
    "negative_prompt": ("negative", "neg", "neg_prompt", "negative_text", "negative_caption"),
    "seed": ("seeds", "random_seed", "noise_seed", "rng_seed", "manual_seed", "seed_number"),
    "size": ("aspect_ratio", "resolution", "image_size", "img_size", "output_size"),
    "width": ("image_width", "img_width", "output_width", "width_px", "width_pixels"),
    "height": ("image_height", "img_height", "output_height", "height_px", "height_pixels"),
    "variants": (
        "num_variants",
        "num_images",
        "n_images",
        "num_images_per_prompt",
        "images_per_prompt",
        "num_samples",
        "n_samples",
        "batch_size",
    ),
    "cfg_normalization": ("cfg_norm", "cfg_normalisation", "cfg_renorm"),
    "cfg_truncation": ("cfg_trunc",),
    "quality_mode": ("quality",),
    "truncate_prompt": ("truncate", "prompt_truncation"),
    "prompt": ("prompts", "prompt_text", "text_prompt", "positive_prompt", "positive", "image_prompt"),
    "image": (
        "image_url",
        "image_urls",
        "image_path",
        "image_file",
        "img",
        "picture",
        "photo",
        "init_image",
        "input_image",
        "source_image",
        "source_img",
        "original_image",
    ),
    "mask": ("mask_image", "mask_img", "mask_url", "mask_path", "inpaint_mask"),
    "strength": ("denoise", "denoising_strength", "img2img_strength", "image_strength"),
    "control_image": ("controlnet_image", "control_image_url", "control_image_path"),
    "controlnet_conditioning_scale": ("controlnet_scale", "controlnet_strength", "conditioning_scale"),
}
"""What other programs call our fields. A shop may mean something else by it, so none is taken unasked."""


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


_LOOKS_LIKE = {
    _plain(word): field
    for field, names in ALIASES.items()
    if field != "model"
    for word in (field, *names, *_LOOK_ALIKES.get(field, ()))
}


def look_alike(name: str) -> str | None:
    """Return the field that a column's name resembles (letters and digits alone count), or None."""
    return _LOOKS_LIKE.get(_plain(name))


def best_named(field: str, names: Iterable[str]) -> list[str]:
    """Return the names that fit a field best: none, one, or several that fit equally well.

    Exactly the field's name comes first. Next come its name in a different case and the lower-case aliases,
    which rank the same, and last the aliases in a different case. For keys, the lower-case aliases go before
    ``Key``, since a column ``id`` can be nothing else.
    """
    names, aliases = list(names), ALIASES[field]
    ranks = (
        [name for name in names if name == field],
        [name for name in names if field == "key" and name in aliases],
        [name for name in names if name.lower() == field or name in aliases],
        [name for name in names if name.lower() in aliases],
    )
    return next((found for found in ranks if found), [])


def free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, with the first number that is free if it is taken."""
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
