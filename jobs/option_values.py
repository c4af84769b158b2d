"""Parsing and formatting of structured option values: durations, ranges, pairs."""

import re

from zimage_models.errors import InvalidRequest

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")


def parse_duration(text: str, *, field: str) -> float:
    """Parse a duration to seconds: ``90s``, ``30m``, ``8h``, ``2d``, or plain seconds.

    Raises:
        InvalidRequest: the text does not have that form, or the duration is not above 0.
    """
    match = _DURATION.fullmatch(text.strip())
    if not match or not float(match[1]):
        raise InvalidRequest(
            f"{field}: {text!r} is not a duration above 0 such as 90s, 30m, 8h or 2d", field=field
        )
    return float(match[1]) * _UNITS[match[2]]


def duration_text(seconds: float) -> str:
    """Format a duration for people, in the largest unit that fits twice."""
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:.3g} {unit}"
    return f"{seconds:.3g} s"


def parse_range(text: str, *, field: str) -> tuple[int, int]:
    """Parse ``MIN:MAX``, or one number for both.

    Raises:
        InvalidRequest: the text does not have that form.
    """
    low, separator, high = text.partition(":")
    if not low.isdecimal() or (separator and not high.isdecimal()):
        raise InvalidRequest(f"{field}: {text!r} is not of the form MIN:MAX, such as 1:4", field=field)
    return int(low), int(high or low)


def parse_pairs(texts: list[str], *, field: str, form: str, may_be_empty: bool = False) -> dict[str, str]:
    """Parse an option of pairs, such as ``--map FIELD=COLUMN``.

    Args:
        texts: the values of the option, one per use.
        field: the option, for error messages.
        form: the form of a pair, for error messages.
        may_be_empty: whether the part after ``=`` may be empty.

    Raises:
        InvalidRequest: a text does not have the form, or two give one name different values.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and (value or may_be_empty)):
            raise InvalidRequest(f"{field}: {text!r} is not of the form {form}", field=field)
        if pairs.get(name, value) != value:
            raise InvalidRequest(
                f"{field}: {name!r} is given twice, as {pairs[name]!r} and {value!r}; leave one out",
                field=field,
            )
        pairs[name] = value
    return pairs
