"""Plan a run: read the table, check every row before any engine starts, and write the work table."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.columns import ColumnMap, map_columns
from pipelines.ledger import FinishedUnits
from pipelines.options import GenerateOptions
from pipelines.row_resolver import ResolvedRow, RowResolver
from pipelines.sources import RowError, Source, SourceBatch, open_source
from pipelines.storage import Storage
from pipelines.unit_ids import digest
from pipelines.work import work_schema
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import ModelSpec
from zimage_models.prompts import PromptTokenizer
from zimage_models.requests import GENERATION_FIELDS

_WORK_FILE_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCounts:
    """Counts of one plan: input rows down to ``duplicate``, images from ``units`` on."""

    rows: int
    filtered: int
    rejected: int
    duplicate: int
    """Rows that repeat an earlier row exactly."""
    units: int
    unchanged: int
    """Made before, by this or an earlier run."""
    failed_before: int
    """Failed in an earlier run; ``zimage retry`` redoes them."""
    new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One planned run: where its work table lies, and what is in it."""

    run_id: str
    counts: PlanCounts
    work_files: tuple[str, ...]
    """Parquet files of the work table, relative to the output."""
    passthrough: pa.Schema
    rejected: tuple[RowError, ...]
    source_fingerprint: str
    transformer_steps: int
    """Denoising steps to run, guided ones counted twice."""


