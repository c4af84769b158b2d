"""The columns of a data set's parts, and their types for Hugging Face `datasets`."""

import json
from typing import Any

import pyarrow as pa

from pipelines.hub_features import feature_of
from zimage_models.errors import InvalidRequest
from zimage_models.field_spec import FieldKind, RequestField, Way
from zimage_models.request_fields import fields_of


def arrow_type(field: RequestField) -> pa.DataType:
    """Return the Arrow type of a request field that is not a picture."""
    named: Any = pa.type_for_alias  # the stubs know literal names only
    dtype: pa.DataType = named(field.arrow_type)
    return dtype


def arrow_field(field: RequestField) -> "pa.Field[Any]":
    """Return the column of a request field that is not a picture, under the field's name."""
    return pa.field(field.name, arrow_type(field))


def made_from_field(field: RequestField) -> "pa.Field[Any]":
    """Return the column that records what an image was made from: a setting, or hashes of picture files."""
    if not field.is_picture:
        return arrow_field(field)
    return pa.field(
        field.hash_column, pa.list_(pa.string()) if field.kind is FieldKind.PICTURES else pa.string()
    )


_COLUMNS: dict[str, pa.DataType] = {
    "unit_id": pa.string(),
    "key": pa.string(),
    "variant": pa.int32(),
    # `datasets` shows only this exact struct as images (5.2 loads large_binary as a plain dict).
    "image": pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]),
    **{field.name: arrow_type(field) for field in fields_of(Way.PART)},
    "prompt_truncated": pa.bool_(),
    "model": pa.string(),
    "weights_sha256": pa.string(),
    "image_sha256": pa.string(),
    "row_digest": pa.string(),
}
_ERROR_COLUMNS: dict[str, pa.DataType] = {
    "unit_id": pa.string(),
    "key": pa.string(),
    "variant": pa.int32(),
    "row": pa.int64(),
    "error_class": pa.string(),
    "message": pa.string(),
    "prompt": pa.string(),
    "attempts": pa.int32(),
}
COLUMN_NAMES = tuple(_COLUMNS)
"""Columns of every part; the table's own columns follow under other names."""

ERROR_SCHEMA = pa.schema(_ERROR_COLUMNS)
"""Schema of a part that holds failed rows."""


def part_schema(passthrough: pa.Schema) -> pa.Schema:
    """Build the schema of a data set's parts, so that `datasets` loads the images as images.

    Args:
        passthrough: columns copied from the prompt table; their metadata is dropped.

    Raises:
        InvalidRequest: a column name is reserved or repeated, or `datasets` has no such type.
    """
    columns = dict(_COLUMNS)
    for field in passthrough:
        if field.name in columns:
            reason = "is a column of every part" if field.name in _COLUMNS else "occurs twice"
            raise InvalidRequest(f"column {field.name}: the name {reason}; rename it", field=field.name)
        columns[field.name] = field.type
    features = {name: feature_of(dtype, column=name) for name, dtype in columns.items()}
    features["image"] = {"_type": "Image"}
    return pa.schema(
        columns, metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    )
