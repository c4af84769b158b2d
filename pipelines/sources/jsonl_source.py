"""Rows of JSON Lines, one object per line. It knows nothing about the columns' meaning."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa

from pipelines.sources.input_files import MAX_LINE_BYTES, InputFiles
from pipelines.sources.source_rows import (
    RowError,
    Source,
    SourceBatch,
    batched_rows,
    check_column_names,
    is_json_text,
    json_text_field,
)
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import shown

SAMPLE_ROWS = 10_000


class JsonRow(NamedTuple):
    """One line's object."""

    row: int
    line: int
    values: dict[str, Any]


class JsonLinesSource(Source):
    """A UTF-8 file with one JSON object per line. Blank lines are skipped.

    The first 10,000 rows decide the columns and their types: int64 for whole numbers, double for other
    numbers, bool, or text. If values are nested, of several types, or all null, the column holds JSON text. A
    missing key is null. A row is a row error if it is not a JSON object, if a value does not fit its column's
    type, or if it has a column that the first 10,000 rows do not have.

    Raises:
        InvalidRequest: no usable row among the first 10,000.
    """

    format = "jsonl"

    def __init__(self, files: InputFiles) -> None:
        self._files = files
        self.folder, self.fingerprint = files.folder, files.fingerprint()
        kinds: dict[str, set[type]] = {}
        errors = []
        for item in itertools.islice(json_rows(files), SAMPLE_ROWS):
            if isinstance(item, RowError):
                errors.append(item.message)
                continue
            for name, value in item.values.items():
                column = kinds.setdefault(name, set())
                if value is not None:
                    column.add(type(value))
        if not kinds:
            reason = f"no usable rows; {errors[0]}" if errors else "no rows"
            raise InvalidRequest(f"input: {files.uri} has {reason}", field="input")
        check_column_names(list(kinds), f"input: {files.uri}")
        self.schema = pa.schema([_field(name, types) for name, types in kinds.items()])

    def batches(self, batch_rows: int = 4096) -> Iterator[SourceBatch]:
        """Read all rows in batches."""
        return batched_rows(self._rows(), self.schema, batch_rows)

    def _rows(self) -> Iterator[tuple[int, list[Any]] | RowError]:
        to_cells = cell_reader(self.schema)
        for item in json_rows(self._files):
            if isinstance(item, RowError):
                yield item
                continue
            try:
                yield item.row, to_cells(item.values)
            except InvalidRequest as error:
                yield RowError(row=item.row, key=None, message=f"line {item.line}: {error}")


def json_rows(files: InputFiles) -> Iterator[JsonRow | RowError]:
    """Yield a file's objects, and an error for each line that holds none."""
    lines = ((number, line) for number, line in files.lines() if line.strip())
    for row, (number, line) in enumerate(lines):
        try:
            yield JsonRow(row, number, _parse(line))
        except InvalidRequest as error:
            yield RowError(row=row, key=None, message=f"line {number}: {error}")


def cell_reader(schema: pa.Schema) -> Callable[[Mapping[str, Any]], list[Any]]:
    """Return a function that converts one row's values by column to cells in schema order.

    The function raises InvalidRequest, naming column, value and type, if a value does not fit.
    """
    readers = [
        (field.name, field.type, _json_text if is_json_text(field) else _CELLS[field.type])
        for field in schema
    ]
    names = frozenset(schema.names)

    def to_cells(values: Mapping[str, Any]) -> list[Any]:
        if not values.keys() <= names:
            name = next(name for name in values if name not in names)
            message = f"column {name!r} does not appear in the first {SAMPLE_ROWS} rows"
            raise InvalidRequest(message, field=name)
        cells = []
        for name, arrow_type, to_cell in readers:
            value = values.get(name)
            try:
                cells.append(None if value is None else to_cell(value))
            except (ValueError, OverflowError, RecursionError):
                raise InvalidRequest(
                    f"column {name!r}: {shown(value)} does not fit the column's type {arrow_type}", field=name
                ) from None
        return cells

    return to_cells


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise InvalidRequest(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
        if rb"\u" in line:  # an escape may be half of a surrogate pair, which no table can hold
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{shown(value)} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _field(name: str, types: set[type]) -> "pa.Field[Any]":
    if types == {float, int}:
        types = {float}
    arrow_type = _ARROW_TYPES.get(types.pop()) if len(types) == 1 else None
    return json_text_field(name) if arrow_type is None else pa.field(name, arrow_type)


def _whole(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _double(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError
    number = float(value)
    # A whole number that a double cannot hold, such as a large seed, must not change silently.
    if number != value or not math.isfinite(number):
        raise ValueError
    return number


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError
    return value


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


_ARROW_TYPES = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
_CELLS: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.int64(): _whole,
    pa.float64(): _double,
    pa.bool_(): _truth,
    pa.string(): _text,
}
