"""Published images that a plan keeps although its table does not name them (``--append``)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipelines.unit_ids import digest
from pipelines.work_table import work_schema
from zimage_models.errors import InvalidRequest
from zimage_models.request_fields import REQUEST_FIELDS


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRows:
    """The rows of a data set in force, without their images' bytes."""

    passthrough: pa.Schema
    """The columns that it got from its tables."""
    tables: Callable[[], Iterator[pa.Table]]
    """Yields the rows by part, with ``image.path`` as ``file_name``."""


def united(schema: pa.Schema, published: pa.Schema) -> pa.Schema:
    """Return the columns of a table and those of a data set that it is added to.

    Raises:
        InvalidRequest: a column has another type in each.
    """
    for field in published:
        index = schema.get_field_index(field.name)
        if index >= 0 and schema.field(index).type != field.type:
            raise InvalidRequest(
                f"append: column {field.name!r} is {schema.field(index).type} in the table and {field.type} in"
                f" the data set; convert it, or leave it out (--drop {field.name!r})",
                field="append",
            )
    return pa.schema([*schema, *(field for field in published if field.name not in schema.names)])


def kept_work(
    rows: pa.Table,
    *,
    is_named: Callable[[str], bool],
    is_planned: Callable[[str], bool],
    published: pa.Schema,
    passthrough: pa.Schema,
) -> pa.Table:
    """Return the work rows of the published images that stay.

    Args:
        rows: rows of one part.
        is_named: whether the table names a key; its images are the table's business.
        is_planned: whether the table asks for an image; one that moved to another key is not kept under its
            old one.
        published: columns that the data set got from its tables.
        passthrough: columns of the data set to come.
    """
    units = zip(rows["key"].to_pylist(), rows["unit_id"].to_pylist(), strict=True)
    rows = rows.filter(pa.array([not (is_named(key) or is_planned(unit)) for key, unit in units], pa.bool_()))
    schema = work_schema(passthrough)
    columns = []
    for field in schema:
        if field.name == "todo":
            column = pa.chunked_array([pa.array([False] * rows.num_rows, pa.bool_())])
        elif field.name == "row":
            column = pa.chunked_array([pa.array([-1] * rows.num_rows, pa.int64())])
        elif field.name == "row_digest" and not published.equals(passthrough):
            # Other columns than the part has, so the part is written anew.
            layout = [[one.name, str(one.type)] for one in passthrough]
            digests = [digest([layout, old]) for old in rows["row_digest"].to_pylist()]
            column = pa.chunked_array([pa.array(digests, pa.string())])
        elif field.name in rows.column_names and (field.name not in passthrough.names or field.name in published.names):
            column = rows[field.name].cast(field.type)
        elif field.name in REQUEST_FIELDS and not pa.types.is_nested(field.type):
            # Not published with an image; an image that is kept needs no value that is true.
            default = pa.scalar(REQUEST_FIELDS[field.name].default, field.type)
            column = pa.chunked_array([pa.repeat(default, rows.num_rows)])
        else:
            column = pa.chunked_array([pa.nulls(rows.num_rows, field.type)])
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
