"""Publishing of a run: decide which parts form the data set, and commit that with one manifest.

A part is kept whole if all its rows are wanted and current; otherwise its wanted rows are copied into a new
part. If several parts hold the same unit (a retried write), the first is used. No file is edited in place or
moved: :func:`settle` moves them, for the newest manifest.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.dataset.errors import rejected_rows, write_errors
from pipelines.dataset.in_force import PublishedKeys
from pipelines.dataset.layout import ERROR_PARTS, STAGING_FOLDER, PartPlaces, part_name, published_path
from pipelines.dataset.ledger import scan_parts
from pipelines.dataset.manifest import RunManifest, RunSpeed, commit_manifest, read_manifest
from pipelines.dataset.parts import PartFile, rows_where, sha256_from_name, write_part
from pipelines.dataset.text_hashes import Hashes, hash_texts
from pipelines.options import GenerateOptions
from pipelines.part_schema import COLUMN_NAMES, ERROR_SCHEMA, part_schema
from pipelines.plan.plan import Plan
from pipelines.storage import Storage
from pipelines.unit_ids import UnitIndex, as_fixed
from pipelines.work_table import WorkRows, read_work
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import ModelSpec

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

    Raises:
        InvalidRequest: more than half of the published keys would be dropped, without ``options.replace``; or
            the plan keeps rows of a generation that is no longer in force.
    """
    while True:
        previous = read_manifest(output)
        if options.append and plan.appends_to != (previous.number if previous else None):
            # The plan would drop the other run's rows.
            raise InvalidRequest(
                f"append: another run has published to {options.output} since this one was planned; run the"
                " same command again to add to that (no image is made twice)",
                field="append",
            )
        published = PublishedKeys(previous)
        wanted = _wanted_units(output, plan.work_files)
        parts = _current_parts(output, plan, wanted, previous, published)
        errors = _error_rows(output, plan, wanted)
        if not options.replace:
            published.check_kept(
                _made_keys(output, plan, wanted), reason=_why_dropped(errors), advice=_DROP_ADVICE
            )
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
            error_parts=tuple(write_errors(output, errors)),
            notes=(*plan.columns, *plan.notes),
        )
        if previous and _same_data_set(previous, manifest):
            return previous
        # If another run has taken the number in the meantime, decide again, on top of what it published.
        if commit_manifest(output, manifest):
            return manifest


def check_plan_keeps(plan: Plan, published: PublishedKeys, *, output: Storage) -> None:
    """Check that a plan names at least half of the published keys.

    Args:
        plan: the plan.
        published: what is published, shown all its parts.
        output: where the plan's work table is.

    Raises:
        InvalidRequest: it names fewer.
    """
    keys = (hash_texts(read_work(output, [path], ["key"])["key"]) for path in plan.work_files)
    reason = "are not in the table" if not plan.rejected else "are not in the table or in rejected rows"
    advice = "give --replace to drop them, or --append to keep them"
    published.check_kept(keys, reason=reason, advice=advice)


_DROP_ADVICE = (
    "nothing was published. Give --replace to publish without them; zimage retry then tries failed ones again"
)


def _why_dropped(errors: pa.Table) -> str:
    classes = Counter(errors["error_class"].to_pylist())
    told = ", ".join(f"{number:,} {name}" for name, number in classes.most_common())
    failed = f", or their images were not made ({told})" if told else ""
    return f"would be dropped: they are not in the table{failed}"


def _made_keys(output: Storage, plan: Plan, wanted: "_WantedUnits") -> Iterator[Hashes]:
    start = 0
    for path in plan.work_files:
        keys = read_work(output, [path], ["key"])["key"]
        yield hash_texts(keys)[wanted.taken[start : start + len(keys)]]
        start += len(keys)


def _same_data_set(previous: RunManifest, new: RunManifest) -> bool:
    # By content: error parts have moved since release 0.2.
    return all(
        {part.sha256 for part in getattr(previous, name)} == {part.sha256 for part in getattr(new, name)}
        for name in ("parts", "error_parts")
    )


def _wanted_units(output: Storage, work_files: Sequence[str]) -> _WantedUnits:
    work = read_work(output, work_files, ["unit_id", "row_digest"])
    return _WantedUnits(
        index=UnitIndex([work["unit_id"]]),
        digests=as_fixed(work["row_digest"]),
        taken=np.zeros(work.num_rows, dtype=np.bool_),
    )


