"""Reads the multipart form of ``POST /v1/images/edits``: checks its fields and decodes its pictures."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile

from deployments.access.url_fetch import fetch_image
from deployments.app_args import AppArgs
from deployments.http.openai_errors import unsupported_media_type
from deployments.http.openai_types import EditBody
from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_inputs import ImageLimits, data_url_bytes, read_image, read_mask
from zimage_models.pictures import Picture

MAX_IMAGES = 16
_FETCH_TIMEOUT_S = 20.0
_PICTURE_FIELDS = ("image", "image[]", "mask", "control_image")


@dataclass(frozen=True, slots=True, kw_only=True)
class EditPictures:
    """The pictures of an edit."""

    images: tuple[Picture, ...]
    mask: Picture | None
    control_image: Picture | None


async def read_edit_form(
    request: Request, args: AppArgs, decoding: asyncio.Semaphore
) -> tuple[EditBody, EditPictures]:
    """Read an edit's form; decode and fetch nothing before its other fields are valid.

    Args:
        request: the HTTP request.
        args: the endpoint's limits.
        decoding: limits how many forms are decoded at once; a picture at the limit briefly takes 400 MB.

    Raises:
        ApiError: the media type is not supported.
        RequestValidationError: a field is invalid.
        InvalidRequest: a picture is missing or cannot be used.
    """
    content_type = request.headers.get("content-type", "")
    media_type, options = parse_options_header(content_type)
    # Some of Python's codecs raise errors that Starlette does not expect.
    charset = options.get(b"charset", b"utf-8").lower()
    if media_type != b"multipart/form-data" or charset != b"utf-8":
        raise unsupported_media_type(f"{content_type[:80]!r} is not multipart/form-data in UTF-8")
    async with request.form(
        max_files=MAX_IMAGES + 2, max_fields=64, max_part_size=args.limits.max_body_bytes
    ) as form:
        body = _fields(form)
        given = {
            "image": [*form.getlist("image"), *form.getlist("image[]")],
            "mask": form.getlist("mask"),
            "control_image": form.getlist("control_image"),
        }
        _check_numbers({field: len(values) for field, values in given.items()})
        limits = ImageLimits(max_bytes=args.limits.max_image_bytes, max_pixels=args.limits.max_image_pixels)
        files = {
            field: [await _bytes(value, field, args, limits) for value in values]
            for field, values in given.items()
        }
    async with decoding:
        return body, await asyncio.to_thread(_decode, files, limits)


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
    try:
        return EditBody.model_validate(values)
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


def _form_schema() -> dict[str, Any]:
    """Build the form's OpenAPI schema: the body's fields and the pictures."""
    schema = EditBody.model_json_schema()
    file = {"type": "string", "format": "binary"}
    schema["properties"] |= {
        "image": {
            "description": "PNG, JPEG or WebP: one or more files or data URLs, as image or image[].",
            **file,
        },
        "mask": {
            "description": "PNG of the image's size; transparent areas are painted. Not for edit models.",
            **file,
        },
        "control_image": {
            "description": "PNG, JPEG or WebP of edges, depth or a pose, which the image follows; for models"
            " with a ControlNet. Without an image, or with an image and a mask to paint the masked area.",
            **file,
        },
    }
    schema["anyOf"] = [{"required": ["image"]}, {"required": ["control_image"]}]
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


EDIT_FORM_SCHEMA = _form_schema()
