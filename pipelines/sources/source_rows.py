"""What every source yields: usable rows as Arrow tables, and errors for the other rows.

It knows nothing about file formats or the columns' meaning.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from types import MappingProxyType
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
    """The usable rows."""
    rows: list[int]
    """Their row numbers in the input."""
    errors: list[RowError]

    def records(self, columns: Collection[str]) -> Iterator[tuple[int, dict[str, Any] | InvalidRequest]]:
        """Yield each usable row's number and its Python values in some columns, with JSON text decoded.

        The other columns are not decoded. A row with a value that Python does not have, such as a time in the
        year 300,000 or in an unknown zone, yields an error that names column and value.
        """
        table = self.table.select([name for name in self.table.column_names if name in columns])
        values = [
            _python_values(column, field) for column, field in zip(table.columns, table.schema, strict=True)
        ]
        for place, row in enumerate(self.rows):
            cells = [column[place] for column in values]
            error = next((cell for cell in cells if isinstance(cell, InvalidRequest)), None)
            yield row, error or dict(zip(table.column_names, cells, strict=True))


class Source(ABC):
    """A table of input rows, read as a stream.

    Attributes:
        format: the name of its format.
        schema: the columns; :meth:`SourceBatch.records` decodes JSON text.
        refused: columns that cannot be read, which ``schema`` leaves out, and why.
        folder: address of the folder that holds its files.
        fingerprint: sha256 over the files' names, sizes and modification times, in hexadecimal.
        num_rows: the number of rows, if it is known before reading them.
        notes: what a person should know about how it is read (files skipped, encoding), a sentence each.
    """

    format: str
    schema: pa.Schema
    refused: Mapping[str, str] = MappingProxyType({})
    folder: str
    fingerprint: str
    num_rows: int | None = None
    notes: tuple[str, ...] = ()

    @abstractmethod
    def batches(
        self, batch_rows: int = 4096, columns: Collection[str] | None = None
    ) -> Iterator[SourceBatch]:
        """Read all rows, at most ``batch_rows`` in each batch.

        Args:
            batch_rows: the most rows in a batch.
            columns: the columns to read; None for all.

        Raises:
            InvalidRequest: a file is damaged or can no longer be read, or the common type of a column does
                not hold one of its values.
        """


def json_text_field(name: str) -> "pa.Field[Any]":
    """Make a text column whose values are JSON."""
    return pa.field(name, pa.string(), metadata={_ENCODING: _JSON})


def is_json_text(field: "pa.Field[Any]") -> bool:
    """Return whether a column was made by :func:`json_text_field`."""
    return (field.metadata or {}).get(_ENCODING) == _JSON


def _python_values(column: "pa.ChunkedArray[Any]", field: "pa.Field[Any]") -> list[Any]:
    """Return a column's values, and an InvalidRequest in the place of each that Python does not have."""
    try:
        values: list[Any] = column.to_pylist()
    except (ArithmeticError, LookupError, ValueError):
        values = [_python_value(cell, field.name) for cell in column]
    if is_json_text(field):
        values = [None if value is None else json.loads(value) for value in values]
    return values


def _python_value(cell: "pa.Scalar[Any]", column: str) -> Any:
    try:
        return cell.as_py()
    except (ArithmeticError, LookupError, ValueError) as error:
        dtype = cell.type
        if isinstance(dtype, pa.TimestampType):
            time = cell.cast(pa.timestamp(dtype.unit)).cast(pa.string())
            zone = f" in the zone {dtype.tz}" if dtype.tz else ""
            reason = f"{time}{zone} is not a time of the years 1 to 9999 in a known zone"
        else:
            reason = f"a {dtype} cannot be used: {error}"
        return InvalidRequest(f"column {column!r}: {reason}", field=column)


def batched_rows(
    parsed: Iterable[tuple[int, Sequence[Any]] | RowError],
    schema: pa.Schema,
    batch_rows: int,
    columns: Collection[str] | None = None,
) -> Iterator[SourceBatch]:
    """Collect parsed rows (row number, values in schema order) and row errors into batches.

    With ``columns``, the tables have only these.
    """
    kept = [columns is None or name in columns for name in schema.names]
    fields = list(compress(schema, kept))
    rows: list[int] = []
    values: list[Sequence[Any]] = []
    errors: list[RowError] = []

    def batch() -> SourceBatch:
        cells = compress(zip(*values, strict=True), kept) if values else [()] * len(fields)
        arrays = [pa.array(column, field.type) for column, field in zip(cells, fields, strict=True)]
        return SourceBatch(
            table=pa.Table.from_arrays(arrays, schema=pa.schema(fields)), rows=rows, errors=errors
        )

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
