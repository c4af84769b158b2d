"""Reads ``POST /v1/images/edits``, a multipart form or JSON: checks its fields and decodes its pictures."""

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile

from deployments.access.edit_pictures import (
    MAX_IMAGES,
    MAX_NUMBERS,
    EditPictures,
    GivenPictures,
    check_numbers,
    decode,
    fetch,
    max_bytes_of,
    without_data_urls,
)
from deployments.app_args import AppArgs
from deployments.http.openai_errors import http_error, unsupported_media_type
from deployments.http.openai_types import EditBody, JsonBody
from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_inputs import format_names

# Commas and opening brackets in JSON. Its values may take 60 times the memory of their text, but a data URL
# needs only one comma.
_MAX_JSON_MARKS = 100_000
# Clients that send no file, but a data URL, may send a plain form.
_PLAIN_FORM = b"application/x-www-form-urlencoded"
_FORM = b"multipart/form-data"
_MAX_FIELDS = 64
# Of a plain form's bytes. They take 75 times the memory of their text while they are read; a data URL has one
# for 32 characters.
_MAX_ESCAPES = 200_000
# OpenAI's names, and vLLM-Omni's for data URLs and addresses.
_IMAGE_FIELDS = ("image", "image[]", "url", "url[]")
_PICTURE_FIELDS = (*_IMAGE_FIELDS, "mask", "control_image")


