"""One schema for the columns of several files, by name. It knows nothing about the columns' meaning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.sources.common_types import TypeConflict, common_type
from pipelines.sources.source_rows import is_json_text
from zimage_models.errors import InvalidRequest

_MAX_NOTES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FileColumns:
    """The columns of one file."""

    name: str
    """The file's name, for messages."""
    schema: pa.Schema
    partitions: pa.Schema
    """Columns that its path gives, and that it does not have itself."""
    is_typed: bool
    """The types are the file's own (Parquet), not read from the looks of its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnifiedColumns:
    """The columns of all files."""

    schema: pa.Schema
    as_text: frozenset[str]
    """Columns to read as text from files whose types are read from the looks of their values."""
    notes: tuple[str, ...]
    """What a person should know about it, a sentence each."""


@dataclass(frozen=True, slots=True)
class _Column:
    field: "pa.Field[Any]"
    typed_by: FileColumns
    """The file that gave the type so far."""


def unify_columns(files: Sequence[FileColumns]) -> UnifiedColumns:
    """Return one schema for files, with the columns in order of first appearance, those of paths last.

    Each type holds the values of all files. Where there is no such type, the column is text if the types are
    read from the looks of values.

    Raises:
        InvalidRequest: Parquet files give a column types that no type holds; the message names two files.
    """
    columns: dict[str, _Column] = {}
    as_text: dict[str, str] = {}
    own = [(file, field) for file in files for field in file.schema]
    of_paths = [(file, field) for file in files for field in file.partitions]
    for file, field in own + of_paths:
        known = columns.setdefault(field.name, _Column(field, file))
        try:
            merged = _merged(known, field)
        except TypeConflict as conflict:
            if known.typed_by.is_typed or file.is_typed:
                raise _refusal(known, file, field.name, conflict) from None
            kinds = f"{_kind(known.field)} in {known.typed_by.name} and {_kind(field)} in {file.name}"
            as_text.setdefault(field.name, f"column {field.name!r}: {kinds} are read as text")
            merged = pa.field(field.name, pa.string())
        if merged is not known.field:
            columns[field.name] = _Column(merged, file)
    is_typed = any(file.is_typed for file in files)
    fields = [
        # A column of nulls alone has some type in a Parquet file, but none in a text.
        field if is_typed or not pa.types.is_null(field.type) else pa.field(field.name, pa.string())
        for field in (column.field for column in columns.values())
    ]
    return UnifiedColumns(
        schema=pa.schema(fields),
        as_text=frozenset(as_text),
        notes=(*_shortened(list(as_text.values())), *_shortened(list(_missing(files, list(columns))))),
    )


def _merged(known: _Column, field: "pa.Field[Any]") -> "pa.Field[Any]":
    left = known.field
    if pa.types.is_null(field.type):
        return left
    if pa.types.is_null(left.type):
        return field
    if is_json_text(left) != is_json_text(field):
        raise TypeConflict(left.type, field.type)
    dtype = common_type(left.type, field.type)
    return left if dtype == left.type else pa.field(field.name, dtype)


def _kind(field: "pa.Field[Any]") -> str:
    """Return what a text's column holds, in words."""
    if is_json_text(field):
        return "lists or objects"
    if pa.types.is_boolean(field.type):
        return "true or false"
    return "text" if pa.types.is_string(field.type) else "numbers"


def _refusal(known: _Column, file: FileColumns, column: str, conflict: TypeConflict) -> InvalidRequest:
    return InvalidRequest(
        f"input: column {column + conflict.path!r} is {conflict.right} in {file.name}, but {conflict.left} in"
        f" {known.typed_by.name}; write it with one type in all files",
        field=column,
    )


def _missing(files: Sequence[FileColumns], columns: Sequence[str]) -> Iterator[str]:
    names = [{*file.schema.names, *file.partitions.names} for file in files]
    for column in columns:
        without = [file.name for file, found in zip(files, names, strict=True) if column not in found]
        if without:
            others = f" and {len(without) - 1} more of {len(files)} files" if len(without) > 1 else ""
            yield f"column {column!r} is missing in {without[0]}{others}; it is null there"


def _shortened(notes: list[str]) -> list[str]:
    num_more = len(notes) - _MAX_NOTES
    return notes if num_more <= 1 else [*notes[:_MAX_NOTES], f"the same holds for {num_more} more columns"]
