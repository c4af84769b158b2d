"""Names of image files: templates in Python's format syntax, and an escape that fits any text to any disk.

What not every disk takes is percent-encoded in UTF-8, as in addresses: the characters ``<>:"|?*`` and
backslash, control characters, dots and spaces at the ends of a part, slashes that would leave a part empty,
and the first letter of a Windows device (``CON``, ``nul.txt``). A "%" is encoded only where it would read as
an escape. A part of more than 200 bytes becomes folders, with ``%/~`` at each break. All else stays as it is.
"""

import re
import string
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import unquote

from pipelines.plan.template_columns import quoted, unknown_column
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import shown
from zimage_models.image_files.image_codec import SUFFIXES

DEFAULT_NAME = "{key}_{variant:02d}.{ext}"
OWN_COLUMNS = ("key", "variant", "seed", "width", "height")
"""What names can be made from besides the table's columns."""
MAX_NAME_BYTES = 900
MAX_PART_BYTES = 200

_BREAK = "%/~"  # "%/" and a part that begins with a harmless character, whatever the text goes on with
_OTHER_SUFFIXES = {"jpeg": (".jpeg",)}
_TOO_WIDE = re.compile(r"\d{4}")
# The first character of each match is escaped.
_UNSAFE = re.compile(
    r"""
    (?P<character>[<>:"|?*\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff])
    | (?P<percent>%(?=/|[0-9A-Fa-f]{2}))
    | (?P<slash>/(?:\.\w+)?\Z | \A/ | /(?=/))       # also before a bare suffix, whose dot must stay
    | (?P<dot>(?<![^/])\. | \.(?=/|\Z))
    | (?P<space>(?<![^/])\s | \s(?=/|\Z))
    | (?P<device>(?<![^/])
        (?i:CON|PRN|AUX|NUL|(?:COM|LPT)[0-9\xb9\xb2\xb3]|CONIN\$|CONOUT\$)
        (?=\ *(?:[./]|\Z)))
    """,
    re.VERBOSE,
)
_REASONS = {
    "character": "contains {char!r}, which not every disk allows in file names",
    "percent": "contains '%', which reads as an escape there",
    "slash": "has an empty part between slashes",
    "dot": "has a part that begins or ends with a dot",
    "space": "has a part that begins or ends with a space",
    "device": "has a part with the name of a Windows device",
    None: f"has a part of more than {MAX_PART_BYTES} bytes",
}
# One character of an escaped text, or the escape of one.
_PIECE = re.compile(r"%[0-9A-F]{2}(?:%[89AB][0-9A-F])*|.", re.DOTALL)


def escape_path(text: str) -> str:
    """Return any non-empty text as a relative path that is safe on every disk and in S3.

    Different texts give different paths, and `unescape_path` gives the text back. "/" makes folders.
    Disks that do not tell upper from lower case may still take two such paths for one.
    """
    return "/".join(map(_with_breaks, _UNSAFE.sub(_escape_first, text).split("/")))


def unescape_path(path: str) -> str:
    """Return the text that `escape_path` made a path of."""
    return unquote(path.replace(_BREAK, ""), errors="surrogatepass")


class NameTemplate:
    """A template that makes a file name from a row's columns: ``{sku}/{variant:02d}.png``.

    The syntax is Python's format syntax, limited to plain column names with optional format specifications.
    ``{ext}`` is always the image format's suffix, without the dot. `escape_path` makes any values fit.

    Args:
        text: the template.
        columns: the known columns.
        image_format: one of `image_codec.IMAGE_FORMATS`; the name must end in its suffix.

    Attributes:
        columns_used: the columns that names are made from.

    Raises:
        InvalidRequest: a syntax error, an unknown column, another suffix, or an unsafe path.
    """

    def __init__(self, text: str, *, columns: Collection[str], image_format: str) -> None:
        suffixes = (SUFFIXES[image_format], *_OTHER_SUFFIXES.get(image_format, ()))
        self._literals = [""]
        self._fields: list[tuple[str, str]] = []
        for literal, column, specification, conversion in _parsed_name(text):
            self._literals[-1] += literal
            if column == "ext" and not specification and not conversion:
                self._literals[-1] += SUFFIXES[image_format].removeprefix(".")
            elif column is not None:
                if column not in columns:
                    raise unknown_column(column, ["ext", *columns], "name")
                self._fields.append((column, _plain_format(column, specification or "", conversion)))
                self._literals.append("")
        self.columns_used = frozenset(column for column, _ in self._fields)
        if not self._literals[-1].lower().endswith(suffixes):
            raise InvalidRequest(
                f"name: {text!r} does not end in {' or '.join(suffixes)}, the suffix of {image_format}",
                field="name",
            )
        example = "x".join(self._literals)
        if escape_path(example) != example:
            match = _UNSAFE.search(example)
            reason = _REASONS[match and match.lastgroup].format(char=match and match[0])
            raise InvalidRequest(f"name: {text!r} {reason}", field="name")

    def render(self, row: Mapping[str, Any]) -> str:
        """Return one image's file name.

        Returns:
            A relative POSIX path that is safe on every disk and in S3, at most 900 bytes long.

        Raises:
            InvalidRequest: a value is null, empty or does not fit its format, or the name is too long.
        """
        parts = [self._literals[0]]
        for (column, specification), literal in zip(self._fields, self._literals[1:], strict=True):
            parts += [_formatted(column, row.get(column), specification), literal]
        name = escape_path("".join(parts))
        if (num_bytes := len(name.encode())) > MAX_NAME_BYTES:
            raise InvalidRequest(
                f"name: the file name {shown(name)} is {num_bytes} bytes long; the limit is {MAX_NAME_BYTES} "
                "(a character that not every disk allows takes 3); use other columns with --name",
                field="name",
            )
        return name


def _escape_first(match: re.Match[str]) -> str:
    first, rest = match[0][0], match[0][1:]
    return "".join(f"%{byte:02X}" for byte in first.encode("utf-8", "surrogatepass")) + rest


def _with_breaks(part: str) -> str:
    if len(part.encode()) <= MAX_PART_BYTES:
        return part
    # From the end, so that the suffix stays whole. Each folder leaves room for the break's two characters.
    folders: list[list[str]] = [[]]
    room = MAX_PART_BYTES - 2
    for piece in reversed(_PIECE.findall(part)):
        num_bytes = len(piece.encode())
        if num_bytes > room:
            folders.append([])
            room = MAX_PART_BYTES - 2
        folders[-1].append(piece)
        room -= num_bytes
    return _BREAK.join("".join(reversed(folder)) for folder in reversed(folders))


def _parsed_name(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(text))
    except ValueError as error:
        raise InvalidRequest(f"name: {text!r}: {error}", field="name") from error


def _plain_format(column: str, specification: str, conversion: str | None) -> str:
    if conversion or "{" in specification:
        message = f"name: {{{column}}} can only have a plain format, such as {{{column}:>8}}"
        raise InvalidRequest(message, field="name")
    if _TOO_WIDE.search(specification):
        message = f"name: the format {specification!r} of {{{column}}} is wider than 999"
        raise InvalidRequest(message, field="name")
    return specification


def _formatted(column: str, value: Any, specification: str) -> str:
    if value is None or value == "":
        raise InvalidRequest(f"name: the column {quoted(column)} is empty in this row", field="name")
    try:
        return format(value, specification)
    except (ValueError, TypeError, OverflowError) as error:
        message = f"name: column {column!r}: {str(value)[:60]!r} does not fit {specification!r} ({error})"
        raise InvalidRequest(message, field="name") from error
