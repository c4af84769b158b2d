"""Publish a run: decide which parts are the data set now, and commit that with one manifest.

A part is taken over whole when all its rows are wanted and current; otherwise its wanted rows are copied into a
new part. Of several parts with one unit (a retried write) the first is kept. Nothing is edited in place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.ledger import DATA_FOLDER, ERRORS_FOLDER, scan_parts
from pipelines.manifest import RunManifest, commit_manifest, read_manifest
from pipelines.options import GenerateOptions
from pipelines.parts import ERROR_SCHEMA, PartFile, part_schema, read_part, sha256_from_name, write_part
from pipelines.plan import Plan
from pipelines.run import RunOutcome
from pipelines.sources import RowError
from pipelines.storage import Storage, StoredFile
from pipelines.unit_ids import UnitIndex
from pipelines.work import WORK_FIELDS
from zimage_models.model_spec import ModelSpec

_ERROR_ROWS = 50_000
_VERSIONED = ("zimage-ray", "ray", "torch", "diffusers", "transformers", "pyarrow")


@dataclass(slots=True, kw_only=True)
class _WantedUnits:
    """The planned units, and which of them a part has been found for."""

    index: UnitIndex
    digests: npt.NDArray[np.str_]
    taken: npt.NDArray[np.bool_]


def publish(
    plan: Plan,
    options: GenerateOptions,
    *,
    output: Storage,
    spec: ModelSpec,
    weights_sha256: str,
    outcome: RunOutcome | None,
) -> RunManifest:
    """Commit the plan's units as the next generation of the data set.

    Args:
        plan: what the data set shall hold.
        options: the run's options, kept in the manifest.
        output: the data set's folder.
        spec: the model.
        weights_sha256: identity of its weights.
        outcome: the run's speed, for the manifest; None where nothing had to be made.

    Returns:
        The new manifest, or the present one when it says the same already.
    """
    while True:
        previous = read_manifest(output)
        wanted = _wanted_units(output, plan.work_files)
        parts = _current_parts(output, plan, wanted, previous)
        errors = _error_rows(output, plan, wanted)
        error_parts = [
            write_part(output, ERRORS_FOLDER, errors.slice(start, _ERROR_ROWS))
            for start in range(0, errors.num_rows, _ERROR_ROWS)
        ]
        num_published = sum(part.num_rows for part in parts)
        manifest = RunManifest(
            number=(previous.number if previous else 0) + 1,
            run_id=plan.run_id,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            model=spec.model_id,
            variant=spec.variant.name,
            weights_sha256=weights_sha256,
            options=options.model_dump(mode="json"),
            source_fingerprint=plan.source_fingerprint,
            counts=asdict(plan.counts) | {"published": num_published, "failed": int((~wanted.taken).sum())},
            speed=_speed(outcome),
            versions={name: metadata.version(name) for name in _VERSIONED},
            work_files=plan.work_files,
            parts=tuple(parts),
            error_parts=tuple(error_parts),
        )
        if previous and _same_data_set(previous, manifest):
            return previous
        # Taken by another run in the meantime: decide again on top of what it published.
        if commit_manifest(output, manifest):
            return manifest


def _speed(outcome: RunOutcome | None) -> dict[str, float]:
    if outcome is None:
        return {"generate_s": 0.0, "images_per_s": 0.0}
    return {"generate_s": round(outcome.generate_s, 3), "images_per_s": round(outcome.images_per_s, 3)}


def _same_data_set(previous: RunManifest, new: RunManifest) -> bool:
    return set(previous.parts) == set(new.parts) and set(previous.error_parts) == set(new.error_parts)


def read_work(output: Storage, work_files: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Read the work table, or some of its columns."""
    filesystem, root = output.arrow()
    tables = [
        pq.read_table(f"{root}/{path}", filesystem=filesystem, columns=list(columns) if columns else None)
        for path in work_files
    ]
    return pa.concat_tables(tables) if tables else pa.schema(WORK_FIELDS).empty_table()


def _wanted_units(output: Storage, work_files: Sequence[str]) -> _WantedUnits:
    work = read_work(output, work_files, ["unit_id", "row_digest"])
    return _WantedUnits(
        index=UnitIndex([work["unit_id"]]),
        digests=work["row_digest"].to_numpy(zero_copy_only=False).astype("U32"),
        taken=np.zeros(work.num_rows, dtype=np.bool_),
    )


