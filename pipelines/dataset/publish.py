"""Publishing of a run: decide which parts form the data set, and commit that with one manifest.

A part is kept whole if all its rows are wanted and current; otherwise its wanted rows are copied into a new
part. If several parts hold the same unit (a retried write), the first is used. No file is edited in place.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.ledger import DATA_FOLDER, ERRORS_FOLDER, scan_parts
from pipelines.dataset.manifest import RunManifest, RunSpeed, commit_manifest, read_manifest
from pipelines.dataset.parts import PartFile, read_part, sha256_from_name, write_part
from pipelines.options import GenerateOptions
from pipelines.part_schema import COLUMN_NAMES, ERROR_SCHEMA, part_schema
from pipelines.plan.plan import Plan
from pipelines.storage import Storage, StoredFile
from pipelines.unit_ids import UnitIndex, as_fixed
from pipelines.work_table import WorkRows, read_work
from zimage_models.model_spec import ModelSpec

_ERROR_ROWS = 50_000
_VERSIONED = ("zimage-ray", "ray", "torch", "diffusers", "transformers", "pyarrow")


@dataclass(slots=True, kw_only=True)
class _WantedUnits:
    """The planned units, and which of them have been found in a part."""

    index: UnitIndex
    digests: npt.NDArray[np.bytes_]
    taken: npt.NDArray[np.bool_]


def publish(
    plan: Plan,
    options: GenerateOptions,
    *,
    output: Storage,
    spec: ModelSpec,
    weights_sha256: str,
    speed: RunSpeed,
) -> RunManifest:
    """Commit the plan's units as the next generation of the data set.

    Args:
        plan: what the data set will hold.
        options: the run's options, kept in the manifest.
        output: the data set's folder.
        spec: the model.
        weights_sha256: hash that identifies its weights.
        speed: the run's speed, for the manifest.

    Returns:
        The new manifest, or the current one if it already lists the same files.
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
            speed=asdict(speed),
            versions={name: metadata.version(name) for name in _VERSIONED},
            work_files=plan.work_files,
            parts=tuple(parts),
            error_parts=tuple(error_parts),
        )
        if previous and _same_data_set(previous, manifest):
            return previous
        # If another run has taken the number in the meantime, decide again, on top of what it published.
        if commit_manifest(output, manifest):
            return manifest


def _same_data_set(previous: RunManifest, new: RunManifest) -> bool:
    return set(previous.parts) == set(new.parts) and set(previous.error_parts) == set(new.error_parts)


def _wanted_units(output: Storage, work_files: Sequence[str]) -> _WantedUnits:
    work = read_work(output, work_files, ["unit_id", "row_digest"])
    return _WantedUnits(
        index=UnitIndex([work["unit_id"]]),
        digests=as_fixed(work["row_digest"]),
        taken=np.zeros(work.num_rows, dtype=np.bool_),
    )


def _current_parts(
    output: Storage, plan: Plan, wanted: _WantedUnits, previous: RunManifest | None
) -> list[PartFile]:
    # Published parts first, so that files that readers know stay in use.
    published = [part.path for part in previous.parts] if previous else []
    schema = part_schema(plan.passthrough)
    parts: list[PartFile] = []
    work: WorkRows | None = None
    for file, table in scan_parts(output, DATA_FOLDER, ["unit_id", "row_digest"], first=published):
        positions = wanted.index.positions(table["unit_id"])
        keep = positions >= 0
        keep[keep] &= ~wanted.taken[positions[keep]]
        keep &= _first_of_each(positions)
        if not keep.any():
            continue
        wanted.taken[positions[keep]] = True
        current = as_fixed(table["row_digest"]) == wanted.digests[positions]
        if keep.all() and current.all():
            parts.append(_as_part(file, table.num_rows))
        else:
            if work is None:
                columns = ["key", "file_name", "row_digest", *plan.passthrough.names]
                work = WorkRows(output, plan.work_files, columns)
            parts.append(_copy_rows(output, file.path, keep, work.take(positions[keep]), schema))
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
    output: Storage, path: str, keep: npt.NDArray[np.bool_], work: pa.Table, schema: pa.Schema
) -> PartFile:
    """Write a part's wanted rows as a new part, with current key, file name and passed-through columns."""
    rows = read_part(output, path).filter(pa.array(keep))
    image = rows["image"].combine_chunks()
    image = pa.StructArray.from_arrays(
        [pc.struct_field(image, "bytes"), work["file_name"].combine_chunks()],
        fields=list(schema.field("image").type),
    )
    columns = {name: rows[name] for name in COLUMN_NAMES} | {"image": image}
    columns |= {name: work[name] for name in work.column_names if name in schema.names}
    return write_part(
        output, DATA_FOLDER, pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
    )


def _error_rows(output: Storage, plan: Plan, wanted: _WantedUnits) -> pa.Table:
    """Collect the rows that the plan rejected, and the units that failed and have not been made since."""
    settled = wanted.taken.copy()
    work: WorkRows | None = None
    tables = [_rejected_rows(plan)]
    for _, table in scan_parts(output, ERRORS_FOLDER, ERROR_SCHEMA.names):
        positions = wanted.index.positions(table["unit_id"])
        keep = (positions >= 0) & _first_of_each(positions)
        keep[keep] &= ~settled[positions[keep]]
        if not keep.any():
            continue
        settled[positions[keep]] = True
        work = work or WorkRows(output, plan.work_files, ["key", "row"])
        current = work.take(positions[keep])
        failed = table.filter(pa.array(keep))
        for name in current.column_names:
            failed = failed.set_column(ERROR_SCHEMA.names.index(name), name, current[name])
        tables.append(failed)
    return pa.concat_tables(tables).sort_by([("row", "ascending"), ("variant", "ascending")])


def _rejected_rows(plan: Plan) -> pa.Table:
    rows = [
        {"key": error.key, "row": error.row, "error_class": error.error_class, "message": error.message}
        for error in plan.rejected
    ]
    return pa.Table.from_pylist(rows, schema=ERROR_SCHEMA)
