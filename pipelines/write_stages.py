"""The stages after the engines: encode images, write parts. Plain tasks, so an engine never waits for either.

One Arrow table in, one out. They know no model.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.actor import ActorHandle

from pipelines.ledger import DATA_FOLDER, ERRORS_FOLDER
from pipelines.parts import ERROR_SCHEMA, part_schema, write_part
from pipelines.storage import Storage
from zimage_models.image_codec import Encoding, encode_image

_PARAMETERS = (
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "unit_id",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """What the writing stages of one run share."""

    output: Storage
    encoding: Encoding
    model: str
    weights_sha256: str
    passthrough: pa.Schema
    monitor: ActorHandle


def encode_stage(table: pa.Table, settings: StageSettings) -> pa.Table:
    """Turn pixels into image files; rows with an error pass through."""
    constant = {"model": settings.model, "weights_sha256": settings.weights_sha256}
    rows = table.select([*_PARAMETERS, "file_name"]).to_pylist()
    images: list[dict[str, Any] | None] = []
    digests: list[str | None] = []
    for row, pixels in zip(rows, table["pixels"], strict=True):
        if not pixels.is_valid:
            images.append(None)
            digests.append(None)
            continue
        file_name = row.pop("file_name")
        pixels_HWC = np.frombuffer(pixels.as_buffer(), dtype=np.uint8)
        pixels_HWC = pixels_HWC.reshape(row["height"], row["width"], 3)
        data = encode_image(pixels_HWC, settings.encoding, parameters=row | constant)
        images.append({"bytes": data, "path": file_name})
        digests.append(hashlib.sha256(data).hexdigest())
    schema = part_schema(settings.passthrough)
    table = table.drop_columns(["pixels"])
    table = table.append_column("image", pa.array(images, schema.field("image").type))
    return table.append_column("image_sha256", pa.array(digests, pa.string()))


def write_stage(table: pa.Table, settings: StageSettings) -> pa.Table:
    """Commit a block: its images as one part, its errors as another; gives one row per file."""
    schema = part_schema(settings.passthrough)
    failed = table["error_class"].is_valid()
    written = []
    made = table.filter(pc.invert(failed))
    if made.num_rows:
        for name in ("model", "weights_sha256"):
            made = made.append_column(name, pa.array([getattr(settings, name)] * made.num_rows, pa.string()))
        made = pa.Table.from_arrays([made[field.name].cast(field.type) for field in schema], schema=schema)
        written.append(asdict(write_part(settings.output, DATA_FOLDER, made)) | {"is_error": False})
    errors = table.filter(failed)
    if errors.num_rows:
        errors = errors.select(ERROR_SCHEMA.names).cast(ERROR_SCHEMA)
        written.append(asdict(write_part(settings.output, ERRORS_FOLDER, errors)) | {"is_error": True})
    settings.monitor.add.remote(written=table.num_rows)
    return pa.Table.from_pylist(written)
