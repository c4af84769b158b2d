"""The work table: one row is one image to make. It knows no Ray."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from zimage_models.requests import GENERATION_FIELDS, ImageRequest, Priority

WORK_FIELDS: tuple[pa.Field, ...] = (
    pa.field("unit_id", pa.string()),
    pa.field("todo", pa.bool_()),
    pa.field("key", pa.string()),
    pa.field("variant", pa.int32()),
    pa.field("row", pa.int64()),
    pa.field("prompt", pa.string()),
    pa.field("negative_prompt", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("num_inference_steps", pa.int32()),
    pa.field("guidance_scale", pa.float64()),
    pa.field("cfg_normalization", pa.float64()),
    pa.field("cfg_truncation", pa.float64()),
    pa.field("truncate_prompt", pa.bool_()),
    pa.field("seed", pa.int64()),
    pa.field("file_name", pa.string()),
    pa.field("row_digest", pa.string()),
)
"""Columns of the work table before the passed-through ones."""


def work_schema(passthrough: pa.Schema) -> pa.Schema:
    """Return the work table's schema for a table with these passed-through columns."""
    return pa.schema([*WORK_FIELDS, *passthrough])


def passthrough_schema(schema: pa.Schema) -> pa.Schema:
    """Return the passed-through columns of a work table's schema."""
    own = {field.name for field in WORK_FIELDS}
    return pa.schema([field for field in schema if field.name not in own])


def to_request(row: Mapping[str, Any]) -> ImageRequest:
    """Read one work row back as the request it was made from."""
    return ImageRequest(**{name: row[name] for name in GENERATION_FIELDS}, priority=Priority.BATCH)
