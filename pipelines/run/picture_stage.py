"""The stage before the engines, for tables with pictures: it fetches and decodes the pictures.

It runs as plain tasks on CPU nodes. One Arrow table in, one out. It knows nothing about engines or generated
images.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.picture_reader import PictureAccess, PictureReader
from pipelines.storage import Storage
from pipelines.work_table import PICTURE_WORK_FIELDS, REQUEST_COLUMNS
from zimage_models.errors import FetchFailed, InvalidRequest, ZImageError
from zimage_models.field_spec import FieldKind
from zimage_models.image_files.image_inputs import read_image, read_mask
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import Ingredient, Picture, resize_to
from zimage_models.request_fields import EDIT_SETTINGS, GENERATION_FIELDS, REQUEST_FIELDS, in_outer_names
from zimage_models.requests import build_request

_ROWS_AT_ONCE = 8
"""Rows whose files are fetched together; pictures are decoded one by one."""
_NUM_THREADS = 16
_PLACES = [field.name for field in PICTURE_WORK_FIELDS]
_PIXEL_COLUMNS = ["reference_pixels", "mask_pixels", "control_pixels"]

_TEXT = pa.string()
_PIXELS = pa.struct(
    [("height", pa.int32()), ("width", pa.int32()), ("sha256", _TEXT), ("pixels", pa.large_binary())]
)
_INGREDIENT = pa.struct(
    [(name, pa.bool_() if name == "has_c2pa" else _TEXT) for name in Ingredient.__dataclass_fields__]
)
_DECODED = {
    **dict.fromkeys(_PIXEL_COLUMNS, pa.list_(_PIXELS)),
    "ingredients": pa.list_(_INGREDIENT),
    "error_class": _TEXT,
    "message": _TEXT,
}
"""Columns that replace those with the pictures' addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings:
    """Settings that the picture stage of one run shares."""

    access: PictureAccess
    output: Storage
    folder: str
    """Folder under the output for pictures that the table itself holds."""
    spec: ModelSpec


Place = tuple[str, str | None, str]
"""A picture's field, its address (None: in the run's own folder) and the sha256 of its file."""
Files = Mapping[Place, bytes | InvalidRequest]
"""The content of each file, or why it could not be read."""


class RowFailure(ZImageError):
    """Why a row failed before it reached an engine."""

    details = ("error_class",)

    def __init__(self, message: str, *, error_class: str) -> None:
        super().__init__(message)
        self.error_class = error_class


def picture_stage(table: pa.Table, settings: PictureSettings) -> pa.Table:
    """Replace the addresses of each row's pictures with the pictures, fitted to its image, or an error."""
    rows = table.select([*REQUEST_COLUMNS, *EDIT_SETTINGS, *_PLACES]).to_pylist()
    decoded = [
        _decoded(row, files, settings)
        for some in _batched(rows, _ROWS_AT_ONCE)
        for files in [_fetch(some, settings)]
        for row in some
    ]
    table = table.drop_columns(_PLACES)
    for name, type_ in _DECODED.items():
        table = table.append_column(name, pa.array([row.get(name) for row in decoded], type_))
    return table


def is_decoded(table: pa.Table) -> bool:
    """Return whether a table comes from the picture stage."""
    return "reference_pixels" in table.column_names


def read_pictures(table: pa.Table) -> Iterator[dict[str, Any] | RowFailure]:
    """Yield each row's pictures as fields of a request, without copying pixels, or its failure."""
    columns = [table[name] for name in (*_PIXEL_COLUMNS, *EDIT_SETTINGS, "error_class", "message")]
    for images, masks, controls, *settings, error_class, message in zip(*columns, strict=True):
        if error_class.is_valid:
            yield RowFailure(message.as_py(), error_class=error_class.as_py())
            continue
        yield {
            "reference_images": tuple(_picture(image, channels=3) for image in images),
            "mask": next((_picture(mask, channels=1) for mask in masks), None),
            "control_image": next((_picture(control, channels=3) for control in controls), None),
            **{name: value.as_py() for name, value in zip(EDIT_SETTINGS, settings, strict=True)},
        }


def without_pixels(table: pa.Table) -> pa.Table:
    """Drop the pixels, which only engines need, and the errors, which the engines' stage adds again."""
    return table.drop_columns([*_PIXEL_COLUMNS, "error_class", "message"])


