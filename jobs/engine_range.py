"""How many engines: ``MIN:MAX`` on the command line."""

from zimage_models.errors import InvalidRequest


def parse_range(text: str, *, field: str) -> tuple[int, int]:
    """Read ``MIN:MAX``, or one number for both.

    Raises:
        InvalidRequest: the text is not of that form.
    """
    low, separator, high = text.partition(":")
    if not low.isdecimal() or (separator and not high.isdecimal()):
        raise InvalidRequest(f"{field}: {text!r} is not of the form MIN:MAX, such as 1:4", field=field)
    return int(low), int(high or low)
