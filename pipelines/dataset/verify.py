"""Check a published data set against its manifest and its plan, byte by byte and image by image."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.dataset.layout import ERROR_PARTS, PartPlaces
from pipelines.dataset.manifest import RunManifest
from pipelines.dataset.parts import PartFile
from pipelines.storage import Storage
from pipelines.unit_ids import UnitIndex
from pipelines.work_table import read_work
from zimage_models.image_files.image_codec import decode_image

_NUM_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a check found; the data set is sound if there are no problems."""

    num_parts: int
    num_images: int
    num_failed: int
    problems: tuple[str, ...]


def verify(output: Storage, manifest: RunManifest) -> VerifyReport:
    """Check that parts match their hashes, images decode, and each planned unit is present exactly once.

    Parts are found wherever they lie. Failed units that are recorded in the error parts count as present.
    """
    problems: list[str] = []
    images, errors = PartPlaces(output), PartPlaces(output, ERROR_PARTS)
    parts = [(images, part) for part in manifest.parts] + [(errors, part) for part in manifest.error_parts]
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        checked = list(pool.map(lambda item: _check_part(*item), parts))
    num_parts = len(manifest.parts)
    for _, found in checked:
        problems += found
    made = pa.chunked_array([ids for ids, _ in checked[:num_parts]], pa.string())
    failed = pa.chunked_array([ids for ids, _ in checked[num_parts:]], pa.string()).drop_null()
    problems += _check_units(output, manifest, made, failed)
    return VerifyReport(
        num_parts=num_parts, num_images=len(made), num_failed=len(failed), problems=tuple(problems)
    )


def _check_part(places: PartPlaces, part: PartFile) -> "tuple[pa.StringArray, list[str]]":
    """Check one part; return its image IDs and its problems."""
    ids: list[str | None] = []
    try:
        data = places.read_bytes(part.path)
    except FileNotFoundError:
        return pa.array(ids, pa.string()), [f"{part.path}: missing"]
    problems = []
    if hashlib.sha256(data).hexdigest() != part.sha256:
        problems.append(f"{part.path}: its content does not match its hash")
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                ids += table["unit_id"].to_pylist()
                if "image" in table.column_names:
                    problems += _image_problems(part.path, table)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        problems.append(f"{part.path}: unreadable ({error})")
    else:
        if len(ids) != part.num_rows:
            problems.append(f"{part.path}: {len(ids)} rows; the manifest says {part.num_rows}")
    return pa.array(ids, pa.string()), problems


def _image_problems(path: str, table: pa.Table) -> Iterator[str]:
    columns = [table[name] for name in ("key", "variant", "image", "image_sha256", "height", "width")]
    for key, variant, image, sha256, height, width in zip(*columns, strict=True):
        name = f"{path}: image of {key.as_py()!r}, variant {variant.as_py()}"
        data = image["bytes"].as_py()
        if data is None:
            yield f"{name}: missing"
            continue
        if hashlib.sha256(data).hexdigest() != sha256.as_py():
            yield f"{name}: its bytes do not match its hash"
            continue
        try:
            shape = decode_image(data).shape[:2]
        except ValueError as error:
            yield f"{name}: does not decode ({error})"
            continue
        if shape != (height.as_py(), width.as_py()):
            yield f"{name}: is {shape[1]}x{shape[0]}, not {width.as_py()}x{height.as_py()}"


def _check_units(
    output: Storage,
    manifest: RunManifest,
    made: "pa.ChunkedArray[pa.StringScalar]",
    failed: "pa.ChunkedArray[pa.StringScalar]",
) -> Iterator[str]:
    try:
        planned = read_work(output, manifest.work_files, ["unit_id", "key", "variant"])
    except (OSError, pa.ArrowException) as error:
        yield f"work table: unreadable ({error})"
        return
    index = UnitIndex([planned["unit_id"]])
    num_found = np.zeros(planned.num_rows, dtype=np.int64)
    for ids, what in ((made, "published"), (failed, "recorded as failed")):
        positions = index.positions(ids)
        num_unplanned = int((positions < 0).sum())
        if num_unplanned:
            yield f"{num_unplanned} units are {what} but not planned"
        np.add.at(num_found, positions[positions >= 0], 1)
    for place in np.flatnonzero(num_found != 1):
        row = planned.slice(int(place), 1).to_pylist()[0]
        times = "missing" if num_found[place] == 0 else f"found {num_found[place]} times"
        yield f"{row['key']!r}, variant {row['variant']}: {times}"
