"""Published images that a plan keeps although its table does not name them (``--append``)."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.sources.common_types import TypeConflict, common_type
from pipelines.unit_ids import SeenHashes, digest
from pipelines.work_table import work_schema
from zimage_models.errors import InvalidRequest
from zimage_models.request_fields import GENERATION_FIELDS, REQUEST_FIELDS


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRows:
    """The rows of a data set in force, without their images' bytes."""

    generation: int
    passthrough: pa.Schema
    """The columns that it got from its tables."""
    tables: Callable[[], Iterator[pa.Table]]
    """Yields the rows by part, with ``image.path`` as ``file_name``."""


class KeptImages:
    """Which published images belong to which keys; 40 bytes an image."""

    def __init__(self, published: PublishedRows) -> None:
        self._images, self._of_keys = SeenHashes(), SeenHashes()
        for rows in published.tables():
            for unit_id, key in zip(rows["unit_id"].to_pylist(), rows["key"].to_pylist(), strict=True):
                self._images.add(str(unit_id))
                self._of_keys.add(f"{unit_id} {key}")

    def is_of_another(self, unit_id: str, key: str) -> bool:
        """Return whether an image is published, but not under this key."""
        return unit_id in self._images and f"{unit_id} {key}" not in self._of_keys


def united(schema: pa.Schema, published: pa.Schema) -> pa.Schema:
    """Return the columns of a data set and of a table that is added to it, with types that hold both.

    Raises:
        InvalidRequest: columns have types that no type holds.
    """
    columns = {field.name: field for field in published}
    conflicts: dict[str, str] = {}
    for field in schema:
        known = columns.get(field.name, field)
        try:
            columns[field.name] = known.with_type(common_type(known.type, field.type))
        except TypeConflict:
            conflicts[field.name] = (
                f"column {field.name!r} is {field.type} in the table, but {known.type} in the data set"
            )
    if conflicts:
        them = "it" if len(conflicts) == 1 else "them"
        drop = " ".join(f"--drop {shlex.quote(name)}" for name in conflicts)
        raise InvalidRequest(
            f"append: {'; '.join(conflicts.values())}; convert {them}, or leave {them} out ({drop})",
            field="append",
        )
    return pa.schema(list(columns.values()))


def as_type(column: "pa.ChunkedArray[Any]", field: "pa.Field[Any]") -> "pa.ChunkedArray[Any]":
    """Return a column with the type that holds the values of the data set and of the table.

    Raises:
        InvalidRequest: it does not hold one, as ``double`` does not hold 2 ** 53 + 1.
    """
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowInvalid as error:
        raise InvalidRequest(
            f"append: column {field.name!r} becomes {field.type} to hold the values of the table and of the"
            f" data set: {error}",
            field="append",
        ) from error


def check_name(file_name: str, key: str, *, taken: SeenHashes) -> None:
    """Check that an image that stays has a file name that no image of the table has.

    Raises:
        InvalidRequest: the name is taken.
    """
    if file_name in taken:
        raise InvalidRequest(
            f"name: {file_name!r} is the file name of the published key {key!r}, which is kept, and of a"
            " row of the table; give other names (--name)",
            field="name",
        )


def kept_work(
    rows: pa.Table,
    *,
    is_named: Callable[[str], bool],
    published: pa.Schema,
    passthrough: pa.Schema,
) -> pa.Table:
    """Return the work rows of the published images that stay.

    Args:
        rows: rows of one part.
        is_named: whether the plan has images of a key; then only these are the key's.
        published: columns that the data set got from its tables.
        passthrough: columns of the data set to come.
    """
    rows = rows.filter(pa.array([not is_named(str(key)) for key in rows["key"].to_pylist()], pa.bool_()))
    own = {"todo": False, "row": -1}

    def column(field: "pa.Field[Any]") -> Any:
        is_copied = field.name in passthrough.names and field.name not in GENERATION_FIELDS
        if field.name in own:
            return pa.repeat(pa.scalar(own[field.name], field.type), rows.num_rows)
        if field.name == "row_digest" and not published.equals(passthrough):
            # The part lacks columns of the data set to come, so it is written anew.
            layout = [[one.name, str(one.type)] for one in passthrough]
            return pa.array([digest([layout, old]) for old in rows["row_digest"].to_pylist()], field.type)
        if field.name in (published.names if is_copied else rows.column_names):
            return as_type(rows[field.name], field)
        # Not published with an image; one that is kept is not made again, so the default does.
        request_field = None if is_copied else REQUEST_FIELDS.get(field.name)
        default = None if request_field is None or request_field.is_picture else request_field.default
        return pa.repeat(pa.scalar(default, field.type), rows.num_rows)

    schema = work_schema(passthrough)
    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)
