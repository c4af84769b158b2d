"""What every source yields: usable rows as Arrow tables, and errors for the other rows.

It knows nothing about file formats or the columns' meaning.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from zimage_models.errors import InvalidRequest

_ENCODING = b"zimage.encoding"
_JSON = b"json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowError:
    """One input row that cannot be used."""

    row: int
    """Row number in the input, from 0; a header and blank lines do not count."""
    key: str | None
    message: str
    error_class: str = "bad_input"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBatch:
    """Some rows of a source, in input order."""

    table: pa.Table
    """The usable rows, with all columns of the source's schema."""
    rows: list[int]
    """Their row numbers in the input."""
    errors: list[RowError]

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each usable row's number and its Python values by column, with JSON text decoded."""
        json_columns = [field.name for field in self.table.schema if is_json_text(field)]
        for row, record in zip(self.rows, self.table.to_pylist(), strict=True):
            for name in json_columns:
                if record[name] is not None:
                    record[name] = json.loads(record[name])
            yield row, record


class Source(ABC):
    """A table of input rows, read as a stream.

    Attributes:
        format: the name of its format.
        schema: the columns; :meth:`SourceBatch.records` decodes those of JSON text.
        folder: address of the folder that holds its files.
        fingerprint: sha256 over the files' names, sizes and modification times, in hexadecimal.
        num_rows: the number of rows, if it is known before reading them.
        notes: what a person should know about how it is read (files skipped, encoding found), a sentence each.
    """

    format: str
    schema: pa.Schema
    folder: str
    fingerprint: str
    num_rows: int | None = None
    notes: tuple[str, ...] = ()

    @abstractmethod
    def batches(self, batch_rows: int = 4096) -> Iterator[SourceBatch]:
        """Read all rows, at most ``batch_rows`` in each batch.

        Raises:
            InvalidRequest: a file is damaged or can no longer be read.
        """


def json_text_field(name: str) -> "pa.Field[Any]":
    """Make a text column whose values are JSON."""
    return pa.field(name, pa.string(), metadata={_ENCODING: _JSON})


def is_json_text(field: "pa.Field[Any]") -> bool:
    """Return whether a column was made by :func:`json_text_field`."""
    return (field.metadata or {}).get(_ENCODING) == _JSON


def check_column_names(names: Sequence[str], uri: str) -> None:
    """Check that every column has a unique name.

    Raises:
        InvalidRequest: a name is empty or given twice.
    """
    for position, name in enumerate(names, start=1):
        if not name:
            raise InvalidRequest(f"{uri}: column {position} of {len(names)} has no name")
        if name in names[: position - 1]:
            raise InvalidRequest(f"{uri}: two columns are named {name!r}")


def batched_rows(
    parsed: Iterable[tuple[int, Sequence[Any]] | RowError], schema: pa.Schema, batch_rows: int
) -> Iterator[SourceBatch]:
    """Collect parsed rows (row number, values in schema order) and row errors into batches."""
    rows: list[int] = []
    values: list[Sequence[Any]] = []
    errors: list[RowError] = []

    def batch() -> SourceBatch:
        columns = zip(*values, strict=True) if values else [()] * len(schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        return SourceBatch(table=pa.Table.from_arrays(arrays, schema=schema), rows=rows, errors=errors)

    for item in parsed:
        if isinstance(item, RowError):
            errors.append(item)
        else:
            rows.append(item[0])
            values.append(item[1])
        if len(rows) + len(errors) == batch_rows:
            yield batch()
            rows, values, errors = [], [], []
    if rows or errors:
        yield batch()
