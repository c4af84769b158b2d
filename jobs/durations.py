"""Durations on the command line: ``90s``, ``30m``, ``8h``, ``2d``, or plain seconds."""

import re

from zimage_models.errors import InvalidRequest

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")


def parse_duration(text: str, *, field: str) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidRequest: the text is not of that form, or not above 0.
    """
    match = _DURATION.fullmatch(text.strip())
    if not match or not float(match[1]):
        raise InvalidRequest(
            f"{field}: {text!r} is not a duration above 0 such as 90s, 30m, 8h or 2d", field=field
        )
    return float(match[1]) * _UNITS[match[2]]


def duration_text(seconds: float) -> str:
    """Write a duration for people, in its largest unit."""
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:.3g} {unit}"
    return f"{seconds:.3g} s"
