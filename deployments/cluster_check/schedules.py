"""Cron schedules, as Kubernetes reads them."""

import re

_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 6),
)
_MACROS = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}
_NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "day of week": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
_ITEM = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/([1-9]\d*))?")


def schedule_fault(schedule: str) -> str | None:
    """Return what is wrong with a schedule, None if it is sound."""
    if schedule in _MACROS:
        return None
    words = schedule.split()
    if len(words) != len(_FIELDS):
        return f"{schedule!r} has {len(words)} fields; a schedule has 5: minute hour day month weekday"
    for word, (name, low, high) in zip(words, _FIELDS, strict=True):
        for item in word.split(","):
            if not _fits(item, name, low, high):
                return f"{item!r} is no {name} ({low}..{high})"
    return None


def _fits(item: str, name: str, low: int, high: int) -> bool:
    match = _ITEM.fullmatch(item)
    if match is None:
        return False
    numbers = [_number(text, name, low) for text in match.group(2, 3) if text is not None]
    return all(low <= number <= high for number in numbers) and numbers == sorted(numbers)


def _number(text: str, name: str, low: int) -> int:
    names = _NAMES.get(name, [])
    if text.lower() in names:
        return names.index(text.lower()) + low
    return int(text) if text.isdecimal() else -1
