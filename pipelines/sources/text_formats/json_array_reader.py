"""Rows of a JSON file that holds one array."""

import json
import re
from collections.abc import Generator, Iterator
from typing import Any

from pipelines.sources.source_rows import RowError
from pipelines.sources.table_file import TableFile
from pipelines.sources.text_formats.json_columns import JsonRowsReader
from pipelines.sources.text_formats.json_rows import DECODER, JsonRow, check_surrogates, rows_of_lines
from pipelines.sources.text_formats.text_file import TextFile
from pipelines.sources.text_formats.text_reader import PROMPT
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import shown

MAX_BYTES = 2**30
_SPACE = re.compile(r"[ \t\n\r]*")
# Finds where a value ends that DECODER refuses.
_LENIENT = json.JSONDecoder()


class JsonArrayReader(JsonRowsReader):
    """A file with one array of objects or of prompts, or one object that holds such an array.

    A file with an object per line is read as JSON Lines, whatever its name says; several objects one after
    another are read as if they were in an array. An element that is text is a prompt.

    Raises:
        InvalidRequest: the file cannot be read, is not JSON, holds more than 1 GiB, or no row is usable.
    """

    def __init__(self, file: TableFile, *, encoding: str | None = None) -> None:
        self._file = file
        self._text = TextFile(file, encoding)
        self._array_notes: tuple[str, ...] = ()
        self.format = "jsonl" if _holds_lines(self._text) else "json"
        self.place = "line" if self.format == "jsonl" else "element"
        super().__init__(file)
        self.notes = self._text.notes + self._array_notes + self.type_notes()

    def json_rows(self) -> Iterator[JsonRow | RowError]:
        """Yield all objects, and errors for the other elements."""
        if self.format == "jsonl":
            yield from rows_of_lines(self._text)
            return
        text = self._text.whole(MAX_BYTES)
        number = 0
        try:
            for number, (value, error) in enumerate(self._values(text), start=1):
                if isinstance(value, str):
                    value = {PROMPT: value}
                if not error and not isinstance(value, dict):
                    error = f"{shown(value)} is neither a JSON object nor text"
                if error:
                    yield RowError(row=number - 1, key=None, message=f"element {number}: {error}")
                else:
                    yield JsonRow(number - 1, number, value)
        except (ValueError, RecursionError) as error:
            where = f"after element {number}: " if number else ""
            raise InvalidRequest(
                f"input: {self._file.uri} is not a JSON array of rows: {where}{error}", field="input"
            ) from error

    def _values(self, text: str) -> Iterator[tuple[Any, str | None]]:
        """Yield the values that are rows, and what is wrong with each."""
        start = _after_space(text, 0)
        if text.startswith("[", start):
            end = _after_space(text, (yield from _elements(text, start)))
            if end < len(text):
                raise json.JSONDecodeError("Extra data after the array", text, end)
        elif text.startswith("{", start):
            _, end = _LENIENT.raw_decode(text, start)
            is_single = _after_space(text, end) == len(text)
            found = self._array_member(text, start) if is_single else None
            yield from _sequence(text, start) if found is None else _elements(text, found)
        elif start < len(text):
            raise ValueError("it holds neither an array nor objects")

    def _array_member(self, text: str, start: int) -> int | None:
        """Return where the array of rows starts in a file of one object, or None if the object is a row."""
        members = list(_members(text, start))
        arrays = [m for m in members if isinstance(m[1], list) and m[1] and isinstance(m[1][0], dict)]
        if len(members) == 1 and isinstance(members[0][1], list):
            arrays = members
        if len(arrays) == 1:
            ((name, _, position),) = arrays
            others = ", ".join(repr(m[0]) for m in members if m[0] != name)
            left_out = f"; left out: {others}" if others else ""
            self._array_notes = (f"the rows are the elements of {name!r}{left_out}",)
            return position
        if all(isinstance(value, (dict, list)) for _, value, _ in members):
            raise ValueError(
                "it is one object without a single array of objects; write an array with an object per row,"
                " in pandas with to_json(orient='records')"
            )
        return None


def _holds_lines(text: TextFile) -> bool:
    """Return whether the first line that is not blank is an object of its own, with more after it."""
    lines = text.filled_lines()
    first, second = next(lines, None), next(lines, None)
    if first is None or second is None or first.error:
        return False
    try:
        return isinstance(_LENIENT.decode(first.text), dict)
    except (ValueError, RecursionError):
        return False


def _members(text: str, start: int) -> Iterator[tuple[str, Any, int]]:
    """Yield each member's name, value and position of the value; the text is a valid object."""
    position = _after_space(text, start + 1)
    while text[position] != "}":
        name, position = _LENIENT.raw_decode(text, position)
        value_start = _after_space(text, _after_space(text, position) + 1)
        value, position = _LENIENT.raw_decode(text, value_start)
        yield name, value, value_start
        position = _after_space(text, position)
        if text[position] == ",":
            position = _after_space(text, position + 1)


def _elements(text: str, start: int) -> Generator[tuple[Any, str | None], None, int]:
    """Yield an array's elements, and return where it ends."""
    position = _after_space(text, start + 1)
    if text.startswith("]", position):
        return position + 1
    while True:
        *item, position = _decode(text, position)
        yield item[0], item[1]
        position = _after_space(text, position)
        if text.startswith("]", position):
            return position + 1
        if not text.startswith(",", position):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        position = _after_space(text, position + 1)


def _sequence(text: str, position: int) -> Iterator[tuple[Any, str | None]]:
    """Yield values that follow each other."""
    while position < len(text):
        value, error, position = _decode(text, position)
        yield value, error
        position = _after_space(text, position)


def _decode(text: str, start: int) -> tuple[Any, str | None, int]:
    """Return a value, what is wrong with it, and where it ends."""
    try:
        value, end = DECODER.raw_decode(text, start)
        check_surrogates(value, text, start, end)
        return value, None, end
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        _, end = _LENIENT.raw_decode(text, start)
        return None, str(error), end


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None
    return found.end()