def _current_parts(
    output: Storage,
    plan: Plan,
    wanted: _WantedUnits,
    previous: RunManifest | None,
    published: PublishedKeys,
) -> list[PartFile]:
    # Published parts first, so that files that readers know stay in use.
    first = [part_name(part.path) for part in previous.parts] if previous else []
    places = PartPlaces(output, newest=True)
    refresh: _Refresh | None = None
    parts: list[PartFile] = []
    for file, table in scan_parts(places, ["unit_id", "key", "row_digest"], first=first):
        published.see(file.path, table)
        positions = wanted.index.positions(table["unit_id"])
        keep = positions >= 0
        keep[keep] &= ~wanted.taken[positions[keep]]
        keep &= _first_of_each(positions)
        if not keep.any():
            continue
        wanted.taken[positions[keep]] = True
        current = as_fixed(table["row_digest"]) == wanted.digests[positions]
        refresh = refresh or _Refresh(places, plan)
        if keep.all() and (current.all() or refresh.changes_nothing(file.path, positions)):
            part = PartFile(
                path=published_path(file.path),
                num_rows=table.num_rows,
                num_bytes=file.num_bytes,
                sha256=sha256_from_name(file.path),
            )
        else:
            part = refresh.copy(file.path, keep, positions[keep])
        parts.append(part)
    return parts


def _first_of_each(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    first = np.zeros(len(positions), dtype=np.bool_)
    first[np.unique(positions, return_index=True)[1]] = True
    return first


class _Refresh:
    """What the work table says beside the images: their keys, names and passed-through columns."""

    def __init__(self, places: PartPlaces, plan: Plan) -> None:
        self._places = places
        self._plan = plan
        self._schema = part_schema(plan.passthrough)
        self._rows: WorkRows | None = None

    def changes_nothing(self, path: str, positions: npt.NDArray[np.int64]) -> bool:
        """Return whether a part holds exactly these rows of the work table.

        Releases differ in how they hash a row, so another digest alone does not make a row stale.
        """
        if not self._places.read_schema(path).equals(self._schema):
            return False
        names = self._plan.passthrough.names
        part = self._places.read(path, ["key", "image.path", *names])
        held = [part["key"], pc.struct_field(part["image"], "path"), *(part[name] for name in names)]
        work = self._take(positions)
        return _same_cells(held, [work[name] for name in ("key", "file_name", *names)])

    def copy(self, path: str, keep: npt.NDArray[np.bool_], positions: npt.NDArray[np.int64]) -> PartFile:
        """Write a part's kept rows as a new part, with these rows of the work table beside the images."""
        work = self._take(positions)
        rows = rows_where(self._places.read(path), keep)
        image = rows["image"].combine_chunks()
        image = pa.StructArray.from_arrays(
            [pc.struct_field(image, "bytes"), work["file_name"].combine_chunks()],
            fields=list(self._schema.field("image").type),
        )
        columns = {name: rows[name] for name in COLUMN_NAMES} | {"image": image}
        columns |= {name: work[name] for name in work.column_names if name in self._schema.names}
        arrays = [columns[name] for name in self._schema.names]
        part = write_part(
            self._places.output, STAGING_FOLDER, pa.Table.from_arrays(arrays, schema=self._schema)
        )
        return replace(part, path=published_path(part.path))

    def _take(self, positions: npt.NDArray[np.int64]) -> pa.Table:
        if self._rows is None:
            columns = ["key", "file_name", "row_digest", *self._plan.passthrough.names]
            self._rows = WorkRows(self._places.output, self._plan.work_files, columns)
        return self._rows.take(positions)


def _same_cells(some: "Sequence[pa.ChunkedArray[Any]]", others: "Sequence[pa.ChunkedArray[Any]]") -> bool:
    """Compare columns of any types, cell by cell; a NaN equals itself.

    Parquet writes values and nothing else: no hidden values of nulls, no chunks, no order of a dictionary.
    """
    return all(
        one.type == other.type and _written(one) == _written(other)
        for one, other in zip(some, others, strict=True)
    )


def _written(column: "pa.ChunkedArray[Any]") -> pa.Buffer:
    sink = pa.BufferOutputStream()
    table = pa.table({"column": column}).combine_chunks()
    pq.write_table(
        table, sink, compression="none", use_dictionary=False, write_statistics=False, store_schema=False
    )
    return sink.getvalue()


def _error_rows(output: Storage, plan: Plan, wanted: _WantedUnits) -> pa.Table:
    """Collect the rows that the plan rejected, and the units that failed and have not been made since."""
    settled = wanted.taken.copy()
    work: WorkRows | None = None
    tables = [rejected_rows(plan)]
    for _, table in scan_parts(PartPlaces(output, ERROR_PARTS), ERROR_SCHEMA.names):
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
