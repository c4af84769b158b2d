"""Columns that are copied but look like a setting: how a person can use them."""

import shlex
from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa

from pipelines.plan.columns.column_map import column_text
from pipelines.plan.columns.column_names import ALIASES, COLUMN_FIELDS, NEEDED, look_alike
from pipelines.plan.columns.column_values import is_text_or_number, may_name_pictures

_MEANINGS = {
    "key": "the row's key",
    "variants": "the number of images",
    "size": "the image's size, such as 1024x768",
    "width": "the image's width in pixels",
    "height": "the image's height in pixels",
    "num_inference_steps": "the number of steps",
    "image": "the picture to start from",
}
_SIZE_FIELDS = frozenset({"size", "width", "height"})


def hints(
    schema: pa.Schema,
    *,
    copied: Collection[str],
    chosen: Collection[str],
    refused: Collection[str],
    has_image_job: bool,
    has_controlnet: bool,
) -> Iterator[str]:
    """Yield how to use each copied column that looks like a field without a column, and what needs an option.

    Each is a sentence.

    Args:
        schema: the table's columns.
        copied: columns that are passed through.
        chosen: fields that have a column.
        refused: fields that are meant to have none.
        has_image_job: images are to be made from pictures, so their addresses matter.
        has_controlnet: rows with control images can be made.
    """
    if "control_image" in chosen and not has_controlnet:
        yield "control images need --controlnet; --map control_image= makes the images without them"
    settled = {*chosen, *refused}
    if not settled.isdisjoint(_SIZE_FIELDS):
        settled |= _SIZE_FIELDS
    similar = {}
    for name in copied:
        of = look_alike(name)
        if of and of not in settled and _fits(schema.field(name).type, of):
            similar[name] = of
    sides = {of: name for name, of in similar.items() if of in ("width", "height")}
    if len(sides) == 2:
        yield _hint(sides, "the images' size in pixels")
        similar = {name: of for name, of in similar.items() if of not in sides}
    for name, of in similar.items():
        if of == "image" and name.lower() in ("image", *ALIASES["image"]):
            yield (
                f"column {column_text(name)} is copied as text; to start from its pictures, give "
                f"{map_option(**{of: name})} (--allow-urls for web addresses)"
            )
        elif (of != "image" or has_image_job) and NEEDED.get(of, of) in (of, *chosen):
            yield _hint({of: name}, _MEANINGS.get(of, f"the {of.replace('_', ' ')}"))


def _fits(dtype: pa.DataType, field: str) -> bool:
    if field in COLUMN_FIELDS and COLUMN_FIELDS[field].is_picture:
        return may_name_pictures(dtype)
    return is_text_or_number(dtype) or pa.types.is_boolean(dtype)


def _hint(columns: Mapping[str, str], meaning: str) -> str:
    names = " and ".join(column_text(name) for name in columns.values())
    if len(columns) == 1:
        return f"column {names} is not used; if it is {meaning}, give {map_option(**columns)}"
    return f"columns {names} are not used; if they are {meaning}, give {map_option(**columns)}"


def map_option(**columns: str) -> str:
    """Return the options that map fields to columns, for a shell."""
    return " ".join(f"--map {shlex.quote(f'{field}={name}')}" for field, name in columns.items())
