"""Read text, numbers and booleans from outside by field name. It knows nothing about models.

An invalid value raises InvalidRequest, which names the field, the value and the limit.
"""

import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from zimage_models.errors import InvalidRequest
from zimage_models.field_spec import FieldKind, RequestField
from zimage_models.model_spec import ModelSpec

MAX_PROMPT_CHARS = 16_384


def read_field(field: RequestField, spec: ModelSpec, given: Mapping[str, Any]) -> Any:
    """Read one field by its entry in the table, or return its default if it is not given.

    Raises:
        InvalidRequest: a wrong type, a value past a limit, or a required field that is missing.
    """
    default = field.default_for(spec)
    if default is not None and field.name not in given:
        return default
    if field.kind is FieldKind.TEXT:
        return read_text(given, field.name, required=default is None)
    if field.kind is FieldKind.BOOLEAN:
        return read_boolean(given, field.name, default)
    if field.kind is FieldKind.CHOICE:
        return _read_choice(given, field)
    low, high = field.limits_for(spec)
    if field.kind is FieldKind.INTEGER:
        return read_integer(given, field.name, default, int(low), int(high))
    number = read_number(given, field.name, default, low, high)
    if field.is_above_low and number == low:
        raise InvalidRequest(
            f"{field.name}: {shown(given[field.name])} is not above {low:g}", field=field.name
        )
    return number


def _read_choice(given: Mapping[str, Any], field: RequestField) -> str:
    word = read_text(given, field.name, required=True)
    if word not in field.choices:
        raise InvalidRequest(
            f"{field.name}: {shown(word)} is not one of {', '.join(field.choices)}", field=field.name
        )
    return word


def read_text(given: Mapping[str, Any], name: str, *, required: bool) -> str:
    """Read text of at most ``MAX_PROMPT_CHARS`` characters; an absent optional field is empty."""
    value = given.get(name)
    if value is None:
        if required:
            raise InvalidRequest(f"{name}: missing", field=name)
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: {shown(value)} is {type(value).__name__}, not text", field=name)
    if required and not value.strip():
        raise InvalidRequest(f"{name}: {shown(value)} is empty", field=name)
    if len(value) > MAX_PROMPT_CHARS:
        raise InvalidRequest(f"{name}: {len(value)} characters; the limit is {MAX_PROMPT_CHARS}", field=name)
    if "\x00" in value:
        raise InvalidRequest(f"{name}: {shown(value)} contains a NUL character", field=name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name}: {shown(value)} is not valid Unicode text ({error.reason})", field=name
        ) from error
    return str(value)


def read_integer(given: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int:
    """Read a whole number in ``low..high``; a field without a default is required."""
    value = given.get(name, default)
    if value is None:
        raise InvalidRequest(f"{name}: missing", field=name)
    number = _as_number(value, name)
    if number != int(number):
        raise InvalidRequest(f"{name}: {shown(value)} is not a whole number", field=name)
    if not low <= number <= high:
        raise InvalidRequest(f"{name}: {shown(value)} is outside {low}..{high}", field=name)
    return int(number)


def read_number(given: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    """Read a finite number in ``low..high``."""
    value = given.get(name, default)
    number = _as_number(value, name)
    if not low <= number <= high:
        limit = f"must be {low:g}" if low == high else f"is outside {low:g}..{high:g}"
        raise InvalidRequest(f"{name}: {shown(value)} {limit}", field=name)
    return float(number)


def _as_number(value: Any, name: str) -> int | float:
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value  # a fast path for nearly every value of a table
    number = value
    if isinstance(value, str):  # CSV has no types
        try:
            number = int(value) if re.fullmatch(r"\s*[+-]?\d+\s*", value) else float(value)
        except ValueError:
            raise InvalidRequest(f"{name}: {shown(value)} is not a number", field=name) from None
    # Real includes numpy's numbers, but not its booleans.
    if isinstance(number, bool) or not isinstance(number, Real):
        raise InvalidRequest(f"{name}: {shown(value)} is {type(value).__name__}, not a number", field=name)
    if isinstance(number, Integral):
        return int(number)
    if not math.isfinite(number):
        raise InvalidRequest(f"{name}: {shown(value)} is not a finite number", field=name)
    return float(number)


def read_boolean(given: Mapping[str, Any], name: str, default: bool) -> bool:
    """Read a boolean, or one of the words ``true`` and ``false``."""
    value = given.get(name, default)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool | np.bool_):
        raise InvalidRequest(f"{name}: {shown(value)} is not true or false", field=name)
    return bool(value)


def shown(value: Any) -> str:
    """Return a value as text for a message, in at most 60 characters."""
    # str for numbers: numpy's repr would include the type.
    text = str(value) if isinstance(value, Real) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
