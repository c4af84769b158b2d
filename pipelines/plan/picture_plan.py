"""What a plan needs to know about the pictures of a table: their sizes and the hashes of their files."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipelines.picture_reader import PictureReader
from pipelines.plan.picture_cells import NamedPicture, read_cell
from pipelines.storage import Storage
from pipelines.unit_ids import SeenHashes
from pipelines.work_table import MADE_FROM_FIELDS, PICTURE_WORK_FIELDS
from zimage_models.errors import InvalidRequest
from zimage_models.field_spec import FieldKind
from zimage_models.image_files.image_inputs import read_outline
from zimage_models.pictures import Picture
from zimage_models.request_fields import EDIT_FIELDS, REQUEST_FIELDS
from zimage_models.requests import ImageRequest

_NUM_THREADS = 16
"""Files read at once, each whole; at the limit of 50 MiB each, they take 0.8 GB."""
_CACHED_ADDRESSES = 65_536
"""Addresses that are not read again if a later row names them."""
_INNER_NAMES = {field.outer_name: field.name for field in REQUEST_FIELDS.values() if field.is_picture}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPicture:
    """A picture before its pixels are decoded."""

    outline: Picture
    """Stand-in of the same size, with the sha256 of the file."""
    source: NamedPicture
    """The file's content, if the table holds it, else its address."""

    def place(self, in_request: Picture) -> dict[str, Any]:
        """Return the picture's value in the work table."""
        return {
            "address": self.source if isinstance(self.source, str) else None,
            "sha256": self.outline.sha256,
            "height": in_request.height,
            "width": in_request.width,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPictures:
    """The pictures of one row."""

    by_field: Mapping[str, Sequence[PlannedPicture]] = dataclasses.field(default_factory=dict)
    """Pictures by field name in the request; fields without pictures are left out."""

    def all(self) -> list[PlannedPicture]:
        """Return the pictures of all fields."""
        return [picture for pictures in self.by_field.values() for picture in pictures]

    def outlines(self) -> dict[str, Any]:
        """Return the stand-ins as fields of a request."""
        return {
            name: [picture.outline for picture in pictures] if _takes_several(name) else pictures[0].outline
            for name, pictures in self.by_field.items()
        }


class PicturePlanner:
    """Looks up the pictures of many rows at once.

    Args:
        reader: reads the pictures that the rows name.
        columns: columns of pictures, by field (:attr:`.ColumnMap.pictures`).
    """

    def __init__(self, reader: PictureReader, columns: Mapping[str, str]) -> None:
        self._reader = reader
        self._columns = dict(columns)
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="zimage-pictures")
        self._look_at = lru_cache(_CACHED_ADDRESSES)(self._outline_at)
        self._stored = SeenHashes()

    def __enter__(self) -> "PicturePlanner":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def look_up(self, rows: Sequence[Mapping[str, Any]]) -> "list[PlannedPictures | InvalidRequest]":
        """Find each row's pictures, or an error; each file is read once."""
        cells = [self._cells(row) for row in rows]
        named = {
            (source, field)
            for cell in cells
            if not isinstance(cell, InvalidRequest)
            for field, sources in cell.items()
            for source in sources
        }
        outlines = dict(zip(named, self._pool.map(lambda key: self._outline(*key), named), strict=True))
        return [cell if isinstance(cell, InvalidRequest) else _planned(cell, outlines) for cell in cells]

    def store(self, rows: Sequence[PlannedPictures], output: Storage, folder: str) -> None:
        """Write the files that the table itself holds to the run's folder, each once."""
        files = {
            picture.outline.sha256: picture.source
            for pictures in rows
            for picture in pictures.all()
            if isinstance(picture.source, bytes) and self._stored.add(picture.outline.sha256)
        }
        list(self._pool.map(lambda sha256: output.write(f"{folder}/{sha256}", files[sha256]), files))

    def _cells(self, row: Mapping[str, Any]) -> dict[str, list[NamedPicture]] | InvalidRequest:
        try:
            cells = {
                field: read_cell(row[column], field=field, max_bytes=self._max_bytes(field))
                for field, column in self._columns.items()
            }
            for field, sources in cells.items():
                if len(sources) > 1 and not _takes_several(_INNER_NAMES[field]):
                    raise InvalidRequest(f"{field}: {len(sources)} given; the limit is 1", field=field)
        except InvalidRequest as error:
            return error
        return cells

    def _max_bytes(self, field: str) -> int:
        limits = self._reader.limits
        return limits.max_mask_bytes if field == "mask" else limits.max_bytes

    def _outline(self, source: NamedPicture, field: str) -> Picture | InvalidRequest:
        if isinstance(source, str):
            return self._look_at(source, field)
        try:
            return read_outline(source, field=field, limits=self._reader.limits, is_mask=field == "mask")
        except InvalidRequest as error:
            return error

    def _outline_at(self, address: str, field: str) -> Picture | InvalidRequest:
        try:
            data = self._reader.read(address, field=field, max_bytes=self._max_bytes(field))
        except InvalidRequest as error:
            return error
        return self._outline(data, field)


def picture_folder(run_id: str) -> str:
    """Return a run's folder for pictures that its table holds, each named by the sha256 of its file."""
    return f"_runs/{run_id}/pictures"


def picture_columns(units: Sequence[tuple[PlannedPictures, ImageRequest]]) -> dict[str, list[Any]]:
    """Build the columns that record where each unit's pictures are and what the image is made from."""
    columns: dict[str, list[Any]] = {field.name: [] for field in (*PICTURE_WORK_FIELDS, *MADE_FROM_FIELDS)}
    for pictures, request in units:
        for name in EDIT_FIELDS:
            field, value = REQUEST_FIELDS[name], getattr(request, name)
            if not field.is_picture:
                columns[name].append(value)
                continue
            in_request = value if _takes_several(name) else [value] if value else []
            planned = pictures.by_field.get(name, ())
            places = [one.place(picture) for one, picture in zip(planned, in_request, strict=True)]
            hashes = [place["sha256"] for place in places]
            for column, values in ((name, places), (field.hash_column, hashes)):
                columns[column].append(values if _takes_several(name) else next(iter(values), None))
    return columns


def _planned(
    cell: Mapping[str, Sequence[NamedPicture]],
    outlines: Mapping[tuple[NamedPicture, str], Picture | InvalidRequest],
) -> PlannedPictures | InvalidRequest:
    found: dict[str, list[PlannedPicture]] = {}
    for field, sources in cell.items():
        for source in sources:
            outline = outlines[source, field]
            if isinstance(outline, InvalidRequest):
                return outline
            found.setdefault(field, []).append(PlannedPicture(outline=outline, source=source))
    return PlannedPictures(by_field={_INNER_NAMES[field]: pictures for field, pictures in found.items()})


def _takes_several(name: str) -> bool:
    return REQUEST_FIELDS[name].kind is FieldKind.PICTURES
