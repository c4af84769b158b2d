"""Exports of a published part: image files by name, and WebDataset shards.

They are derived; the parts remain the data set.
"""

import base64
import datetime
import decimal
import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipelines.dataset.parts import PartFile
from pipelines.storage import Storage

NUM_WRITERS = 16
# Rows held as Python objects at a time: enough to keep the writers busy, and a few 100 MB of large images.
_ROWS_AT_ONCE = 8 * NUM_WRITERS


def export_files(storage: Storage, part: PartFile, table: pa.Table) -> list[str]:
    """Write each image of a part to a file, ``images/`` followed by its ``image.path``.

    Args:
        storage: where the files go.
        part: the part; unused here, but all exports have the same parameters.
        table: the part's rows, with at least the ``image`` column.

    Returns:
        The paths written, in row order.
    """
    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        return [
            path
            for batch in table.select(["image"]).to_batches(max_chunksize=_ROWS_AT_ONCE)
            for path in pool.map(lambda row: _write_image(storage, row["image"]), batch.to_pylist())
        ]


def export_webdataset(storage: Storage, part: PartFile, table: pa.Table) -> list[str]:
    """Write a part as one WebDataset shard, ``webdataset/part-<sha256>.tar``.

    Each row becomes three files named by its ``unit_id``: the image, ``.txt`` with the prompt and ``.json``
    with all other columns (times in ISO 8601, durations in seconds, decimals as text, bytes as base64, NaN
    and infinities as null). The same part gives the same bytes.

    Args:
        storage: where the shard goes.
        part: the part, which names the shard.
        table: the part's rows, with all columns.

    Returns:
        A list with the shard's path.

    Raises:
        ValueError: a ``unit_id`` that a shard cannot hold.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as shard:
        for row in _rows(table):
            for name, data in _sample(row):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                shard.addfile(entry, io.BytesIO(data))
    path = f"webdataset/{PurePosixPath(part.path).stem}.tar"
    storage.write(path, buffer.getbuffer())
    return [path]


EXPORTS: dict[str, Callable[[Storage, PartFile, pa.Table], list[str]]] = {
    "files": export_files,
    "webdataset": export_webdataset,
}
"""Exports by the names that users give."""


def _write_image(storage: Storage, image: dict[str, Any]) -> str:
    path = f"images/{image['path']}"
    storage.write(path, image["bytes"])
    return path


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _sample(row: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    # WebDataset splits a file name at its first dot into sample and extension.
    name = row["unit_id"]
    if "." in name or "/" in name:
        raise ValueError(f"unit_id {name!r} has a dot or a slash, which a WebDataset key may not contain")
    image = row.pop("image")
    yield f"{name}{PurePosixPath(image['path']).suffix}", image["bytes"]
    yield f"{name}.json", json.dumps(_json_safe(row), ensure_ascii=False, allow_nan=False).encode()
    yield f"{name}.txt", (row["prompt"] or "").encode()


def _json_safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json_safe(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_json_safe(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value
