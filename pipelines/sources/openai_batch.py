"""Rows of an OpenAI batch file, in which each line is a request to generate or edit an image.

Format: https://platform.openai.com/docs/guides/batch. It knows nothing about a model's limits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipelines.sources.source_rows import RowError, json_text_field
from pipelines.sources.table_file import RowReader, TableFile
from pipelines.sources.text_formats.json_columns import cell_reader
from pipelines.sources.text_formats.json_rows import JsonRow, json_rows
from zimage_models.errors import InvalidRequest
from zimage_models.field_spec import FieldKind, RequestField, Way
from zimage_models.field_values import shown
from zimage_models.image_files.image_codec import IMAGE_FORMATS
from zimage_models.request_fields import fields_of

URL = "/v1/images/generations"
EDITS_URL = "/v1/images/edits"

_JSON_TYPES = {
    FieldKind.TEXT: pa.string(),
    FieldKind.SIZE: pa.string(),
    FieldKind.CHOICE: pa.string(),
    FieldKind.INTEGER: pa.int64(),
    FieldKind.NUMBER: pa.float64(),
    FieldKind.BOOLEAN: pa.bool_(),
    FieldKind.PICTURE: pa.string(),
}
_FIELDS = {field.outer_name: field for field in fields_of(Way.BATCH_LINE)}
_EDIT_FIELDS = {name for name, field in _FIELDS.items() if field.is_of_edits}


def _column(name: str, field: RequestField) -> "pa.Field[Any]":
    several = field.kind is FieldKind.PICTURES
    return json_text_field(name) if several else pa.field(name, _JSON_TYPES[field.kind])


_COLUMNS: "tuple[pa.Field[Any], ...]" = (
    pa.field("key", pa.string()),
    pa.field("model", pa.string()),
    pa.field("variants", pa.int64()),
    *(_column(name, field) for name, field in _FIELDS.items() if name not in _EDIT_FIELDS),
)
_EDIT_COLUMNS = tuple(_column(name, field) for name, field in _FIELDS.items() if name in _EDIT_FIELDS)
"""Further columns of a file with edits."""

# Values that request the default behaviour, so ignoring them changes no image.
_HARMLESS: dict[str, tuple[str, ...]] = {
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "output_format": IMAGE_FORMATS,
    "quality": ("auto",),
    "response_format": ("b64_json",),
}


class OpenAIBatchReader(RowReader):
    """A JSON Lines file of ``{"custom_id", "method": "POST", "url": "/v1/images/generations", "body"}``.

    ``custom_id`` becomes the column ``key``, ``body.n`` ``variants``, and the other fields keep their names:
    ``model``, ``size`` (``auto`` counts as absent) and the generation fields. The schema is always the same,
    except that a file with ``/v1/images/edits`` also has the fields of edits:
    ``image``, from ``body.image`` or ``body.images`` (an address, a data URL, ``{"image_url"}`` or a list of
    these), ``mask``, ``strength``, ``control_image`` and ``controlnet_conditioning_scale``.

    Accepted and ignored, because the image does not depend on them: ``user``; ``response_format``
    ``b64_json``; ``output_format`` (the file format is one choice for the whole data set); ``background``
    ``auto`` or ``opaque``; ``quality`` and ``moderation`` ``auto``. Any other field or value is a row error
    that names it.

    Raises:
        InvalidRequest: the file cannot be read.
    """

    format = "openai-batch"

    def __init__(self, file: TableFile, *, encoding: str | None = None) -> None:
        self._file = file
        self._encoding = encoding
        self.num_rows, has_edits = 0, False
        for item in json_rows(file, encoding):
            self.num_rows += 1
            has_edits = has_edits or (isinstance(item, JsonRow) and item.values.get("url") == EDITS_URL)
        self.schema = pa.schema([*_COLUMNS, *(_EDIT_COLUMNS if has_edits else ())])

    def rows(self) -> Iterator[tuple[int, list[Any]] | RowError]:
        """Yield the rows' cells, and errors."""
        to_cells = cell_reader(self.schema)
        for item in json_rows(self._file, self._encoding):
            yield item if isinstance(item, RowError) else _read(item, to_cells)


def is_openai_batch(files: Iterable[TableFile], *, encoding: str | None = None) -> bool:
    """Return whether the first usable line of JSON Lines files is a batch request."""
    items = (item for file in files for item in json_rows(file, encoding))
    first = next((item for item in items if isinstance(item, JsonRow)), None)
    return first is not None and {"custom_id", "body"} <= first.values.keys()


def _read(
    item: JsonRow, to_cells: Callable[[Mapping[str, Any]], list[Any]]
) -> tuple[int, list[Any]] | RowError:
    custom_id = item.values.get("custom_id")
    key = custom_id if isinstance(custom_id, str) and custom_id else None
    try:
        if key is None:
            raise InvalidRequest(f"custom_id: {shown(custom_id)} is not a non-empty string")
        body = _request(item.values)
        return item.row, to_cells({"key": key, **_body(body, is_edit=item.values["url"] == EDITS_URL)})
    except InvalidRequest as error:
        return RowError(row=item.row, key=key, message=f"line {item.line}: {error}")


def _request(line: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, accepted in (("method", ("POST",)), ("url", (URL, EDITS_URL))):
        if line.get(name) not in accepted:
            raise InvalidRequest(f"{name}: {shown(line.get(name))} is not {' or '.join(map(repr, accepted))}")
    unknown = line.keys() - {"custom_id", "method", "url", "body"}
    if unknown:
        raise InvalidRequest(f"{min(unknown)}: unknown field; known are custom_id, method, url and body")
    body = line.get("body")
    if not isinstance(body, dict):
        raise InvalidRequest(f"body: {shown(body)} is not an object")
    return body


def _body(body: Mapping[str, Any], *, is_edit: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in body.items():
        if name == "n":
            if type(value) is not int:
                raise InvalidRequest(f"body.n: {shown(value)} is not a whole number")
            values["variants"] = value
        elif name == "size":
            values["size"] = None if value == "auto" else value
        elif is_edit and name in ("image", "images"):
            if "image" in values:
                raise InvalidRequest("body.images: give either image or images, not both")
            values["image"] = [_address(item) for item in (value if isinstance(value, list) else [value])]
        elif name == "model" or (name in _FIELDS and (is_edit or name not in _EDIT_FIELDS)):
            is_picture = name in _FIELDS and _FIELDS[name].is_picture
            values[name] = _address(value) if is_picture else value
        elif name in _HARMLESS:
            if value is not None and value not in _HARMLESS[name]:
                accepted = ", ".join(_HARMLESS[name])
                raise InvalidRequest(f"body.{name}: {shown(value)} is not supported; accepted: {accepted}")
        elif name != "user":
            names = {"model", "n", "user", *_FIELDS, *_HARMLESS}
            known = ", ".join(sorted(names | {"images"} if is_edit else names - _EDIT_FIELDS))
            raise InvalidRequest(f"body.{name}: unknown field; known fields are {known}")
    if is_edit and not (values.get("image") or values.get("control_image")):
        raise InvalidRequest("body.image: missing")
    return values


def _address(value: Any) -> Any:
    """Return the address of an edit's image, which OpenAI's batches give as an object."""
    if isinstance(value, dict):
        if value.keys() != {"image_url"}:
            raise InvalidRequest(f"body.image: {shown(value)} is not an object with only image_url")
        return value["image_url"]
    return value
