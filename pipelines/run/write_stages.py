"""The stages after the engines: encode images, write parts. They are plain tasks, so engines never wait.

One Arrow table in, one out. They know nothing about models.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.actor import ActorHandle

from pipelines.dataset.layout import ERRORS_FOLDER, STAGING_FOLDER
from pipelines.dataset.parts import rows_where, write_part
from pipelines.part_schema import ERROR_SCHEMA, part_schema
from pipelines.run.picture_stage import read_ingredients
from pipelines.storage import Storage
from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_codec import EMBEDDED_FIELDS, Encoding, encode_image

_PARAMETERS = (*EMBEDDED_FIELDS, "unit_id")
_OTHER_COLUMNS = ("file_name", "engine_precision", "error_class", "message")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """Settings that the writing stages of one run share."""

    output: Storage
    encoding: Encoding
    model: str
    weights_sha256: str
    passthrough: pa.Schema
    monitor: "ActorHandle[Any]"


def encode_stage(table: pa.Table, settings: StageSettings) -> pa.Table:
    """Encode pixels as image files; rows with an error pass through, rows that can't be encoded get one."""
    constant = {"model": settings.model, "weights_sha256": settings.weights_sha256}
    # A table without pictures has neither strength nor ingredients.
    parameters_of = [name for name in _PARAMETERS if name in table.column_names]
    columns = [*parameters_of, *_OTHER_COLUMNS, "ingredients"]
    rows = table.select([name for name in columns if name in table.column_names]).to_pylist()
    images: list[dict[str, Any] | None] = [None] * len(rows)
    digests: list[str | None] = [None] * len(rows)
    for index, (row, pixels_HWC) in enumerate(zip(rows, _pixels(table), strict=True)):
        if row["error_class"] is not None:
            continue
        parameters = {name: row[name] for name in parameters_of} | constant
        parameters["precision"] = row["engine_precision"]
        ingredients = read_ingredients(row.get("ingredients"))
        try:
            data = encode_image(pixels_HWC, settings.encoding, parameters=parameters, ingredients=ingredients)
        except InvalidRequest as error:
            row["error_class"], row["message"] = error.error_class, str(error)
            continue
        images[index] = {"bytes": data, "path": row["file_name"]}
        digests[index] = hashlib.sha256(data).hexdigest()
    schema = part_schema(settings.passthrough)
    table = table.drop_columns(["pixels", "error_class", "message"])
    added = {
        "image": pa.array(images, schema.field("image").type),
        "image_sha256": pa.array(digests, pa.string()),
        "error_class": pa.array([row["error_class"] for row in rows], pa.string()),
        "message": pa.array([row["message"] for row in rows], pa.string()),
    }
    for name, column in added.items():
        table = table.append_column(name, column)
    return table


def _pixels(table: pa.Table) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield each row's pixels without copying them: (H, W, 3), empty for a failed row."""
    heights, widths = (iter(table[name].to_pylist()) for name in ("height", "width"))
    for chunk in table["pixels"].chunks:
        _, offsets, values = (memoryview(buffer or b"") for buffer in chunk.buffers())
        bounds = np.frombuffer(offsets, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        flat = np.frombuffer(values, dtype=np.uint8)
        for start, end in itertools.pairwise(bounds.tolist()):
            height, width = int(next(heights) or 0), int(next(widths) or 0)
            yield flat[start:end].reshape((height, width, 3) if end > start else (0, 0, 3))


def write_stage(table: pa.Table, settings: StageSettings) -> pa.Table:
    """Commit a block's images as one part and its errors as another; return one row per file."""
    schema = part_schema(settings.passthrough)
    failed = table["error_class"].is_valid().to_numpy()
    written = []
    made = rows_where(table, ~failed)
    if made.num_rows:
        for name in ("model", "weights_sha256"):
            made = made.append_column(name, pa.array([getattr(settings, name)] * made.num_rows, pa.string()))
        made = pa.Table.from_arrays([made[field.name].cast(field.type) for field in schema], schema=schema)
        written.append(asdict(write_part(settings.output, STAGING_FOLDER, made)))
    errors = rows_where(table.select(ERROR_SCHEMA.names), failed)
    if errors.num_rows:
        errors = errors.cast(ERROR_SCHEMA)
        written.append(asdict(write_part(settings.output, ERRORS_FOLDER, errors)))
    # Waited for, so that the run's last counts, and its speed, hold every block.
    ray.get(settings.monitor.add.remote(written=table.num_rows))
    return pa.Table.from_pylist(written)