def read_ingredients(values: Sequence[Mapping[str, Any]] | None) -> tuple[Ingredient, ...]:
    """Convert a value of the column ``ingredients``."""
    return tuple(Ingredient(**value) for value in values or ())


@lru_cache(4)
def _reader(access: PictureAccess) -> PictureReader:
    return PictureReader(access)  # cached: an S3 client takes a tenth of a second to create


def _fetch(rows: Sequence[Mapping[str, Any]], settings: PictureSettings) -> Files:
    """Read the files of some rows at once, each once per field, and check their hashes."""
    reader, limits = _reader(settings.access), settings.access.limits

    def read(place: Place) -> bytes | InvalidRequest:
        field, address, sha256 = place
        max_bytes = limits.max_mask_bytes if field == "mask" else limits.max_bytes
        try:
            if address is None:
                return settings.output.read(f"{settings.folder}/{sha256}")
            data = reader.read(address, field=field, max_bytes=max_bytes)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise FetchFailed(
                    f"{field}: the file has changed since the run was planned; run again", field=field
                )
        except InvalidRequest as error:
            return error
        except OSError as error:  # from the output's storage
            return FetchFailed(f"{field}: {error}", field=field)
        return data

    wanted = {place for row in rows for place in _places(row)}
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return dict(zip(wanted, pool.map(read, wanted), strict=True))


def _places(row: Mapping[str, Any]) -> Iterator[Place]:
    for name in _PLACES:
        field = REQUEST_FIELDS[name]
        pictures = row[name] if field.kind is FieldKind.PICTURES else [row[name]]
        yield from (
            (field.outer_name, picture["address"], picture["sha256"]) for picture in pictures if picture
        )


def _decoded(row: Mapping[str, Any], files: Files, settings: PictureSettings) -> dict[str, Any]:
    try:
        references, mask, control = _in_request(row, files, settings)
    except InvalidRequest as error:
        return {"error_class": error.error_class, "message": in_outer_names(str(error))}
    made_from = [*references, *([control] if control else [])]
    return {
        "reference_pixels": [_cell(picture) for picture in references],
        "mask_pixels": [_cell(mask)] if mask else [],
        "control_pixels": [_cell(control)] if control else [],
        "ingredients": [asdict(picture.ingredient) for picture in made_from],
    }


def _in_request(
    row: Mapping[str, Any], files: Files, settings: PictureSettings
) -> tuple[Sequence[Picture], Picture | None, Picture | None]:
    """Return a row's images, mask and control image at the sizes of its request."""
    limits = settings.access.limits
    found: dict[str, list[bytes]] = {}
    for place in _places(row):
        if isinstance(file := files[place], InvalidRequest):
            raise file
        found.setdefault(place[0], []).append(file)
    images = [read_image(file, field="image", limits=limits) for file in found.get("image", ())]
    if settings.spec.variant.max_reference_images:
        # Their sizes depend on whether a size was given, which only the plan knows; it has checked them.
        planned = zip(images, row["reference_images"], strict=True)
        return [resize_to(image, place["height"], place["width"]) for image, place in planned], None, None
    values = {name: row[name] for name in (*GENERATION_FIELDS, *EDIT_SETTINGS)} | {"reference_images": images}
    for file in found.get("mask", ()):
        size = (images[0].width, images[0].height)
        values["mask"] = read_mask(file, field="mask", limits=limits, size=size)
    for file in found.get("control_image", ()):
        values["control_image"] = read_image(file, field="control_image", limits=limits)
    # This checks the mask, which has pixels only now.
    request = build_request(settings.spec, values)
    return request.reference_images, request.mask, request.control_image


def _cell(picture: Picture) -> dict[str, Any]:
    return {
        "height": picture.height,
        "width": picture.width,
        "sha256": picture.sha256,
        "pixels": picture.pixels.tobytes(),
    }


def _picture(cell: Any, *, channels: int) -> Picture:
    height, width = cell["height"].as_py(), cell["width"].as_py()
    pixels = np.frombuffer(cell["pixels"].as_buffer(), np.uint8)
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Picture(pixels=pixels.reshape(shape), sha256=cell["sha256"].as_py())


def _batched(rows: Iterable[dict[str, Any]], number: int) -> Iterator[list[dict[str, Any]]]:
    rows = iter(rows)
    while some := list(itertools.islice(rows, number)):
        yield some
