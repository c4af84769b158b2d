"""Keys of rows: any short text, and cells of other types as text."""

import datetime
import re
import uuid
from decimal import Decimal
from typing import Any

from zimage_models.errors import InvalidRequest
from zimage_models.field_values import shown

MAX_KEY_BYTES = 400

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MAX_EXACT_FLOAT = 2**53
_TYPE_WORDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    (bytes, "binary data"),
    ((list, tuple), "a list"),
    (dict, "a structure of several values"),
    (datetime.datetime, "a point in time"),
    (datetime.date, "a date"),
    (datetime.time, "a time of day"),
    (datetime.timedelta, "a duration"),
)


def key_text(value: Any, column: str = "key") -> str:
    """Return a cell as a row's key.

    Text stays as it is. Whole numbers of any type lose their decimals (42.0 is "42"), and other decimals
    keep theirs (1.50 is "1.50").

    Args:
        value: the cell.
        column: its column, for messages.

    Raises:
        InvalidRequest: the cell is null or of a type that is no key, or `check_key` refuses its text.
    """
    if value is None:
        raise InvalidRequest(f"{column}: missing", field="key")
    if isinstance(value, str):
        return check_key(value, column)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, int | Decimal | float) and not isinstance(value, bool):
        return check_key(_number_text(value, column), column)
    words = (words for types, words in _TYPE_WORDS if isinstance(value, types))
    kind = next(words, f"of the type {type(value).__name__}")
    raise InvalidRequest(
        f"{column}: {shown(value)} is {kind}; a key is text, a whole number, a decimal number or a UUID",
        field="key",
    )


def check_key(key: str, column: str = "key") -> str:
    """Return a row's key if it is one: text of at most 400 bytes in UTF-8, without control characters.

    Raises:
        InvalidRequest: the text is blank, too long, or has a line break or another control character.
    """
    if not key or key.isspace():
        raise InvalidRequest(f"{column}: {key!r} is empty; a key needs a visible character", field="key")
    if control := _CONTROL.search(key):
        raise InvalidRequest(
            f"{column}: {shown(key)} contains {control[0]!r}; a key has no line breaks or other control "
            "characters",
            field="key",
        )
    if (num_bytes := len(key.encode())) > MAX_KEY_BYTES:
        raise InvalidRequest(
            f"{column}: {shown(key)} is {num_bytes} bytes long; the limit is {MAX_KEY_BYTES}", field="key"
        )
    return key


def _number_text(value: int | Decimal | float, column: str) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        return str(int(value)) if value == value.to_integral_value() else f"{value:f}"
    if isinstance(value, Decimal) or not value.is_integer():
        raise InvalidRequest(f"{column}: {shown(value)} is not a whole number; store it as text", field="key")
    if abs(value) > _MAX_EXACT_FLOAT:
        raise InvalidRequest(
            f"{column}: {shown(value)} is too large to be exact as a floating-point number; the limit is "
            f"2**53; store it as a whole number or as text",
            field="key",
        )
    return str(int(value))
