"""Table cells that name pictures. It reads no files and does not interpret addresses."""

import json
import re
from typing import Any

from zimage_models.errors import InvalidRequest
from zimage_models.field_values import shown
from zimage_models.image_files.image_inputs import data_url_bytes

_BETWEEN_ADDRESSES = re.compile(r",\s*(?=https?://)", re.IGNORECASE)
"""An address may contain commas itself, but hardly one before another address."""

NamedPicture = bytes | str
"""The content of a picture's file, or its address."""


def read_cell(value: Any, *, field: str, max_bytes: int) -> list[NamedPicture]:
    """Return the pictures that a cell names; an empty cell and blank text name none.

    A picture is given as the bytes of its file, a Hugging Face ``Image`` struct (``bytes`` and ``path``), a
    ``data:`` URL, or an address. A cell holds one picture or a list; in a text column, a list is JSON, or
    web addresses with commas between them (``https://a.example/1.jpg, https://a.example/2.jpg``).

    Args:
        value: the cell.
        field: the request field, for error messages.
        max_bytes: size limit of a picture in a ``data:`` URL.

    Raises:
        InvalidRequest: the cell holds something else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str) and value.startswith("["):
        value = _json_list(value)
    elif isinstance(value, str) and re.match(r"https?://", value, re.IGNORECASE):
        value = [address.strip() for address in _BETWEEN_ADDRESSES.split(value)]
    if isinstance(value, list | tuple):
        return [_read_one(item, field, max_bytes) for item in value]
    return [_read_one(value, field, max_bytes)]


def _json_list(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # a file name, such as [1].png


def _read_one(value: Any, field: str, max_bytes: int) -> NamedPicture:
    if isinstance(value, dict) and value and value.keys() <= {"bytes", "path"}:
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str) and value[:5].lower() == "data:":
        return data_url_bytes(value, field=field, max_bytes=max_bytes)
    if not isinstance(value, bytes | str) or not value:
        kind = type(value).__name__
        raise InvalidRequest(
            f"{field}: {shown(value)} ({kind}) is not a picture; give bytes, a path, an address, "
            "a data URL, a struct of bytes and path, or a list of these",
            field=field,
        )
    return value
