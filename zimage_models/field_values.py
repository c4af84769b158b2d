"""Read text, numbers, booleans and sizes from outside by field name.

An invalid value raises InvalidRequest, which names the field, the value and the limit.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np

from zimage_models.errors import InvalidRequest
from zimage_models.field_spec import FieldKind, RequestField
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import nearest_size

MAX_PROMPT_CHARS = 16_384
_MAX_SIZE_CHARS = 100
_LARGEST_EXACT = 2**53
"""Whole numbers below this one are exact as floats."""
# Python's own int() and float() also take underscores.
_WHOLE = re.compile(r"([+-]?\d+)(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,9})?")
_COMMA = re.compile(r"[+-]?\d{1,9},\d{1,9}")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3}){1,4}")
# ASCII digits, after full-width forms became ASCII. The last sign is a Cyrillic letter.
_SIZE = re.compile(
    r"([0-9]{1,9})\s*(?:px|pixels)?\s*(?:[x*×✕✖⨯х]|by)\s*([0-9]{1,9})\s*(?:px|pixels)?", re.IGNORECASE
)
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)


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
    if field.kind is FieldKind.INTEGER:
        return _read_integer(given, field, spec, default)
    low, high = field.limits_for(spec)
    number = read_number(given, field.name, default, low, high, hint=field.if_high_of(spec))
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
    """Read text of at most ``MAX_PROMPT_CHARS`` characters; an absent or blank optional field is empty."""
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
    return str(value) if value.strip() else ""


def _read_integer(given: Mapping[str, Any], field: RequestField, spec: ModelSpec, default: int | None) -> int:
    value = given.get(field.name, default)
    is_nan = isinstance(value, float) and math.isnan(value)
    if field.if_low and (is_nan or (isinstance(value, str) and not any(map(str.isdigit, value)))):
        raise InvalidRequest(
            f"{field.name}: {shown(value)} is not a number; {field.if_low}", field=field.name
        )
    number = read_whole(given, field.name, default)
    low, high = map(int, field.limits_for(spec))
    if not low <= number <= high:
        hint = field.if_low if number < low else field.if_high_of(spec)
        message = f"{field.name}: {shown(value)} is outside {low}..{high}"
        raise InvalidRequest(f"{message}; {hint}" if hint else message, field=field.name)
    return number


def read_whole(given: Mapping[str, Any], name: str, default: int | None) -> int:
    """Read a whole number of any size; a field without a default is required."""
    value = given.get(name, default)
    if value is None:
        raise InvalidRequest(f"{name}: missing", field=name)
    number = _whole_of_text(value, name) if isinstance(value, str) else _as_number(value, name)
    if number != int(number):
        raise InvalidRequest(f"{name}: {shown(value)} is not a whole number", field=name)
    return int(number)


def read_number(
    given: Mapping[str, Any], name: str, default: float, low: float, high: float, *, hint: str = ""
) -> float:
    """Read a finite number in ``low..high``; a hint ends the message about another one."""
    value = given.get(name, default)
    number = _number_of_text(value, name) if isinstance(value, str) else _as_number(value, name)
    if not low <= number <= high:
        limit = f"must be {low:g}" if low == high else f"is outside {low:g}..{high:g}"
        raise InvalidRequest(f"{name}: {shown(value)} {limit}{'; ' * bool(hint)}{hint}", field=name)
    return float(number)


def _as_number(value: Any, name: str) -> int | float:
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value  # a fast path for nearly every value of a table
    # Real includes numpy's numbers, but not its booleans, nor the decimals of databases.
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise InvalidRequest(f"{name}: {shown(value)} is {type(value).__name__}, not a number", field=name)
    if isinstance(value, Integral):
        return int(value)
    if not math.isfinite(value):
        raise InvalidRequest(f"{name}: {shown(value)} is not a finite number", field=name)
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return float(value)


def _whole_of_text(text: str, name: str) -> int | float:
    """Read a whole number as people write it, such as 42, +42 or 42.0, but not 1e3."""
    if match := _WHOLE.fullmatch(text.strip()):
        return int(match[1][:400])  # past every limit already, and Python refuses to read thousands of digits
    if _THOUSANDS.fullmatch(text.strip()):
        raise InvalidRequest(
            f"{name}: {shown(text)} is not a number: write {text.strip().replace(',', '')}", field=name
        )
    number = _number_of_text(text, name)
    if number == int(number):
        hint = f": write {int(number)}" if abs(number) < _LARGEST_EXACT else ""
        raise InvalidRequest(f"{name}: {shown(text)} is not a whole number in plain digits{hint}", field=name)
    return number


def _number_of_text(text: str, name: str) -> float:
    written = text.strip()
    if _NUMBER.fullmatch(written):
        number = float(written)
    elif _COMMA.fullmatch(written):
        raise InvalidRequest(
            f"{name}: {shown(text)} is not a number: write {written.replace(',', '.')}", field=name
        )
    elif _NOT_FINITE.fullmatch(written):
        number = math.nan
    else:
        raise InvalidRequest(f"{name}: {shown(text)} is not a number", field=name)
    if not math.isfinite(number):
        raise InvalidRequest(f"{name}: {shown(text)} is not a finite number", field=name)
    return number


def is_written_number(text: str) -> bool:
    """Return whether text is a number as people write it, even one that no field takes, such as 3,5 or -1."""
    return any(pattern.fullmatch(text.strip()) for pattern in (_NUMBER, _COMMA, _THOUSANDS))


def read_boolean(given: Mapping[str, Any], name: str, default: bool) -> bool:
    """Read a boolean, or one of the words ``true`` and ``false``."""
    value = given.get(name, default)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool | np.bool_):
        raise InvalidRequest(f"{name}: {shown(value)} is not true or false", field=name)
    return bool(value)


def parse_size(value: Any) -> tuple[int, int]:
    """Read ``"WIDTHxHEIGHT"`` in pixels as people write it: ``64x64``, ``64 X 64``, ``64*64``, ``64×64px``.

    Returns:
        (height, width).

    Raises:
        InvalidRequest: the value does not have that form.
    """
    match = None
    if isinstance(value, str) and len(value) <= _MAX_SIZE_CHARS:
        match = _SIZE.fullmatch(unicodedata.normalize("NFKC", value).strip())
    if not match:
        raise InvalidRequest(
            f"size: {shown(value)} is not of the form WIDTHxHEIGHT, such as 1024x768", field="size"
        )
    width, height = map(int, match.groups())
    return height, width


def read_size(
    spec: ModelSpec, given: Mapping[str, Any], default_height: int, default_width: int
) -> tuple[int, int]:
    """Read ``size``, or ``height`` and ``width``, and check them against a model.

    Returns:
        (height, width) in pixels.

    Raises:
        InvalidRequest: a side or both that the model cannot make; the message names the nearest that it can.
    """
    if "size" not in given:
        height = _read_side(spec, given, "height", default_height)
        width = _read_side(spec, given, "width", default_width)
        _check_area(spec, height, width, "height")
        return height, width
    if "height" in given or "width" in given:
        raise InvalidRequest("size: give either size or height and width, not both", field="size")
    height, width = parse_size(given["size"])
    shape = f"size: {width}x{height}"
    if min(height, width) < 1 or max(height, width) > spec.max_side:
        raise InvalidRequest(
            f"{shape} is outside 1..{spec.max_side} px per side: use {_same_shape(spec, height, width)}",
            field="size",
        )
    _check_area(spec, height, width, "size")
    if height % spec.size_multiple or width % spec.size_multiple:
        wanted = " or ".join(f"{width}x{height}" for height, width in _sizes_near(spec, height, width)[:2])
        raise InvalidRequest(
            f"{shape} is not a multiple of {spec.size_multiple} px: use {wanted}", field="size"
        )
    return height, width


def _read_side(spec: ModelSpec, given: Mapping[str, Any], name: str, default: int) -> int:
    side = read_whole(given, name, default)
    if not 1 <= side <= spec.max_side:
        nearest = spec.size_multiple if side < 1 else spec.max_side
        raise InvalidRequest(
            f"{name}: {shown(given.get(name, side))} is outside 1..{spec.max_side} px: use {nearest}",
            field=name,
        )
    if side % spec.size_multiple:
        wanted = " or ".join(map(str, _sides_near(spec, side)))
        raise InvalidRequest(
            f"{name}: {side} px is not a multiple of {spec.size_multiple}: use {wanted}", field=name
        )
    return side


def _sizes_near(spec: ModelSpec, height: int, width: int) -> list[tuple[int, int]]:
    """Return the sizes (height, width) next to one, nearest first, then those of its shape, then largest."""
    sizes = [
        size
        for size in itertools.product(_sides_near(spec, height), _sides_near(spec, width))
        if math.prod(size) <= spec.variant.max_pixels
    ]
    return sorted(
        sizes,
        key=lambda size: (
            math.dist(size, (height, width)),
            abs(size[0] * width - size[1] * height),
            -math.prod(size),
        ),
    )


def _sides_near(spec: ModelSpec, side: int) -> list[int]:
    """Return the one or two sides next to one that is within the limit, nearest first, then largest first."""
    below = side // spec.size_multiple * spec.size_multiple
    sides = {below, below if below == side else below + spec.size_multiple}
    allowed = (one for one in sides if spec.size_multiple <= one <= spec.max_side)
    return sorted(allowed, key=lambda one: (abs(one - side), -one))


def _check_area(spec: ModelSpec, height: int, width: int, name: str) -> None:
    limit = spec.variant.max_pixels
    if height * width > limit:
        raise InvalidRequest(
            f"{name}: {width}x{height} is {height * width} px; the limit is {limit}:"
            f" use {_same_shape(spec, height, width)}",
            field=name,
        )


def _same_shape(spec: ModelSpec, height: int, width: int) -> str:
    """Return the size nearest to one past a limit, of the same shape as far as the model allows."""
    height, width = nearest_size(
        max(1, height),
        max(1, width),
        size_multiple=spec.size_multiple,
        max_side=spec.max_side,
        max_pixels=spec.variant.max_pixels,
    )
    return f"{width}x{height}"


def shown(value: Any) -> str:
    """Return a value as text for a message, in at most 60 characters."""
    # str for numbers: numpy's repr would include the type.
    text = str(value) if isinstance(value, Real | Decimal) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
