"""Arrow columns as JSON values: any type that a part can hold, and any value that the type can hold.

Values that neither Python nor JSON can hold (an infinite timestamp, a year beyond 9999) are written as text.
"""

import base64
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

Values = list[Any]
_EPOCH = datetime(1970, 1, 1)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def json_values(array: "pa.Array[Any]") -> Values:
    """Convert each cell of a column.

    - Dates and times: ISO 8601; if they are beyond the years 1 to 9999, the number of the type's units (days,
      seconds, ...) since 1970, as text. A timestamp with an unknown time zone is told in UTC.
    - Durations: seconds. Decimals: text. Bytes: base64. NaN and infinities: null.
    - Lists and structs: arrays and objects.
    """
    return next(convert(array) for is_kind, convert in _KINDS if is_kind(array.type))


def _each(array: Any, convert: Callable[[Any], Any]) -> Values:
    return [None if value is None else convert(value) for value in array.to_pylist()]


def _texts(array: Any) -> Values:
    # As bytes: some writers put text into a file that is no UTF-8.
    binary = pa.large_binary() if pa.types.is_large_string(array.type) else pa.binary()
    return _each(array.cast(binary), lambda value: value.decode("utf-8", "replace"))


def _floats(array: Any) -> Values:
    array = array.cast(pa.float32()) if pa.types.is_float16(array.type) else array
    return _each(array, lambda value: value if math.isfinite(value) else None)


def _counts(array: Any) -> list[int | None]:
    counts: list[int | None] = array.view(
        pa.int32() if array.type.bit_width == 32 else pa.int64()
    ).to_pylist()
    return counts


def _dates(array: Any) -> Values:
    days = 1 if pa.types.is_date32(array.type) else 86_400_000

    def text(count: int) -> str:
        return (_EPOCH.date() + timedelta(days=count // days)).isoformat()

    return _or_number(text, _counts(array))


def _times(array: Any) -> Values:
    per_second = _PER_SECOND[array.type.unit]

    def text(count: int) -> str:
        seconds, rest = divmod(count, per_second)
        if not 0 <= seconds < 86_400:
            raise OverflowError
        return (_EPOCH + timedelta(seconds=seconds)).strftime("%H:%M:%S") + _fraction(rest, per_second)

    return _or_number(text, _counts(array))


def _timestamps(array: Any) -> Values:
    per_second = _PER_SECOND[array.type.unit]
    zone = array.type.tz and _zone(array.type.tz)

    def text(count: int) -> str:
        seconds, rest = divmod(count, per_second)
        time = _EPOCH + timedelta(seconds=seconds)
        if zone:
            time = time.replace(tzinfo=UTC).astimezone(zone)
        # isoformat() puts the offset behind the seconds.
        return time.isoformat()[:19] + _fraction(rest, per_second) + time.isoformat()[19:]

    return _or_number(text, _counts(array))


def _zone(name: str) -> tzinfo:
    try:
        zone: tzinfo = pa.lib.string_to_tzinfo(name)
    except (pa.ArrowException, LookupError, ValueError, OSError):
        return UTC
    return zone


def _fraction(rest: int, per_second: int) -> str:
    """Write a part of a second: none, or 6 digits, or 9."""
    nanoseconds = rest * (10**9 // per_second)
    if not nanoseconds:
        return ""
    return f".{nanoseconds:09d}" if nanoseconds % 1000 else f".{nanoseconds // 1000:06d}"


def _or_number(text: Callable[[int], str], counts: list[int | None]) -> Values:
    def of(count: int) -> str:
        try:
            return text(count)
        except (OverflowError, ValueError):
            return str(count)

    return [None if count is None else of(count) for count in counts]


def _durations(array: Any) -> Values:
    per_second = _PER_SECOND[array.type.unit]
    return [None if count is None else count / per_second for count in _counts(array)]


def _bytes(array: Any) -> Values:
    return _each(array, lambda value: base64.b64encode(value).decode("ascii"))


def _lists(array: Any) -> Values:
    items = iter(json_values(array.flatten()))
    return [
        None if length is None else [next(items) for _ in range(length)]
        for length in pc.list_value_length(array).to_pylist()
    ]


def _structs(array: Any) -> Values:
    names = [field.name for field in array.type]
    columns = [json_values(column) for column in array.flatten()]
    rows: Iterator[tuple[Any, ...]] = zip(*columns, strict=True) if columns else iter([()] * len(array))
    return [
        dict(zip(names, row, strict=True)) if valid else None
        for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)
    ]


def _is_text(dtype: pa.DataType) -> bool:
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)


def _is_binary(dtype: pa.DataType) -> bool:
    return (
        pa.types.is_binary(dtype)
        or pa.types.is_large_binary(dtype)
        or pa.types.is_binary_view(dtype)
        or pa.types.is_fixed_size_binary(dtype)
    )


def _is_list(dtype: pa.DataType) -> bool:
    return pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype)


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Values]], ...] = (
    (_is_text, _texts),
    (pa.types.is_integer, lambda array: array.to_pylist()),
    (pa.types.is_boolean, lambda array: array.to_pylist()),
    (pa.types.is_null, lambda array: array.to_pylist()),
    (pa.types.is_floating, _floats),
    (pa.types.is_date, _dates),
    (pa.types.is_time, _times),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_duration, _durations),
    (_is_binary, _bytes),
    (pa.types.is_dictionary, lambda array: json_values(array.dictionary_decode())),
    (pa.types.is_decimal, lambda array: _each(array, str)),
    (pa.types.is_struct, _structs),
    (_is_list, _lists),
)
