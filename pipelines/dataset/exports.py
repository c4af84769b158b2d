"""Exports of a part: image files by name, and WebDataset shards.

They are derived; the parts remain the data set.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipelines.dataset.json_values import json_values
from pipelines.dataset.parts import PartFile
from pipelines.storage import Storage

IMAGES_FOLDER = "images"
SHARDS_FOLDER = "webdataset"
NUM_WRITERS = 16
# Rows held as Python objects at a time: enough to keep the writers busy, and a few 100 MB of large images.
_ROWS_AT_ONCE = 8 * NUM_WRITERS


def export_files(storage: Storage, table: pa.Table) -> list[str]:
    """Write each image of a part to a file, ``images/`` followed by its ``image.path``.

    Args:
        storage: where the files go.
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


def export_webdataset(storage: Storage, part: PartFile, table: pa.Table) -> str:
    """Write a part as one WebDataset shard, ``webdataset/part-<sha256>.tar``.

    Each row becomes three files named by its ``unit_id``: the image, ``.txt`` with the prompt and ``.json``
    with all other columns, as :func:`json_values` writes them. The same part gives the same bytes.

    Args:
        storage: where the shard goes.
        part: the part, which names the shard.
        table: the part's rows, with all columns.

    Returns:
        The shard's path.

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
    path = shard_path(part.path)
    storage.write(path, buffer.getbuffer())
    return path


def image_path(name: str) -> str:
    """Return the path of the file of an image, by its ``image.path``."""
    return f"{IMAGES_FOLDER}/{name}"


def shard_path(part: str) -> str:
    """Return the path of the shard of a part, by the part's path."""
    return f"{SHARDS_FOLDER}/{PurePosixPath(part).stem}.tar"


def _write_image(storage: Storage, image: dict[str, Any]) -> str:
    path = image_path(image["path"])
    storage.write(path, image["bytes"])
    return path


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        images = batch["image"].to_pylist()
        others = batch.drop_columns(["image"])
        columns = [json_values(column) for column in others.columns]
        for image, cells in zip(images, zip(*columns, strict=True), strict=True):
            yield dict(zip(others.schema.names, cells, strict=True)) | {"image": image}


def _sample(row: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    # WebDataset splits a file name at its first dot into sample and extension.
    name = row["unit_id"]
    if "." in name or "/" in name:
        raise ValueError(f"unit_id {name!r} has a dot or a slash, which a WebDataset key may not contain")
    image = row.pop("image")
    yield f"{name}{PurePosixPath(image['path']).suffix}", image["bytes"]
    yield f"{name}.json", json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    yield f"{name}.txt", (row["prompt"] or "").encode()
