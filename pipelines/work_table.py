"""The work table, with one row per image to make. It knows nothing about Ray."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.parquet_columns import repeating_columns
from pipelines.part_schema import arrow_field, made_from_field
from pipelines.storage import Storage
from zimage_models.field_spec import FieldKind
from zimage_models.request_fields import EDIT_FIELDS, GENERATION_FIELDS, REQUEST_FIELDS
from zimage_models.requests import ImageRequest, Priority

WORK_FIELDS: "tuple[pa.Field[Any], ...]" = (
    pa.field("unit_id", pa.string()),
    pa.field("todo", pa.bool_()),
    pa.field("key", pa.string()),
    pa.field("variant", pa.int32()),
    pa.field("row", pa.int64()),
    *(arrow_field(REQUEST_FIELDS[name]) for name in GENERATION_FIELDS),
    pa.field("step_schedule", pa.list_(pa.int32())),
    pa.field("file_name", pa.string()),
    pa.field("row_digest", pa.string()),
)
"""Columns of the work table, before the passed-through ones."""

_PICTURE_AT = pa.struct(
    [
        pa.field("address", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
    ]
)
PICTURE_WORK_FIELDS: "tuple[pa.Field[Any], ...]" = tuple(
    pa.field(field.name, pa.list_(_PICTURE_AT) if field.kind is FieldKind.PICTURES else _PICTURE_AT)
    for field in REQUEST_FIELDS.values()
    if field.is_picture
)
"""Further columns for a table with pictures: each picture's address (null: in the run's own folder), the
sha256 of its file, and its size in the request."""

MADE_FROM_FIELDS: "tuple[pa.Field[Any], ...]" = tuple(
    made_from_field(REQUEST_FIELDS[name]) for name in EDIT_FIELDS
)
"""Columns that a table with pictures passes through in addition to its own: what an image was made from."""

QUALITY_FIELDS: "tuple[pa.Field[Any], ...]" = (
    arrow_field(REQUEST_FIELDS["quality_mode"]),
    pa.field("num_computed_steps", pa.int32()),
)
"""Columns that a run with quality modes passes through in addition to its table's: how images were computed.
Other data sets do without them, as a new column of every part would end the mixing of old and new parts."""

STAGE_COLUMNS = (
    *("pixels", "prompt_truncated", "engine_precision", "error_class", "message", "attempts"),
    *("reference_pixels", "mask_pixels", "control_pixels", "ingredients"),
)
"""Columns that the stages of a run add to work rows on their way to a part."""

_CACHED_FILES = 8
_WORK_FILE_ROWS = 65_536
_WORK_FILE_BYTES = 64 * 2**20

RUN_ID_TIME = "%Y%m%dT%H%M%SZ"
"""Format of the time that a run's ID starts with: when it was planned, in UTC."""

REQUEST_COLUMNS = ["unit_id", *GENERATION_FIELDS, "step_schedule"]
"""Columns of a work row that an engine needs."""


def new_run_id() -> str:
    """Return a run ID; IDs sort by time."""
    return f"{datetime.now(UTC).strftime(RUN_ID_TIME)}-{secrets.token_hex(2)}"


def work_schema(passthrough: pa.Schema) -> pa.Schema:
    """Return the work table's schema for a table with these passed-through columns."""
    names = {field.name for field in WORK_FIELDS}
    return pa.schema(
        [
            *WORK_FIELDS,
            *(PICTURE_WORK_FIELDS if has_pictures(passthrough) else ()),
            # What the mode of an image is, every work row says.
            *(field for field in passthrough if field.name not in names),
        ]
    )


def has_pictures(passthrough: pa.Schema) -> bool:
    """Return whether the passed-through columns are those of a table with pictures."""
    return all(field in passthrough for field in MADE_FROM_FIELDS)


def to_request(row: Mapping[str, Any]) -> ImageRequest:
    """Convert a work row, with any pictures put into it, back to its request."""
    names = (*GENERATION_FIELDS, *(name for name in EDIT_FIELDS if name in row))
    schedule = row["step_schedule"]
    return ImageRequest(
        **{name: row[name] for name in names},
        step_schedule=None if schedule is None else tuple(schedule),
        priority=Priority.BATCH,
    )


def request_columns(requests: Sequence[ImageRequest]) -> dict[str, list[Any]]:
    """Return the columns of requests in the work table, without their pictures."""
    return {
        name: [getattr(request, name) for request in requests]
        for name in (*GENERATION_FIELDS, "step_schedule", "num_computed_steps")
    }


def read_work(output: Storage, work_files: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Read some columns of the work table.

    Raises:
        OSError: a file is missing or damaged, or can't be reached.
    """
    return pa.concat_tables(
        [_read(output, path, columns) for path in work_files] or [_NO_WORK.select(columns)]
    )


class WorkWriter:
    """Writer of a run's work table, in files of bounded size."""

    def __init__(self, output: Storage, run_id: str) -> None:
        self._output = output
        self._run_id = run_id
        self._files: list[str] = []
        self._pending: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Append rows."""
        self._pending.append(rows)
        if (
            sum(table.num_rows for table in self._pending) >= _WORK_FILE_ROWS
            or sum(table.nbytes for table in self._pending) >= _WORK_FILE_BYTES
        ):
            self._write()

    def finish(self) -> tuple[str, ...]:
        """Write the remaining rows, and return the files' paths relative to the output."""
        if self._pending:
            self._write()
        return tuple(self._files)

    def _write(self) -> None:
        rows = pa.concat_tables(self._pending)
        sink = pa.BufferOutputStream()
        repeating: Any = repeating_columns(rows.schema)  # the stubs know only bool
        pq.write_table(
            rows,
            sink,
            compression=dict.fromkeys(repeating, "zstd"),  # vectors hardly get smaller
            use_dictionary=repeating,
            write_statistics=repeating,
        )
        path = f"_runs/{self._run_id}/work/{len(self._files):05d}.parquet"
        self._output.write(path, memoryview(sink.getvalue()))
        self._files.append(path)
        self._pending = []


class WorkRows:
    """Random access to the rows of the work table; only a few of its files are in memory at a time.

    Args:
        output: storage of the work files.
        work_files: the whole work table.
        columns: columns to read.
    """

    def __init__(self, output: Storage, work_files: Sequence[str], columns: Sequence[str]) -> None:
        filesystem, root = output.arrow()
        footers = [pq.read_metadata(f"{root}/{path}", filesystem=filesystem) for path in work_files]
        self._starts = np.cumsum([0, *(footer.num_rows for footer in footers)])
        # A part holds neighbouring rows, so the files are needed one after another.
        self._file = lru_cache(_CACHED_FILES)(lambda number: _read(output, work_files[number], columns))

    def take(self, places: npt.NDArray[np.int64]) -> pa.Table:
        """Return the rows at these positions (at least one), in that order."""
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        by_file = np.argsort(numbers, kind="stable")
        tables = [
            self._file(number).take(places[numbers == number] - self._starts[number])
            for number in np.unique(numbers)
        ]
        return pa.concat_tables(tables).take(np.argsort(by_file))


_NO_WORK = pa.schema(WORK_FIELDS).empty_table()


def _read(output: Storage, path: str, columns: Sequence[str]) -> pa.Table:
    filesystem, root = output.arrow()
    return pq.read_table(f"{root}/{path}", filesystem=filesystem, columns=list(columns))
