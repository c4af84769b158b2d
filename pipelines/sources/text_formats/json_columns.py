"""Rows of JSON objects as a table: the columns' types, and the cells. It knows nothing of their meaning."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from types import NoneType
from typing import Any

import pyarrow as pa

from pipelines.sources.source_rows import RowError, is_json_text, json_text_field
from pipelines.sources.table_file import RowReader, TableFile
from pipelines.sources.text_formats.column_names import made_up_name
from pipelines.sources.text_formats.json_rows import JsonRow
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import shown

MAX_COLUMNS = 10_000
_EXACT = 2**53


class JsonRowsReader(RowReader):
    """Objects of one file, as rows of a table.

    All rows together decide the columns and their types: int64 for whole numbers, double for other numbers,
    bool, or text. Columns with only lists and objects hold JSON text. If values are of several types, or too
    large to stay exact, the column is text: text stays as it is, other values become their JSON text, and
    ``notes`` says so. A missing key is null; a column without values has Arrow's type null.

    Raises:
        InvalidRequest: the file cannot be read, no row is usable, or there are more than 10,000 columns.
    """

    place = "line"
    """What the rows' numbers count, for messages."""

    def __init__(self, file: TableFile) -> None:
        columns: dict[str, set[type]] = {}
        num_rows, first_error = 0, None
        for item in self.json_rows():
            num_rows += 1
            if isinstance(item, RowError):
                first_error = first_error or item.message
                continue
            for name, value in item.values.items():
                kind = type(value)
                if kind is int or kind is float:
                    kind = _kind_of_number(value)
                kinds = columns.get(name)
                if kinds is None:
                    columns[name] = {kind}
                else:
                    kinds.add(kind)
            if len(columns) > MAX_COLUMNS:
                raise InvalidRequest(f"input: {file.uri} has more than {MAX_COLUMNS} columns", field="input")
        if num_rows and not columns:
            reason = first_error or "its objects are empty"
            raise InvalidRequest(f"input: {file.uri} has no usable rows; {reason}", field="input")
        self.num_rows = num_rows
        self._nameless = made_up_name(list(columns).index("") + 1, columns) if "" in columns else ""
        fields = {name or self._nameless: kinds - {NoneType} for name, kinds in columns.items()}
        self.schema = pa.schema([_field(name, kinds) for name, kinds in fields.items()])
        self._mixed = {name: _words(kinds) for name, kinds in fields.items() if _is_mixed(kinds)}
        self._as_text = set(self._mixed)

    @abstractmethod
    def json_rows(self) -> Iterator[JsonRow | RowError]:
        """Yield all objects, and errors for what is none."""

    def type_notes(self) -> tuple[str, ...]:
        """Return what a person should know about the columns."""
        notes = [f"the nameless column is called {self._nameless}"] if self._nameless else []
        for words in dict.fromkeys(self._mixed.values()):
            names = [name for name, found in self._mixed.items() if found == words]
            notes.append(f"column{'s' * (len(names) > 1)} {', '.join(names)}: {words} are read as text")
        return tuple(notes)

    def read_as_text(self, columns: Collection[str]) -> None:
        """Read these columns as text from now on: text as it is, other values as their JSON text."""
        self._as_text |= set(columns)
        self.schema = pa.schema(
            [pa.field(field.name, pa.string()) if field.name in columns else field for field in self.schema]
        )

    def rows(self) -> Iterator[tuple[int, list[Any]] | RowError]:
        """Yield the rows' cells, and errors."""
        to_cells = cell_reader(self.schema, as_text=self._as_text)
        for item in self.json_rows():
            if isinstance(item, RowError):
                yield item
                continue
            if self._nameless and "" in item.values:
                item.values[self._nameless] = item.values.pop("")
            try:
                yield item.row, to_cells(item.values)
            except InvalidRequest as error:
                yield RowError(row=item.row, key=None, message=f"{self.place} {item.line}: {error}")


def cell_reader(schema: pa.Schema, as_text: Collection[str] = ()) -> Callable[[Mapping[str, Any]], list[Any]]:
    """Return a function that converts one row's values by column to cells in schema order.

    The function raises InvalidRequest, naming column, value and type, if a value does not fit. In the text
    columns named in ``as_text`` every value fits: those that are not text become their JSON text.
    """
    readers = [
        (
            field.name,
            field.type,
            _json_text if is_json_text(field) else _any_text if field.name in as_text else _CELLS[field.type],
        )
        for field in schema
    ]
    names = frozenset(schema.names)

    def to_cells(values: Mapping[str, Any]) -> list[Any]:
        if not values.keys() <= names:
            name = next(name for name in values if name not in names)
            raise InvalidRequest(f"column {name!r} is new; the file changed while it was read", field=name)
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


class _Inexact:
    """The kind of whole numbers that fit int64, but that a double would round."""


class _Huge:
    """The kind of whole numbers beyond int64."""


_WORDS = {str: "text", int: "numbers", bool: "true or false", list: "lists", dict: "objects"}


def _kind_of_number(value: float) -> type:
    if isinstance(value, float):
        # A number such as 1e400, which is an error of its row, says nothing about the others.
        return float if math.isfinite(value) else NoneType
    if -_EXACT <= value <= _EXACT:
        return int
    if not -(2**63) <= value < 2**63:
        return _Huge
    return int if float(value) == value else _Inexact


def _field(name: str, kinds: set[type]) -> "pa.Field[Any]":
    if not kinds:
        return pa.field(name, pa.null())
    if kinds <= {list, dict}:
        return json_text_field(name)
    return pa.field(name, _number_type(kinds) or (pa.bool_() if kinds == {bool} else pa.string()))


def _number_type(kinds: set[type]) -> pa.DataType | None:
    if not kinds or not kinds <= {int, float, _Inexact} or kinds >= {float, _Inexact}:
        return None
    return pa.float64() if float in kinds else pa.int64()


def _is_mixed(kinds: set[type]) -> bool:
    return bool(kinds) and not (kinds <= {list, dict} or kinds in ({str}, {bool}) or _number_type(kinds))


def _words(kinds: set[type]) -> str:
    words = [word for kind, word in _WORDS.items() if kind in kinds or (kind is int and kinds & _NUMBERS)]
    if len(words) == 1:
        return "numbers too large to stay exact"
    return f"{', '.join(words[:-1])} and {words[-1]}"


_NUMBERS = {int, float, _Inexact, _Huge}


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


def _any_text(value: Any) -> str:
    return value if type(value) is str else _json_text(value)


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


_CELLS: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.int64(): _whole,
    pa.float64(): _double,
    pa.bool_(): _truth,
    pa.string(): _text,
    pa.null(): _text,  # never called: there is no value
}
