"""Rows of an OpenAI batch file: one image generation request a line.

Format: https://platform.openai.com/docs/guides/batch. It knows no limits of a model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipelines.input_files import InputFiles
from pipelines.jsonl_source import JsonRow, cell_reader, json_rows
from pipelines.source_rows import RowError, Source, SourceBatch, batched_rows, shown
from zimage_models.errors import InvalidRequest
from zimage_models.image_codec import IMAGE_FORMATS
from zimage_models.requests import GENERATION_FIELDS

URL = "/v1/images/generations"

_COLUMNS: dict[str, pa.DataType] = dict.fromkeys(("key", "model", "size", *GENERATION_FIELDS), pa.string())
_COLUMNS |= {
    "variants": pa.int64(),
    "height": pa.int64(),
    "width": pa.int64(),
    "num_inference_steps": pa.int64(),
    "guidance_scale": pa.float64(),
    "seed": pa.int64(),
    "cfg_normalization": pa.float64(),
    "cfg_truncation": pa.float64(),
    "truncate_prompt": pa.bool_(),
}
# Values that ask for what happens anyway, so that leaving them out changes no picture.
_HARMLESS: dict[str, tuple[str, ...]] = {
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "output_format": IMAGE_FORMATS,
    "quality": ("auto",),
    "response_format": ("b64_json",),
}


class OpenAIBatchSource(Source):
    """A JSON Lines file of ``{"custom_id", "method": "POST", "url": "/v1/images/generations", "body"}``.

    ``custom_id`` becomes the column ``key``, ``body.n`` ``variants``, and the other fields keep their names:
    ``model``, ``size`` (``auto`` counts as absent) and the generation fields. The schema is always the same.

    Accepted and left out, since the picture does not depend on them: ``user``; ``response_format``
    ``b64_json``; ``output_format`` (the file format is one choice for the whole data set); ``background``
    ``auto`` or ``opaque``; ``quality`` and ``moderation`` ``auto``. Any other field or value is a row error
    that names it.

    Raises:
        InvalidRequest: no rows.
    """

    format = "openai-batch"
    schema = pa.schema(_COLUMNS)

    def __init__(self, files: InputFiles) -> None:
        self._files = files
        self.fingerprint = files.fingerprint()
        if next(json_rows(files), None) is None:
            raise InvalidRequest(f"input: {files.uri} has no rows", field="input")

    def batches(self, batch_rows: int = 4096) -> Iterator[SourceBatch]:
        """Read the rows from the first on."""
        return batched_rows(self._rows(), self.schema, batch_rows)

    def _rows(self) -> Iterator[tuple[int, list[Any]] | RowError]:
        to_cells = cell_reader(self.schema)
        for item in json_rows(self._files):
            yield item if isinstance(item, RowError) else _read(item, to_cells)


def is_openai_batch(files: InputFiles) -> bool:
    """Say whether the first usable line of a JSON Lines file is a batch request."""
    first = next((item for item in json_rows(files) if isinstance(item, JsonRow)), None)
    return first is not None and {"custom_id", "body"} <= first.values.keys()


def _read(
    item: JsonRow, to_cells: Callable[[Mapping[str, Any]], list[Any]]
) -> tuple[int, list[Any]] | RowError:
    custom_id = item.values.get("custom_id")
    key = custom_id if isinstance(custom_id, str) and custom_id else None
    try:
        if key is None:
            raise InvalidRequest(f"custom_id: {shown(custom_id)} is not a text of at least one character")
        return item.row, to_cells({"key": key, **_body(_request(item.values))})
    except InvalidRequest as error:
        return RowError(row=item.row, key=key, message=f"line {item.line}: {error}")


def _request(line: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, expected in (("method", "POST"), ("url", URL)):
        if line.get(name) != expected:
            raise InvalidRequest(f"{name}: {shown(line.get(name))} is not {expected!r}")
    unknown = line.keys() - {"custom_id", "method", "url", "body"}
    if unknown:
        raise InvalidRequest(f"{min(unknown)}: unknown field; known are custom_id, method, url and body")
    body = line.get("body")
    if not isinstance(body, dict):
        raise InvalidRequest(f"body: {shown(body)} is not an object")
    return body


def _body(body: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in body.items():
        if name == "n":
            if type(value) is not int:
                raise InvalidRequest(f"body.n: {shown(value)} is not a whole number")
            values["variants"] = value
        elif name == "size":
            values["size"] = None if value == "auto" else value
        elif name == "model" or name in GENERATION_FIELDS:
            values[name] = value
        elif name in _HARMLESS:
            if value is not None and value not in _HARMLESS[name]:
                accepted = ", ".join(_HARMLESS[name])
                raise InvalidRequest(f"body.{name}: {shown(value)} is not supported; accepted: {accepted}")
        elif name != "user":
            known = ", ".join(sorted(("model", "n", "size", "user", *GENERATION_FIELDS, *_HARMLESS)))
            raise InvalidRequest(f"body.{name}: unknown field; known fields are {known}")
    return values
