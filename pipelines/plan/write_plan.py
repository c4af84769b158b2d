"""Planning of a run: read the table, check every row before any engine starts, and write the work table."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.options import GenerateOptions
from pipelines.part_schema import part_schema
from pipelines.picture_reader import PictureReader
from pipelines.plan.columns.choose_columns import choose_columns
from pipelines.plan.fill_down import FillDown
from pipelines.plan.kept_rows import KeptImages, PublishedRows, as_type, check_name, kept_work, united
from pipelines.plan.picture_plan import PicturePlanner, PlannedPictures, picture_columns, picture_folder
from pipelines.plan.plan import Plan, PlanCounts
from pipelines.plan.prompt_lengths import PromptLengths
from pipelines.plan.row_digests import row_digests
from pipelines.plan.row_resolver import ResolvedRow, ResolvedUnit, RowResolver
from pipelines.sources.open_source import open_source
from pipelines.sources.source_rows import RowError, Source, SourceBatch
from pipelines.storage import Storage
from pipelines.unit_ids import FinishedUnits, SeenHashes, digest, engine_settings
from pipelines.work_table import MADE_FROM_FIELDS, QUALITY_FIELDS, WorkWriter, request_columns, work_schema
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import ModelSpec
from zimage_models.request_fields import in_outer_names
from zimage_models.requests import ImageRequest
from zimage_models.step_schedules import EXACT

_UNITS_AT_ONCE = 1024


def write_plan(
    options: GenerateOptions,
    *,
    run_id: str,
    spec: ModelSpec,
    weights_sha256: str,
    output: Storage,
    finished: FinishedUnits,
    to_run: bool = True,
    published: PublishedRows | None = None,
) -> Plan:
    """Check the whole input table and write its work table under ``_runs/<run_id>/``.

    Args:
        options: what to generate.
        run_id: name of the run.
        spec: the model.
        weights_sha256: hash that identifies its weights.
        output: where the work table is written.
        finished: units that no longer need an engine.
        to_run: also write the pictures that the table itself holds.
        published: the rows of the data set in force, to keep those that the table does not name; None to
            keep none.

    Raises:
        InvalidRequest: the table or the options as a whole can't be used; bad rows are only recorded.
    """
    source = open_source(
        options.input,
        options=options.storage,
        format=options.input_format,
        delimiter=options.delimiter,
        encoding=options.text_encoding,
    )
    return _Planner(options, run_id, spec, weights_sha256, output, finished, source, to_run, published).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _UsableRow:
    """A row of a batch, and the images it asks for."""

    index: int
    """Index of the row in the batch."""
    digest: bytes
    """Of its cells that are copied."""
    pictures: PlannedPictures
    resolved: ResolvedRow


class _Planner:
    def __init__(
        self,
        options: GenerateOptions,
        run_id: str,
        spec: ModelSpec,
        weights_sha256: str,
        output: Storage,
        finished: FinishedUnits,
        source: Source,
        to_run: bool,
        published: PublishedRows | None,
    ) -> None:
        self._options = options
        self._to_run = to_run
        self._published = published
        self._run_id = run_id
        self._output = output
        self._finished = finished
        self._source = source
        self._columns = choose_columns(source, options=options, spec=spec)
        self._fill_down = FillDown(options.fill_down, source.schema)
        self._copied = self._columns.passthrough
        self._passthrough = pa.schema(
            [source.schema.field(name).with_name(new).remove_metadata() for name, new in self._copied.items()]
        )
        self._pictures: PicturePlanner | None = None
        if self._columns.pictures:
            reader = PictureReader(options.picture_access(source.folder))
            self._pictures = PicturePlanner(reader, self._columns.pictures)
            self._passthrough = pa.schema([*self._passthrough, *MADE_FROM_FIELDS])
        if "quality_mode" in self._columns.fields or options.fields.get("quality_mode", EXACT) != EXACT:
            self._passthrough = pa.schema([*self._passthrough, *QUALITY_FIELDS])
        if published is not None:
            self._passthrough = united(self._passthrough, published.passthrough)
        part_schema(self._passthrough)  # rejects what a part can't hold, before any image is made
        # A renamed column, or one of another type, changes every row's digest.
        self._layout = digest([[field.name, str(field.type)] for field in self._passthrough])
        self._lengths = PromptLengths(spec)
        self._resolver = RowResolver(
            options,
            columns=self._columns,
            column_names=source.schema.names,
            spec=spec,
            weights_sha256=weights_sha256,
            engine=engine_settings(options.engine, spec, tokenizer_rules=self._lengths.tokenizer_rules),
            tokens_read=self._lengths.tokens_read,
            kept=KeptImages(published) if published else None,
        )
        # Only columns that are used become Python objects.
        used = self._resolver.columns_used
        self._used = source.schema.names if used is None else used
        self._read = {*self._used, *self._copied, *options.fill_down}
        self._counts: Counter[str] = Counter()
        self._rejected: list[RowError] = []
        self._work = WorkWriter(output, run_id)
        self._named, self._file_names = SeenHashes(), SeenHashes()
        self._transformer_steps = 0

    def run(self) -> Plan:
        with self._pictures or nullcontext():
            for batch in self._source.batches(columns=self._read):
                self._add(batch)
                if self._limit_reached():
                    break
        if self._published is not None:
            self._keep_published(self._published)
        work_files = self._work.finish()
        self._counts["rejected"] = len(self._rejected)
        if not self._counts["rows"]:
            raise InvalidRequest(f"input: {self._options.input_text} has no rows", field="input")
        return Plan(
            run_id=self._run_id,
            counts=PlanCounts(**{name: self._counts[name] for name in PlanCounts.__dataclass_fields__}),
            work_files=work_files,
            passthrough=self._passthrough,
            rejected=tuple(sorted(self._rejected, key=lambda error: error.row)),
            source_folder=self._source.folder,
            source_fingerprint=self._source.fingerprint,
            transformer_steps=self._transformer_steps,
            appends_to=self._published.generation if self._published else None,
            columns=tuple(self._columns.lines()),
            notes=(*self._source.notes, *self._columns.notes),
            hints=(*self._columns.hints, *self._resolver.hints),
        )

    def _limit_reached(self) -> bool:
        return self._options.limit is not None and self._counts["taken"] >= self._options.limit

    def _add(self, batch: SourceBatch) -> None:
        batch = replace(batch, table=self._fill_down.fill(batch.table))
        wanted = list(self._wanted(batch))
        copied = batch.table.select(list(self._copied)).rename_columns(list(self._copied.values()))
        digests = row_digests(copied)
        usable: list[_UsableRow] = []
        num_units = 0
        for (index, row), pictures in zip(wanted, self._look_up(wanted), strict=True):
            number = batch.rows[index]
            try:
                if isinstance(pictures, InvalidRequest):
                    raise pictures
                resolved = self._resolver.resolve(row, pictures, digests[index])
            except InvalidRequest as error:
                self._reject(number, row, error)
                continue
            if not resolved.units:
                self._counts["duplicate"] += 1
                continue
            usable.append(
                _UsableRow(index=index, digest=digests[index], pictures=pictures, resolved=resolved)
            )
            num_units += len(resolved.units)
            if num_units >= _UNITS_AT_ONCE:
                self._keep(batch, copied, usable)
                usable, num_units = [], 0
        self._keep(batch, copied, usable)

    def _wanted(self, batch: SourceBatch) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows that pass the filter and the limit, with their index in the batch."""
        last_row = -1
        for index, (number, row) in enumerate(batch.records(self._used)):
            if self._limit_reached():
                break
            last_row = number
            self._counts["rows"] += 1
            if isinstance(row, InvalidRequest):
                self._rejected.append(RowError(row=number, key=None, message=str(row)))
                continue
            try:
                if not self._resolver.keeps(row):
                    self._counts["filtered"] += 1
                    continue
            except InvalidRequest as error:
                self._reject(number, row, error)
                continue
            self._counts["taken"] += 1
            yield index, row
        errors = [error for error in batch.errors if error.row < last_row or not self._limit_reached()]
        self._rejected += errors
        self._counts["rows"] += len(errors)

    def _look_up(
        self, wanted: Sequence[tuple[int, dict[str, Any]]]
    ) -> Sequence[PlannedPictures | InvalidRequest]:
        if self._pictures is None:
            return [PlannedPictures()] * len(wanted)
        return self._pictures.look_up([row for _, row in wanted])

    def _reject(self, number: int, row: dict[str, Any], error: InvalidRequest) -> None:
        key = self._resolver.key(row)
        self._rejected.append(
            RowError(row=number, key=key, message=in_outer_names(str(error)), error_class=error.error_class)
        )

    def _without_long_prompts(self, batch: SourceBatch, usable: list[_UsableRow]) -> list[_UsableRow]:
        # The units of a row differ only in their seeds.
        messages = self._lengths.too_long([item.resolved.units[0].request for item in usable])
        self._rejected += [
            RowError(row=batch.rows[usable[place].index], key=usable[place].resolved.key, message=message)
            for place, message in messages.items()
        ]
        return [item for place, item in enumerate(usable) if place not in messages]

    def _keep(self, batch: SourceBatch, copied: pa.Table, usable: list[_UsableRow]) -> None:
        """Add the units of some rows to the work table."""
        usable = self._without_long_prompts(batch, usable)
        units = [(item, unit) for item in usable for unit in item.resolved.units]
        if not units:
            return
        if self._published is not None:
            for item, unit in units:
                self._named.add(item.resolved.key)
                self._file_names.add(unit.file_name)
        requests = [unit.request for _, unit in units]
        columns: dict[str, list[Any]] = {
            "unit_id": [unit.unit_id for _, unit in units],
            "key": [item.resolved.key for item, _ in units],
            "variant": [unit.variant for _, unit in units],
            "row": [batch.rows[item.index] for item, _ in units],
            "file_name": [unit.file_name for _, unit in units],
            "row_digest": [self._row_digest(item, unit) for item, unit in units],
            **request_columns(requests),
        }
        columns["todo"] = self._todo(columns["unit_id"], requests)
        if self._pictures:
            columns |= picture_columns([(item.pictures, unit.request) for item, unit in units])
        if self._pictures and self._to_run:
            todo = [
                item.pictures for (item, _), is_todo in zip(units, columns["todo"], strict=True) if is_todo
            ]
            self._pictures.store(todo, self._output, picture_folder(self._run_id))
        copied = copied.take(pa.array([item.index for item, _ in units], pa.int64()))
        schema = work_schema(self._passthrough)
        # By name, as a table searches all its columns for one.
        arrays: dict[str, Any] = dict(zip(copied.column_names, copied.columns, strict=True))

        def column(field: "pa.Field[Any]") -> Any:
            if field.name in columns:
                return pa.array(columns[field.name], field.type)
            known = field.name in arrays
            return as_type(arrays[field.name], field) if known else pa.nulls(len(units), field.type)

        self._work.add(pa.Table.from_arrays([column(field) for field in schema], schema=schema))

    def _keep_published(self, published: PublishedRows) -> None:
        """Add the published images whose keys the table does not name."""
        for rows in published.tables():
            work = kept_work(
                rows,
                is_named=self._named.__contains__,
                published=published.passthrough,
                passthrough=self._passthrough,
            )
            for key, name in zip(work["key"].to_pylist(), work["file_name"].to_pylist(), strict=True):
                check_name(str(name), str(key), taken=self._file_names)
            self._counts["units"] += work.num_rows
            self._counts["unchanged"] += work.num_rows
            self._work.add(work)

    def _row_digest(self, item: _UsableRow, unit: ResolvedUnit) -> str:
        return digest([self._layout, item.resolved.key, unit.file_name, item.digest.hex()])

    def _todo(self, unit_ids: list[str], requests: Sequence[ImageRequest]) -> list[bool]:
        """Return which units must be made, and count them."""
        ids = pa.array(unit_ids, pa.string())
        made = self._finished.made.contains(ids)
        failed = self._finished.failed.contains(ids) & ~made
        todo = ~made & ~failed
        self._counts["units"] += len(ids)
        self._counts["unchanged"] += int(made.sum())
        self._counts["failed_before"] += int(failed.sum())
        self._counts["new"] += int(todo.sum())
        forwards = [request.num_computed_steps * (1 + request.is_guided) for request in requests]
        self._transformer_steps += int(np.array(forwards)[todo].sum())
        return list(map(bool, todo))
