"""A data set that is planned and published as by ``zimage generate``, its images made without an engine."""

import csv
import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.dataset.in_force import published_rows
from pipelines.dataset.layout import ERROR_PARTS, ERRORS_FOLDER, STAGING_FOLDER, PartPlaces
from pipelines.dataset.ledger import finished_units
from pipelines.dataset.manifest import RunManifest, RunSpeed, read_manifest
from pipelines.dataset.parts import PartFile, write_part
from pipelines.dataset.publish import publish
from pipelines.dataset.settle import settle
from pipelines.dataset.verify import VerifyReport, verify
from pipelines.options import GenerateOptions
from pipelines.part_schema import ERROR_SCHEMA, part_schema
from pipelines.plan.plan import Plan
from pipelines.plan.write_plan import write_plan
from pipelines.storage import Storage, StorageOptions
from pipelines.storage_address import open_storage
from pipelines.work_table import WORK_FIELDS, read_work, work_schema
from zimage_models.checkpoints.resolve_model import model_weights_sha256, resolve_model
from zimage_models.config import EngineConfig
from zimage_models.image_files.image_codec import Encoding, encode_image

Row = dict[str, Any]
Table = str | Sequence[Mapping[str, Any]]
"""A table's path, or its rows."""
Fails = Callable[[Row], str | None]
"""Gives the class of error that a work row ends in, or None."""


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema | None = None) -> str:
    """Write rows in the format that the path's suffix says; returns the path as text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    else:
        columns = [{name: row.get(name) for name in names} for row in rows]
        pq.write_table(pa.Table.from_pylist(columns, schema=schema), path)
    return str(path)


def products(num_rows: int, **same: Any) -> list[Row]:
    """Make rows of a small catalogue: ``sku``, ``prompt`` and ``brand``."""
    return [
        {"sku": f"sku-{i:03d}", "prompt": f"a red apple number {i}", "brand": f"brand {i % 3}", **same}
        for i in range(num_rows)
    ]


@dataclass(slots=True, kw_only=True)
class DataSet:
    """One data set's folder, and the options it is made with."""

    folder: Path
    uri: str = ""
    storage: StorageOptions = field(default_factory=StorageOptions)
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(fake=True))
    output: Storage = field(init=False)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.uri = self.uri or str(self.folder / "out")
        self.output = open_storage(self.uri, self.storage)

    def table(self, rows: Sequence[Mapping[str, Any]], name: str = "in.jsonl") -> str:
        return write_table(self.folder / name, rows)

    def options(self, table: Table, **changes: Any) -> GenerateOptions:
        path = table if isinstance(table, str) else self.table(table)
        base = {"input": path, "output": self.uri, "engine": self.engine, "storage": self.storage}
        return GenerateOptions(**(base | changes))

    def plan(self, table: Table, *, retried: Collection[str] | None = (), **changes: Any) -> Plan:
        options = self.options(table, **changes)
        spec = resolve_model(options.engine)
        previous = read_manifest(self.output)
        return write_plan(
            options,
            run_id=f"run-{next(self._numbers)}",
            spec=spec,
            weights_sha256=model_weights_sha256(options.engine, spec),
            output=self.output,
            finished=finished_units(self.output, retried_classes=retried),
            published=published_rows(self.output, previous) if options.append and previous else None,
        )

    def work(self, plan: Plan) -> list[Row]:
        """Read a plan's whole work table."""
        columns = work_schema(plan.passthrough).names
        return self._work_table(plan, columns).to_pylist() if plan.work_files else []

    def make(self, plan: Plan, *, rows_per_part: int = 4, fails: Fails = lambda row: None) -> list[PartFile]:
        """Write parts for what is to do, as the write stage does."""
        work = self._work_table(plan, [field.name for field in WORK_FIELDS])
        todo = [row for row in work.to_pylist() if row["todo"]]
        parts = []
        for start in range(0, len(todo), rows_per_part):
            rows = todo[start : start + rows_per_part]
            failed = [failed_row(row, reason) for row in rows if (reason := fails(row))]
            if failed:
                write_part(self.output, ERRORS_FOLDER, pa.Table.from_pylist(failed, schema=ERROR_SCHEMA))
            made = [row for row in rows if not fails(row)]
            if made:
                parts.append(self.write_rows(made, plan))
        return parts

    def write_rows(self, rows: Sequence[Row], plan: Plan) -> PartFile:
        """Write work rows as one part; what a row lacks comes from the plan, as Python may not hold it."""
        names = [name for name in plan.passthrough.names if name not in rows[0]]
        passthrough = self._work_table(plan, ["unit_id", *names])
        places = {unit: place for place, unit in enumerate(passthrough["unit_id"].to_pylist())}
        if names:
            passthrough = passthrough.take([places[row["unit_id"]] for row in rows])
        made = [made_row(row) for row in rows]
        schema = part_schema(plan.passthrough)
        arrays = [
            passthrough[field.name]
            if field.name in names
            else pa.array([row[field.name] for row in made], field.type)
            for field in schema
        ]
        return write_part(self.output, STAGING_FOLDER, pa.Table.from_arrays(arrays, schema=schema))

    def _work_table(self, plan: Plan, columns: Sequence[str]) -> pa.Table:
        return read_work(self.output, plan.work_files, list(columns))

    def publish(self, plan: Plan, **changes: Any) -> RunManifest:
        options = self.options("in", **changes)
        spec = resolve_model(options.engine)
        weights_sha256 = model_weights_sha256(options.engine, spec)
        manifest = publish(
            plan, options, output=self.output, spec=spec, weights_sha256=weights_sha256, speed=RunSpeed()
        )
        settle(self.output, options.exports)
        return manifest

    def generate(self, table: Table, **changes: Any) -> RunManifest:
        """Plan, make and publish."""
        plan = self.plan(table, **changes)
        self.make(plan)
        return self.publish(plan, **changes)

    def published(self) -> list[Row]:
        """Read the rows that are the data set now, in order of key and variant."""
        manifest = self.manifest()
        places = PartPlaces(self.output)
        rows = [row for part in manifest.parts for row in places.read(part.path).to_pylist()]
        return sorted(rows, key=lambda row: (row["key"], row["variant"]))

    def errors(self) -> list[Row]:
        """Read the rows that are recorded as not made now, as the manifest lists them."""
        places = PartPlaces(self.output, ERROR_PARTS)
        return [row for part in self.manifest().error_parts for row in places.read(part.path).to_pylist()]

    def manifest(self) -> RunManifest:
        manifest = read_manifest(self.output)
        assert manifest is not None
        return manifest

    def verify(self) -> VerifyReport:
        return verify(self.output, self.manifest())


def made_row(work: Row) -> Row:
    """Give a work row an image: one colour, by its unit."""
    colour = np.frombuffer(bytes.fromhex(work["unit_id"][:6]), dtype=np.uint8)
    pixels = np.broadcast_to(colour, (work["height"], work["width"], 3))
    data = encode_image(np.ascontiguousarray(pixels), Encoding(), parameters={"seed": work["seed"]})
    return {
        **work,
        "image": {"bytes": data, "path": work["file_name"]},
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "prompt_truncated": False,
        "model": "tiny-zimage-turbo",
        "weights_sha256": "fake",
    }


def failed_row(work: Row, error_class: str) -> Row:
    names = ("unit_id", "key", "variant", "row", "prompt")
    error = {"error_class": error_class, "message": f"{error_class} for a test", "attempts": 1}
    return {name: work[name] for name in names} | error
