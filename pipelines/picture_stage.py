"""The stage before the engines for tables with images: it fetches and decodes them. Plain tasks of CPU nodes.

One Arrow table in, one out. It knows no engine and no image that is made.
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

from deployments.image_inputs import read_image, read_mask
from pipelines.picture_reader import PictureAccess, PictureReader
from pipelines.storage import Storage
from pipelines.work import REQUEST_COLUMNS
from zimage_models.errors import FetchFailed, InvalidRequest, ZImageError
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import Picture, resize_to
from zimage_models.requests import GENERATION_FIELDS, build_request
from zimage_models.xmp import Ingredient

_ROWS_AT_ONCE = 8
"""Rows whose files are fetched together; pictures are decoded one by one."""
_NUM_THREADS = 16
_PICTURE_COLUMNS = ["reference_images", "mask", "strength"]

_TEXT = pa.string()
_PIXELS = pa.struct(
    [("height", pa.int32()), ("width", pa.int32()), ("sha256", _TEXT), ("pixels", pa.large_binary())]
)
_INGREDIENT = pa.struct(
    [(name, pa.bool_() if name == "has_c2pa" else _TEXT) for name in Ingredient.__dataclass_fields__]
)
_DECODED = {
    "reference_pixels": pa.list_(_PIXELS),
    "mask_pixels": pa.list_(_PIXELS),
    "ingredients": pa.list_(_INGREDIENT),
    "error_class": _TEXT,
    "message": _TEXT,
}
"""Columns in the place of those that say where the pictures are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings:
    """What the picture stage of one run shares."""

    access: PictureAccess
    output: Storage
    folder: str
    """Under the output: pictures that the table itself holds."""
    spec: ModelSpec


Files = Mapping[tuple[str | None, str], bytes | InvalidRequest]
"""What was read, or why it was not, by address (None: in the run's own folder) and sha256."""


class RowFailure(ZImageError):
    """Why a row was given up before it came to an engine."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


def picture_stage(table: pa.Table, settings: PictureSettings) -> pa.Table:
    """Put each row's pictures, fitted to its image, or an error, in the place of their addresses."""
    rows = table.select([*REQUEST_COLUMNS, *_PICTURE_COLUMNS]).to_pylist()
    decoded = [
        _decoded(row, files, settings)
        for some in _batched(rows, _ROWS_AT_ONCE)
        for files in [_fetch(some, settings)]
        for row in some
    ]
    table = table.drop_columns(["reference_images", "mask"])
    for name, type_ in _DECODED.items():
        table = table.append_column(name, pa.array([row.get(name) for row in decoded], type_))
    return table


def is_decoded(table: pa.Table) -> bool:
    """Say whether a table comes from the picture stage."""
    return "reference_pixels" in table.column_names


def read_pictures(table: pa.Table) -> Iterator[dict[str, Any] | RowFailure]:
    """Yield each row's pictures as fields of a request, without copying pixels, or its failure."""
    columns = [
        table[name] for name in ("reference_pixels", "mask_pixels", "strength", "error_class", "message")
    ]
    for images, masks, strength, error_class, message in zip(*columns, strict=True):
        if error_class.is_valid:
            yield RowFailure(error_class.as_py(), message.as_py())
            continue
        yield {
            "reference_images": tuple(_picture(image, channels=3) for image in images),
            "mask": next((_picture(mask, channels=1) for mask in masks), None),
            "strength": strength.as_py(),
        }


def without_pixels(table: pa.Table) -> pa.Table:
    """Drop what only engines need, and the errors, which they hand on."""
    return table.drop_columns(["reference_pixels", "mask_pixels", "error_class", "message"])


def read_ingredients(values: Sequence[Mapping[str, Any]] | None) -> tuple[Ingredient, ...]:
    """Read a value of the column ``ingredients``."""
    return tuple(Ingredient(**value) for value in values or ())


@lru_cache(4)
def _reader(access: PictureAccess) -> PictureReader:
    return PictureReader(access)  # kept, as a client of S3 takes a tenth of a second to make


def _fetch(rows: Sequence[Mapping[str, Any]], settings: PictureSettings) -> Files:
    """Read the files of some rows at once, each once, and compare them with their hashes."""
    reader, limits = _reader(settings.access), settings.access.limits

    def read(place: tuple[str | None, str], field: str, max_bytes: int) -> bytes | InvalidRequest:
        address, sha256 = place
        try:
            if address is None:
                return settings.output.read(f"{settings.folder}/{sha256}")
            data = reader.read(address, field=field, max_bytes=max_bytes)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise FetchFailed(
                    f"{field}: the file is another than when the run was planned; run again", field=field
                )
        except InvalidRequest as error:
            return error
        except OSError as error:  # of the output's own storage
            return FetchFailed(f"{field}: {error}", field=field)
        return data

    wanted = {}
    for row in rows:
        for image in row["reference_images"]:
            wanted[_place(image)] = ("image", limits.max_bytes)
        if row["mask"]:
            wanted.setdefault(_place(row["mask"]), ("mask", limits.max_mask_bytes))
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        files = pool.map(lambda place: read(place, *wanted[place]), wanted)
        return dict(zip(wanted, files, strict=True))


def _place(picture: Mapping[str, Any]) -> tuple[str | None, str]:
    return picture["address"], picture["sha256"]


def _decoded(row: Mapping[str, Any], files: Files, settings: PictureSettings) -> dict[str, Any]:
    try:
        images = [
            read_image(_file(files, place), field="image", limits=settings.access.limits)
            for place in row["reference_images"]
        ]
        references, mask = _in_request(row, images, files, settings)
    except InvalidRequest as error:
        return {"error_class": error.error_class, "message": str(error)}
    return {
        "reference_pixels": [_cell(picture) for picture in references],
        "mask_pixels": [_cell(mask)] if mask else [],
        "ingredients": [asdict(image.ingredient) for image in images],
    }


def _in_request(
    row: Mapping[str, Any], images: Sequence[Picture], files: Files, settings: PictureSettings
) -> tuple[Sequence[Picture], Picture | None]:
    """Bring a row's pictures to the sizes that its request has; a mask is checked now that it has pixels."""
    if settings.spec.variant.max_reference_images:
        # How far they shrink depends on whether a size was given, which only the plan knows; it checked them.
        planned = zip(images, row["reference_images"], strict=True)
        return [resize_to(image, place["height"], place["width"]) for image, place in planned], None
    values = {name: row[name] for name in (*GENERATION_FIELDS, "strength")}
    if images:
        values["reference_images"] = images
    if row["mask"]:
        values["mask"] = read_mask(
            _file(files, row["mask"]),
            field="mask",
            limits=settings.access.limits,
            size=(images[0].width, images[0].height),
        )
    request = build_request(settings.spec, values)
    return request.reference_images, request.mask


def _file(files: Files, picture: Mapping[str, Any]) -> bytes:
    file = files[_place(picture)]
    if isinstance(file, InvalidRequest):
        raise file
    return file


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