class PictureReference(BaseModel):
    """A picture in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image_url: str
    """A data URL or, where the endpoint fetches pictures, an address."""

    @model_validator(mode="before")
    @classmethod
    def _without_file(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise PydanticCustomError("reference", 'is not an object: use {"image_url": "data:..."}')
        if values.get("file_id") is not None:
            raise InvalidRequest(
                "file_id: no files are stored here; send the picture as image_url, a data URL",
                field="file_id",
            )
        # As anywhere in JSON, null counts as absent.
        return {name: value for name, value in values.items() if value is not None}


# In full, because references of a schema inside OpenAPI's do not lead to its own definitions.
_Reference = Annotated[
    PictureReference,
    WithJsonSchema(
        {
            "type": "object",
            "properties": {"image_url": {"type": "string", "description": "A data URL, or an address."}},
            "required": ["image_url"],
            "additionalProperties": False,
        }
    ),
]


class EditJson(JsonBody, EditBody):
    """``POST /v1/images/edits`` as JSON."""

    images: list[_Reference] = Field(default=[], min_length=1, max_length=MAX_IMAGES, exclude=True)
    mask: _Reference | None = Field(default=None, exclude=True)
    control_image: _Reference | None = Field(default=None, exclude=True)


Edit = TypeVar("Edit", bound=EditBody)


async def read_edit(
    request: Request, args: AppArgs, decoding: asyncio.Semaphore
) -> tuple[EditBody, EditPictures]:
    """Read an edit; decode and fetch nothing before its other fields are valid.

    Nothing keeps the body, which may be as long as its limit, until the request is answered.

    Args:
        request: the HTTP request.
        args: the endpoint's limits.
        decoding: limits how many edits are parsed or decoded at once; a picture at the limit briefly takes
            400 MB.

    Raises:
        ApiError: the media type is not supported.
        RequestValidationError: a field is invalid.
        InvalidRequest: a picture is missing or cannot be used.
    """
    content_type = request.headers.get("content-type", "")
    media_type, options = parse_options_header(content_type)
    # Some of Python's codecs raise errors that Starlette does not expect.
    charset = options.get(b"charset", b"utf-8").lower()
    if media_type == b"application/json":
        body, given = await _parsed(request, _read_json, args, decoding)
    elif media_type == _PLAIN_FORM and charset == b"utf-8":
        body, given = await _parsed(request, _read_plain_form, args, decoding)
    elif media_type == _FORM and charset == b"utf-8":
        body, given = await _read_form(request, args, decoding)
    else:
        raise unsupported_media_type(
            f"{content_type[:80]!r} is neither multipart/form-data in UTF-8 nor application/json"
        )
    files = await fetch(given, args)
    async with decoding:
        return body, await asyncio.to_thread(decode, files, args)


async def _parsed(
    request: Request,
    read: Callable[[bytes, AppArgs], tuple[EditBody, GivenPictures]],
    args: AppArgs,
    decoding: asyncio.Semaphore,
) -> tuple[EditBody, GivenPictures]:
    text = await _unkept(request).body()
    async with decoding:
        return await asyncio.to_thread(read, text, args)


def _unkept(request: Request) -> Request:
    """Return a request to read the body with, as each keeps what it has read."""
    return Request(request.scope, request.receive)


def _read_json(text: bytes, args: AppArgs) -> tuple[EditBody, GivenPictures]:
    num_marks = sum(text.count(mark) for mark in (b",", b"[", b"{"))
    if num_marks > _MAX_JSON_MARKS:
        raise InvalidRequest(
            f"body: {num_marks} commas and brackets; the limit is {_MAX_JSON_MARKS}", field="body"
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestValidationError([{"type": "json_invalid", "loc": ("body",), "input": {}}]) from error
    body = _validated(EditJson, values)
    given = {
        "image": [reference.image_url for reference in body.images],
        "mask": [body.mask.image_url] if body.mask else [],
        "control_image": [body.control_image.image_url] if body.control_image else [],
    }
    check_numbers(given)
    # The body's other fields are needed until the request is answered.
    body.images, body.mask, body.control_image = [], None, None
    return body, without_data_urls(given, args)


def _read_plain_form(text: bytes, args: AppArgs) -> tuple[EditBody, GivenPictures]:
    num_escapes = text.count(b"%")
    if num_escapes > _MAX_ESCAPES:
        raise http_error(
            413, f"body: {num_escapes} escaped bytes; the limit is {_MAX_ESCAPES}: use multipart/form-data"
        )
    num_fields = text.count(b"&") + 1
    if num_fields > _MAX_FIELDS:
        raise InvalidRequest(f"body: {num_fields} fields; the limit is {_MAX_FIELDS}", field="body")
    form = FormData([*parse_qsl(text.decode("latin-1"), keep_blank_values=True)])
    body = _fields(form)
    given = {field: [str(value) for value in values] for field, values in _form_pictures(form).items()}
    return body, without_data_urls(given, args)


async def _read_form(
    request: Request, args: AppArgs, decoding: asyncio.Semaphore
) -> tuple[EditBody, GivenPictures]:
    async with _unkept(request).form(
        max_files=MAX_IMAGES + 2, max_fields=_MAX_FIELDS, max_part_size=args.limits.max_body_bytes
    ) as form:
        body = _fields(form)
        # Files are read before the form closes them.
        given = {
            field: [await _text_or_file(value, field, args) for value in values]
            for field, values in _form_pictures(form).items()
        }
    async with decoding:
        return body, await asyncio.to_thread(without_data_urls, given, args)


def _form_pictures(form: FormData) -> dict[str, list[UploadFile | str]]:
    pictures = {
        "image": [picture for name in _IMAGE_FIELDS for picture in form.getlist(name)],
        "mask": form.getlist("mask"),
        "control_image": form.getlist("control_image"),
    }
    check_numbers(pictures)
    return pictures


async def _text_or_file(value: UploadFile | str, field: str, args: AppArgs) -> bytes | str:
    if isinstance(value, str):
        return value
    # One extra byte shows that the file is too large.
    return await value.read(max_bytes_of(field, args) + 1)


def _fields(form: FormData) -> EditBody:
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in _PICTURE_FIELDS:
            continue
        if name in values:
            raise InvalidRequest(f"{name[:64]}: given more than once", field=name[:64])
        values[name] = value
    return _validated(EditBody, values)


def _validated(kind: type[Edit], values: Any) -> Edit:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        ) from error


def _body_schema() -> dict[str, Any]:
    """Build the body's OpenAPI schema: the fields and the pictures, as a form or as JSON."""
    form, json_body = EditBody.model_json_schema(), EditJson.model_json_schema()
    file = {"type": "string", "format": "binary"}
    readable = format_names()
    form["properties"] |= {
        "image": {
            "description": f"{readable}: one or more files or data URLs, as image or image[].",
            **file,
        },
        "mask": {
            "description": "PNG of the image's size; transparent areas are painted. Not for edit models.",
            **file,
        },
        "control_image": {
            "description": f"{readable} of edges, depth or a pose, which the image follows; for models"
            " with a ControlNet. Without an image, or with an image and a mask to paint the masked area.",
            **file,
        },
    }
    form["anyOf"] = [{"required": ["image"]}, {"required": ["control_image"]}]
    json_body["anyOf"] = [{"required": ["images"]}, {"required": ["control_image"]}]
    # A plain form has no files.
    texts = {name: {"type": "string", "description": "A data URL, or an address."} for name in MAX_NUMBERS}
    plain_form = {**form, "properties": form["properties"] | texts}
    schemas = {_FORM.decode(): form, _PLAIN_FORM.decode(): plain_form, "application/json": json_body}
    return {
        "required": True,
        "content": {media_type: {"schema": schema} for media_type, schema in schemas.items()},
    }


EDIT_BODY_SCHEMA = _body_schema()