def write_plan(
    options: GenerateOptions,
    *,
    run_id: str,
    spec: ModelSpec,
    weights_sha256: str,
    output: Storage,
    finished: FinishedUnits,
) -> Plan:
    """Check the whole input table and write its work table under ``_runs/<run_id>/``.

    Raises:
        InvalidRequest: the table or the options as a whole can't be used; single bad rows are collected.
    """
    source = open_source(options.input, options=options.storage, format=options.input_format)
    return _Planner(options, run_id, spec, weights_sha256, output, finished, source).run()


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
    ) -> None:
        self._options = options
        self._run_id = run_id
        self._output = output
        self._finished = finished
        self._source = source
        self._columns: ColumnMap = map_columns(
            source.schema,
            explicit=options.columns,
            has_template=options.template is not None,
            drop=options.drop,
        )
        self._passthrough = pa.schema([source.schema.field(name) for name in self._columns.passthrough])
        self._tokenizer = PromptTokenizer(spec.directory, max_tokens=spec.max_prompt_tokens)
        self._resolver = RowResolver(
            options,
            columns=self._columns,
            column_names=source.schema.names,
            spec=spec,
            weights_sha256=weights_sha256,
        )
        self._counts: Counter[str] = Counter()
        self._rejected: list[RowError] = []
        self._work_files: list[str] = []
        self._pending: list[pa.Table] = []
        self._num_pending = 0
        self._transformer_steps = 0

    def run(self) -> Plan:
        for batch in self._source.batches():
            self._add(batch)
            if self._num_pending >= _WORK_FILE_ROWS:
                self._write_work_file()
            if self._limit_reached():
                break
        self._write_work_file()
        self._counts["rejected"] = len(self._rejected)
        if not self._counts["rows"]:
            raise InvalidRequest(f"input: {self._options.input} has no rows", field="input")
        return Plan(
            run_id=self._run_id,
            counts=PlanCounts(**{name: self._counts[name] for name in PlanCounts.__dataclass_fields__}),
            work_files=tuple(self._work_files),
            passthrough=self._passthrough,
            rejected=tuple(self._rejected),
            source_fingerprint=self._source.fingerprint,
            transformer_steps=self._transformer_steps,
        )

    def _limit_reached(self) -> bool:
        limit = self._options.limit
        return limit is not None and self._counts["taken"] >= limit

    def _add(self, batch: SourceBatch) -> None:
        self._rejected += batch.errors
        self._counts["rows"] += len(batch.errors)
        rows: list[dict[str, Any]] = []
        resolved: list[tuple[int, ResolvedRow]] = []
        for index, (number, row) in enumerate(batch.records()):
            if self._limit_reached():
                break
            rows.append(row)
            self._counts["rows"] += 1
            try:
                if not self._resolver.keeps(row):
                    self._counts["filtered"] += 1
                    continue
                self._counts["taken"] += 1
                result = self._resolver.resolve(row)
            except InvalidRequest as error:
                self._rejected.append(RowError(row=number, key=self._resolver.key(row), message=str(error)))
                continue
            if not result.units:
                self._counts["duplicate"] += 1
            resolved.append((index, result))
        resolved = self._without_long_prompts(batch, resolved)
        if any(result.units for _, result in resolved):
            self._keep(batch, rows, resolved)

    def _without_long_prompts(
        self, batch: SourceBatch, resolved: list[tuple[int, ResolvedRow]]
    ) -> list[tuple[int, ResolvedRow]]:
        for name in ("prompt", "negative_prompt"):
            checked = [
                (index, result)
                for index, result in resolved
                if result.units and not result.units[0].request.truncate_prompt
            ]
            counts = (
                self._tokenizer.count([getattr(r.units[0].request, name) for _, r in checked])
                if checked
                else []
            )
            for (index, result), num_tokens in zip(checked, counts, strict=True):
                if num_tokens > self._tokenizer.max_tokens:
                    message = self._tokenizer.too_long(num_tokens, name)
                    self._rejected.append(RowError(row=batch.rows[index], key=result.key, message=message))
                    resolved = [pair for pair in resolved if pair[0] != index]
        return resolved

    def _keep(
        self, batch: SourceBatch, rows: list[dict[str, Any]], resolved: list[tuple[int, ResolvedRow]]
    ) -> None:
        """Turn a batch's units into rows of the work table."""
        passthrough_names = self._passthrough.names
        columns: dict[str, list[Any]] = {
            name: []
            for name in ("unit_id", "key", "variant", "row", "file_name", "row_digest", *GENERATION_FIELDS)
        }
        taken: list[int] = []
        for index, result in resolved:
            beside = [rows[index][name] for name in passthrough_names]
            for unit in result.units:
                taken.append(index)
                columns["unit_id"].append(unit.unit_id)
                columns["key"].append(result.key)
                columns["variant"].append(unit.variant)
                columns["row"].append(batch.rows[index])
                columns["file_name"].append(unit.file_name)
                columns["row_digest"].append(digest([result.key, unit.file_name, beside]))
                for name in GENERATION_FIELDS:
                    columns[name].append(getattr(unit.request, name))
        ids = pa.array(columns["unit_id"], pa.string())
        made = self._finished.made.contains(ids)
        failed = self._finished.failed.contains(ids) & ~made
        todo = ~made & ~failed
        self._counts["units"] += len(ids)
        self._counts["unchanged"] += int(made.sum())
        self._counts["failed_before"] += int(failed.sum())
        self._counts["new"] += int(todo.sum())
        self._transformer_steps += sum(
            steps * (2 if guidance > 0 else 1)
            for steps, guidance, is_todo in zip(
                columns["num_inference_steps"], columns["guidance_scale"], todo.tolist(), strict=True
            )
            if is_todo
        )
        schema = work_schema(self._passthrough)
        own = {**columns, "todo": todo.tolist()}
        beside_table = batch.table.select(passthrough_names).take(pa.array(taken, pa.int64()))
        arrays = [
            pa.array(own[item.name], item.type) if item.name in own else beside_table.column(item.name)
            for item in schema
        ]
        self._pending.append(pa.Table.from_arrays(arrays, schema=schema))
        self._num_pending += len(taken)

    def _write_work_file(self) -> None:
        if not self._pending:
            return
        sink = pa.BufferOutputStream()
        pq.write_table(pa.concat_tables(self._pending), sink, compression="zstd")
        path = f"_runs/{self._run_id}/work/{len(self._work_files):05d}.parquet"
        self._output.write(path, memoryview(sink.getvalue()))
        self._work_files.append(path)
        self._pending, self._num_pending = [], 0