def _current_parts(
    output: Storage, plan: Plan, wanted: _WantedUnits, previous: RunManifest | None
) -> list[PartFile]:
    published = {part.path for part in previous.parts} if previous else set()
    scanned = list(scan_parts(output, DATA_FOLDER, ["unit_id", "row_digest"]))
    # Published parts first: what readers know stays where it is.
    scanned.sort(key=lambda item: (item[0].path not in published, item[0].path))
    schema = part_schema(plan.passthrough)
    parts = []
    for file, table in scanned:
        positions = wanted.index.positions(table["unit_id"])
        keep = positions >= 0
        keep[keep] &= ~wanted.taken[positions[keep]]
        keep &= _first_of_each(positions)
        if not keep.any():
            continue
        wanted.taken[positions[keep]] = True
        digests = table["row_digest"].to_numpy(zero_copy_only=False).astype("U32")
        current = digests == wanted.digests[positions]
        if keep.all() and current.all():
            parts.append(_as_part(file, table.num_rows))
        else:
            parts.append(_copy_rows(output, plan, file, keep, keep & ~current, schema))
    return parts


def _first_of_each(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    first = np.zeros(len(positions), dtype=np.bool_)
    first[np.unique(positions, return_index=True)[1]] = True
    return first


def _as_part(file: StoredFile, num_rows: int) -> PartFile:
    return PartFile(
        path=file.path, num_rows=num_rows, num_bytes=file.num_bytes, sha256=sha256_from_name(file.path)
    )


def _copy_rows(
    output: Storage,
    plan: Plan,
    file: StoredFile,
    keep: npt.NDArray[np.bool_],
    outdated: npt.NDArray[np.bool_],
    schema: pa.Schema,
) -> PartFile:
    """Write the wanted rows of a part as a new one, with today's key, name and passed-through columns."""
    table = read_part(output, file.path)
    rows = table.filter(pa.array(keep))
    if outdated.any() or not table.schema.equals(schema):
        rows = _with_current_columns(output, plan, rows, schema)
    return write_part(output, DATA_FOLDER, rows.cast(schema))


def _with_current_columns(output: Storage, plan: Plan, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    names = ["unit_id", "key", "file_name", "row_digest", *plan.passthrough.names]
    work = read_work(output, plan.work_files, names)
    positions = UnitIndex([work["unit_id"]]).positions(rows["unit_id"])
    beside = work.take(pa.array(positions))
    image_type = schema.field("image").type
    image = rows["image"].combine_chunks()
    columns = {name: beside[name] for name in ("key", "row_digest", *plan.passthrough.names)}
    columns["image"] = pa.StructArray.from_arrays(
        [pc.struct_field(image, "bytes"), beside["file_name"].combine_chunks()], fields=list(image_type)
    )
    return pa.Table.from_arrays(
        [columns[field.name] if field.name in columns else rows[field.name] for field in schema],
        schema=schema,
    )


def _error_rows(output: Storage, plan: Plan, wanted: _WantedUnits) -> pa.Table:
    """Collect the rows the plan rejected, and the units that failed and have not been made since."""
    seen = np.zeros(len(wanted.taken), dtype=np.bool_)
    tables = [_rejected_rows(plan.rejected)]
    for _, table in scan_parts(output, ERRORS_FOLDER, ERROR_SCHEMA.names):
        table = table.filter(pc.is_valid(table["unit_id"]))
        positions = wanted.index.positions(table["unit_id"])
        keep = positions >= 0
        keep[keep] &= ~wanted.taken[positions[keep]] & ~seen[positions[keep]]
        keep &= _first_of_each(positions)
        seen[positions[keep]] = True
        tables.append(table.filter(pa.array(keep)))
    return pa.concat_tables(tables)


def _rejected_rows(rejected: Iterable[RowError]) -> pa.Table:
    rows = [
        {"key": error.key, "row": error.row, "error_class": error.error_class, "message": error.message}
        for error in rejected
    ]
    return pa.Table.from_pylist(rows, schema=ERROR_SCHEMA)
