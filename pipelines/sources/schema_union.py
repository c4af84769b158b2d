"""One schema for the columns of several files, by name. It knows nothing about the columns' meaning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.sources.common_types import TypeConflict, common_type
from pipelines.sources.source_rows import is_json_text

_MAX_NOTES = 3
_WRITTEN_AS_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_date,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileColumns:
    """The columns of one file."""

    name: str
    """The file's name, for messages."""
    schema: pa.Schema
    partitions: pa.Schema
    """Columns that its path gives, and that it does not have itself."""
    is_typed: bool
    """The types of ``schema`` are the file's own (Parquet), not read from the looks of its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnifiedColumns:
    """The columns of all files."""

    schema: pa.Schema
    refused: dict[str, str]
    """Columns whose types no type holds, which ``schema`` leaves out, and why."""
    as_text: frozenset[str]
    """Columns to read as text from files whose types are read from the looks of their values."""
    notes: tuple[str, ...]
    """What a person should know about it, a sentence each."""


@dataclass(frozen=True, slots=True)
class _Column:
    field: "pa.Field[Any]"
    typed_by: FileColumns
    """The file that gave the type so far."""
    is_typed: bool
    """That type is a file's own."""


def unify_columns(files: Sequence[FileColumns]) -> UnifiedColumns:
    """Return one schema for files, with the columns in order of first appearance, those of paths last.

    Each type holds the values of all files. Where there is no such type, the column is text if a file or a
    path has no types of its own, and otherwise refused; the message names two files.
    """
    columns: dict[str, _Column] = {}
    as_text: dict[str, str] = {}
    refused: dict[str, str] = {}
    own = [(file, field, file.is_typed) for file in files for field in file.schema]
    of_paths = [(file, field, False) for file in files for field in file.partitions]
    for file, field, is_typed in own + of_paths:
        known = columns.setdefault(field.name, _Column(field, file, is_typed))
        if field.name in refused:
            continue
        try:
            merged = _merged(known, field)
        except TypeConflict as conflict:
            texts = [_is_text_soon(known.field, known.is_typed), _is_text_soon(field, is_typed)]
            if not all(texts) or (known.is_typed and is_typed):
                refused[field.name] = _refusal(known, file, field.name, conflict)
                continue
            kinds = f"{_kind(known.field)} in {known.typed_by.name} and {_kind(field)} in {file.name}"
            as_text.setdefault(field.name, f"column {field.name!r}: {kinds} are read as text")
            merged = pa.field(field.name, pa.string())
        if merged is not known.field:
            columns[field.name] = _Column(merged, file, is_typed)
    has_types = any(file.is_typed for file in files)
    fields = [
        # A column of nulls alone has some type in a Parquet file, but none in a text.
        field if has_types or not pa.types.is_null(field.type) else pa.field(field.name, pa.string())
        for field in (column.field for column in columns.values())
        if field.name not in refused
    ]
    return UnifiedColumns(
        schema=pa.schema(fields),
        refused=refused,
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


def _is_text_soon(field: "pa.Field[Any]", is_typed: bool) -> bool:
    """Return whether a column's values can be read, or written, as text that says all of them."""
    return not is_typed or any(is_kind(_plain(field.type)) for is_kind in _WRITTEN_AS_TEXT)


def _plain(dtype: pa.DataType) -> pa.DataType:
    return dtype.value_type if isinstance(dtype, pa.DictionaryType) else dtype


def _kind(field: "pa.Field[Any]") -> str:
    """Return what a column holds, in words."""
    dtype = _plain(field.type)
    if is_json_text(field):
        return "lists or objects"
    if pa.types.is_boolean(dtype):
        return "true or false"
    if pa.types.is_date(dtype):
        return "dates"
    return "text" if pa.types.is_string(dtype) or pa.types.is_large_string(dtype) else "numbers"


def _refusal(known: _Column, file: FileColumns, column: str, conflict: TypeConflict) -> str:
    return (
        f"input: column {column + conflict.path!r} is {conflict.right} in {file.name}, but {conflict.left} in"
        f" {known.typed_by.name}; write it with one type in all files or drop it"
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
