"""Rows of JSON Lines, parsed. It knows nothing about columns."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipelines.sources.source_rows import RowError
from pipelines.sources.table_file import TableFile
from pipelines.sources.text_formats.text_file import TextFile
from pipelines.sources.text_formats.text_reader import PROMPT
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import shown

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonRow(NamedTuple):
    """One object, and the number from 1 of its line, or of the element in a JSON array."""

    row: int
    line: int
    values: dict[str, Any]


def json_rows(file: TableFile, encoding: str | None = None) -> Iterator[JsonRow | RowError]:
    """Yield the objects of a JSON Lines file, and an error for each line that holds none.

    Raises:
        InvalidRequest: the file cannot be read, or is not text of the encoding.
    """
    return rows_of_lines(TextFile(file, encoding))


def rows_of_lines(text: TextFile) -> Iterator[JsonRow | RowError]:
    """Yield the object of each line that is not blank, or an error."""
    for row, (number, line, error) in enumerate(text.filled_lines()):
        try:
            if error:
                raise InvalidRequest(error)
            yield JsonRow(row, number, parse_object(line))
        except InvalidRequest as reason:
            yield RowError(row=row, key=None, message=f"line {number}: {reason}")


def parse_object(text: str) -> dict[str, Any]:
    """Parse one JSON object, or a text, which is a prompt.

    Raises:
        InvalidRequest: not JSON, neither of these, a key given twice, an infinity, or half of a surrogate
            pair.
    """
    try:
        value = DECODER.decode(text)
        check_surrogates(value, text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"not valid JSON: {error.msg} at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"not valid JSON: {error}") from error
    if isinstance(value, str):
        return {PROMPT: value}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{shown(value)} is not a JSON object")
    return value


def check_surrogates(value: Any, text: str, start: int = 0, end: int | None = None) -> None:
    """Check that a value holds no half of a surrogate pair, which no table can hold.

    Raises:
        ValueError: it does.
    """
    if _SURROGATE.search(text, start, len(text) if end is None else end):
        json.dumps(value, ensure_ascii=False).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return values


def _constant(name: str) -> None:
    # Python's json writes NaN for what pandas has no value for, in columns of text too.
    if name != "NaN":
        raise ValueError(f"{name} is not a JSON number")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
