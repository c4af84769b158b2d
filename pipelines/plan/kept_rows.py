"""Published images that a plan keeps although its table does not name them (``--append``)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

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
                f"append: column {field.name!r} is {schema.field(index).type} in the table, but {field.type}"
                f" in the data set; convert it, or leave it out (--drop {field.name!r})",
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
    is_kept = [not (is_named(str(key)) or is_planned(str(unit))) for key, unit in units]
    rows = rows.filter(pa.array(is_kept, pa.bool_()))
    own = {"todo": False, "row": -1}

    def column(field: "pa.Field[Any]") -> Any:
        is_copied = field.name in passthrough.names
        if field.name in own:
            return pa.repeat(pa.scalar(own[field.name], field.type), rows.num_rows)
        if field.name == "row_digest" and not published.equals(passthrough):
            # The part lacks columns of the data set to come, so it is written anew.
            layout = [[one.name, str(one.type)] for one in passthrough]
            return pa.array([digest([layout, old]) for old in rows["row_digest"].to_pylist()], field.type)
        if field.name in (published.names if is_copied else rows.column_names):
            return rows[field.name].cast(field.type)
        # Not published with an image; one that is kept is not made again, so the default does.
        request_field = None if is_copied else REQUEST_FIELDS.get(field.name)
        default = None if request_field is None or request_field.is_picture else request_field.default
        return pa.repeat(pa.scalar(default, field.type), rows.num_rows)

    schema = work_schema(passthrough)
    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)
