"""Reads ``POST /v1/images/edits``, a multipart form or JSON: checks its fields and decodes its pictures."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile

from deployments.access.url_fetch import fetch_image
from deployments.app_args import AppArgs
from deployments.http.openai_errors import http_error, unsupported_media_type
from deployments.http.openai_types import EditBody, JsonBody
from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_inputs import (
    ImageLimits,
    data_url_bytes,
    format_names,
    read_image,
    read_mask,
)
from zimage_models.pictures import Picture

MAX_IMAGES = 16
"""As in OpenAI's API."""
# Commas and opening brackets in JSON. Its values may take 60 times the memory of their text, but a data URL
# needs only one comma.
_MAX_JSON_MARKS = 100_000
# Clients that send no file, but a data URL, may send a plain form.
_PLAIN_FORM = b"application/x-www-form-urlencoded"
_FORMS = (b"multipart/form-data", _PLAIN_FORM)
_MAX_FIELDS = 64
# Of a plain form's bytes. They take 75 times the memory of their text while they are read; a data URL has one
# for 32 characters.
_MAX_ESCAPES = 200_000
_FETCH_TIMEOUT_S = 20.0
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
        if isinstance(values, dict) and values.get("file_id") is not None:
            raise InvalidRequest(
                "file_id: no files are stored here; send the picture as image_url, a data URL",
                field="file_id",
            )
        return values


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


_Given = Mapping[str, Sequence[UploadFile | str]]
Edit = TypeVar("Edit", bound=EditBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditPictures:
    """The pictures of an edit."""

    images: tuple[Picture, ...]
    mask: Picture | None
    control_image: Picture | None


async def read_edit(
    request: Request, args: AppArgs, decoding: asyncio.Semaphore
) -> tuple[EditBody, EditPictures]:
    """Read an edit; decode and fetch nothing before its other fields are valid.

    Args:
        request: the HTTP request.
        args: the endpoint's limits.
        decoding: limits how many edits are decoded at once; a picture at the limit briefly takes 400 MB.

    Raises:
        ApiError: the media type is not supported.
        RequestValidationError: a field is invalid.
        InvalidRequest: a picture is missing or cannot be used.
    """
    content_type = request.headers.get("content-type", "")
    media_type, options = parse_options_header(content_type)
    # Some of Python's codecs raise errors that Starlette does not expect.
    charset = options.get(b"charset", b"utf-8").lower()
    limits = ImageLimits(max_bytes=args.limits.max_image_bytes, max_pixels=args.limits.max_image_pixels)
    if media_type == b"application/json":
        body, given = await _read_json(request)
        files = await _files(given, args, limits)
    elif media_type in _FORMS and charset == b"utf-8":
        if media_type == _PLAIN_FORM:
            await _check_plain_form(request)
        async with request.form(
            max_files=MAX_IMAGES + 2, max_fields=_MAX_FIELDS, max_part_size=args.limits.max_body_bytes
        ) as form:
            body = _fields(form)
            # Files are read before the form closes them.
            files = await _files(_form_pictures(form), args, limits)
    else:
        raise unsupported_media_type(
            f"{content_type[:80]!r} is neither multipart/form-data in UTF-8 nor application/json"
        )
    async with decoding:
        return body, await asyncio.to_thread(_decode, files, limits)


async def _check_plain_form(request: Request) -> None:
    """Limit the fields of a plain form, as Starlette does those of a multipart one, and its escaped bytes."""
    text = await request.body()
    num_escapes = text.count(b"%")
    if num_escapes > _MAX_ESCAPES:
        raise http_error(
            413, f"body: {num_escapes} escaped bytes; the limit is {_MAX_ESCAPES}: use multipart/form-data"
        )
    num_fields = text.count(b"&") + 1
    if num_fields > _MAX_FIELDS:
        raise InvalidRequest(f"body: {num_fields} fields; the limit is {_MAX_FIELDS}", field="body")


async def _read_json(request: Request) -> tuple[EditBody, _Given]:
    text = await request.body()
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
    return body, {
        "image": [reference.image_url for reference in body.images],
        "mask": [body.mask.image_url] if body.mask else [],
        "control_image": [body.control_image.image_url] if body.control_image else [],
    }


def _form_pictures(form: FormData) -> _Given:
    return {
        "image": [picture for name in _IMAGE_FIELDS for picture in form.getlist(name)],
        "mask": form.getlist("mask"),
        "control_image": form.getlist("control_image"),
    }


async def _files(given: _Given, args: AppArgs, limits: ImageLimits) -> dict[str, list[bytes]]:
    _check_numbers({field: len(values) for field, values in given.items()})
    return {
        field: [await _bytes(value, field, args, limits) for value in values]
        for field, values in given.items()
    }


def _check_numbers(numbers: Mapping[str, int]) -> None:
    """Require an image or a control image; allow one mask and one control image."""
    if not numbers["image"] and not numbers["control_image"]:
        raise InvalidRequest("image: missing", field="image")
    if numbers["mask"] and not numbers["image"]:
        raise InvalidRequest("mask: has no effect without image", field="mask")
    for field in ("mask", "control_image"):
        if numbers[field] > 1:
            raise InvalidRequest(f"{field}: {numbers[field]} given; the limit is 1", field=field)


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


async def _bytes(value: UploadFile | str, field: str, args: AppArgs, limits: ImageLimits) -> bytes:
    max_bytes = limits.max_mask_bytes if field == "mask" else limits.max_bytes
    if isinstance(value, UploadFile):
        # One extra byte shows that the file is too large.
        return await value.read(max_bytes + 1)
    if value[:5].lower() == "data:":
        return data_url_bytes(value, field=field, max_bytes=max_bytes)
    if args.image_urls == "refuse":
        raise InvalidRequest(
            f"{field}: neither a file nor a data URL; URLs are not fetched here", field=field
        )
    return await fetch_image(value, field=field, max_bytes=max_bytes, timeout_s=_FETCH_TIMEOUT_S)


def _decode(files: Mapping[str, Sequence[bytes]], limits: ImageLimits) -> EditPictures:
    decoded: dict[str, list[Picture]] = {"image": [], "control_image": []}
    num_pixels = 0
    for field, pictures in decoded.items():
        for data in files[field]:
            picture = read_image(data, field=field, limits=limits)
            pictures.append(picture)
            num_pixels += picture.width * picture.height
            if num_pixels > limits.max_pixels:
                raise InvalidRequest(f"{field}: more than {limits.max_pixels} pixels in all", field=field)
    images = tuple(decoded["image"])
    masks = [
        read_mask(data, field="mask", limits=limits, size=(images[0].width, images[0].height))
        for data in files["mask"]
    ]
    return EditPictures(
        images=images,
        mask=next(iter(masks), None),
        control_image=next(iter(decoded["control_image"]), None),
    )


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
    schemas = {"multipart/form-data": form, "application/json": json_body}
    return {
        "required": True,
        "content": {media_type: {"schema": schema} for media_type, schema in schemas.items()},
    }


EDIT_BODY_SCHEMA = _body_schema()
